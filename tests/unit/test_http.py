"""The HTTP plumbing, over a real server in a process of its own."""

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from keymill.config import GatewaySettings, load
from keymill.errors import Misconfigured
from keymill.http.server import listen
from keymill.http.trailing_slash import routed
from tests.certificates import self_signed

PROGRAM = """
import asyncio, sys
from contextlib import asynccontextmanager
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from keymill import telemetry
from keymill.config import GatewaySettings, load
from keymill.errors import Conflict, Misconfigured, Unavailable
from keymill.http.health import Readiness, health_routes
from keymill.http.problems import HANDLERS
from keymill.core.cors import OPEN
from keymill.http.server import dress, listen, serve

telemetry.configure("test")
async def conflict(request): raise Conflict("the other came first", field="salt")
async def away(request): raise Unavailable("no broker", retry_after_s=7)
async def broken(request): raise RuntimeError("sesame 00112233")
async def slow(request):
    await asyncio.sleep(1)
    return PlainTextResponse(telemetry.request_id.get())
@asynccontextmanager
async def span(app):
    if "misconfigured" in sys.argv: raise Misconfigured("the topic drifted")
    yield
ready = Readiness()
app = Starlette(lifespan=span, exception_handlers=HANDLERS, routes=[*health_routes(ready),
    Route("/conflict", conflict), Route("/away", away), Route("/broken", broken), Route("/slow/{name}", slow)])
settings = load(GatewaySettings)
try:
    dressed = dress(app, program="test", cors=OPEN)
    code = serve(dressed, settings=settings, bound=listen("127.0.0.1", 0), readiness=ready)
except Misconfigured as error:
    print(f"said: {error}", flush=True)
    code = 78
sys.exit(code)
"""


def start(*arguments: str, **settings: str) -> subprocess.Popen[str]:
    """The program above, as a process with these settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KEYMILL_")} | settings
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """The process, and a client of it."""
    process = start()
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["listening"]
    with httpx.Client(base_url=url) as client:
        yield process, client
    process.kill()
    process.communicate()


def test_our_error_is_a_problem_document(server: tuple[subprocess.Popen[str], httpx.Client]) -> None:
    """Code, status, detail, field and request id stand in an RFC 9457 document, with CORS headers."""
    answer = server[1].get("/conflict", headers={"x-request-id": "abc-1"})
    expected = {
        "type": "urn:keymill:problem:conflict",
        "title": "Conflict",
        "status": 409,
        "code": "conflict",
        "detail": "the other came first",
        "request_id": "abc-1",
        "field": "salt",
    }
    assert answer.json() == expected
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["x-request-id"] == "abc-1"


def test_retryable_error_says_when(server: tuple[subprocess.Popen[str], httpx.Client]) -> None:
    """What may succeed later is 503 with Retry-After."""
    answer = server[1].get("/away")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")


def test_unknown_error_tells_nothing(server: tuple[subprocess.Popen[str], httpx.Client]) -> None:
    """An unexpected error is a 500 without its text, still with CORS and a request id."""
    answer = server[1].get("/broken", headers={"x-request-id": "bad id\t" + "x" * 200})
    assert answer.status_code == 500 and answer.json()["code"] == "internal"
    assert "sesame" not in answer.text and "Traceback" not in answer.text
    assert answer.headers["access-control-allow-origin"] == "*" and len(answer.headers["x-request-id"]) == 32


def test_unknown_route_and_preflight(server: tuple[subprocess.Popen[str], httpx.Client]) -> None:
    """A missing route is a problem document too; a preflight names the authorization header."""
    missing = server[1].get("/nowhere")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    preflight = server[1].options("/conflict")
    assert preflight.status_code == 204 and "authorization" in preflight.headers["access-control-allow-headers"]


def test_health_and_metrics(server: tuple[subprocess.Popen[str], httpx.Client]) -> None:
    """Healthy, ready, and counted by route template."""
    assert server[1].get("/healthz").json() == {"status": "ok"}
    assert server[1].get("/readyz").json() == {"status": "ready"}
    server[1].get("/slow/anna")
    metrics = server[1].get("/metrics").text
    assert 'route="/slow/{name}"' in metrics and "anna" not in metrics


def test_sigterm_finishes_requests_and_exits_zero(server: tuple[subprocess.Popen[str], httpx.Client]) -> None:
    """A request at hand is answered after SIGTERM, new ones are not taken, the exit code is 0."""
    process, client = server
    answers: list[str] = []
    url = f"{client.base_url}/slow/x"
    thread = threading.Thread(target=lambda: answers.append(httpx.get(url, headers={"x-request-id": "last"}).text))
    thread.start()
    time.sleep(0.5)  # the handler takes 1 s
    process.send_signal(signal.SIGTERM)
    thread.join(10)
    assert answers == ["last"]
    assert process.wait(10) == 0


def test_misconfigured_life_span_reaches_the_program() -> None:
    """What the life span raises is the program's to say, without a stack trace."""
    process = start("misconfigured")
    out, err = process.communicate(timeout=20)
    assert (out, process.returncode) == ("said: the topic drifted\n", 78)
    assert "Traceback" not in err


def test_taken_port_is_named() -> None:
    """A port that is taken is an error that says so."""
    first = listen("127.0.0.1", 0)
    with pytest.raises(Misconfigured, match=str(first.getsockname()[1])):
        listen("127.0.0.1", first.getsockname()[1])
    first.close()


def test_clear_text_beyond_loopback_is_refused() -> None:
    """Beyond loopback there is TLS, or a proxy that has it."""
    with pytest.raises(Misconfigured, match="tls"):
        load(GatewaySettings, environ={}, host="0.0.0.0").require_tls()
    load(GatewaySettings, environ={}, host="0.0.0.0", behind_tls_proxy=True).require_tls()


def test_tls(tmp_path: Path) -> None:
    """With a certificate the server says https and speaks it; a file that is none stops it with a message."""
    certificate, key = self_signed(tmp_path)
    process = start(KEYMILL_TLS_CERT=str(certificate), KEYMILL_TLS_KEY=str(key))
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["listening"]
    trusted = ssl.create_default_context(cafile=str(certificate))
    assert url.startswith("https://") and httpx.get(f"{url}/healthz", verify=trusted).status_code == 200
    process.terminate()
    assert process.wait(10) == 0
    process.communicate()
    key.write_text("nonsense")
    out, err = start(KEYMILL_TLS_CERT=str(certificate), KEYMILL_TLS_KEY=str(key)).communicate(timeout=20)
    assert out.startswith("said: tls_cert or tls_key") and "Traceback" not in err


@pytest.mark.parametrize(
    ("path", "raw", "expected"),
    [
        ("/a/b/", b"/a/b/", "/a/b"),
        ("/a/b", b"/a/b", "/a/b"),
        ("/", b"/", "/"),
        ("/a/b/", b"/a/b%2F", "/a/b/"),
        ("/a//", b"/a//", "/a//"),
        ("/a/", None, "/a"),
    ],
)
def test_one_slash_at_the_end_means_nothing(path: str, raw: bytes | None, expected: str) -> None:
    """One that was sent escaped belongs to the last part."""
    assert expected == routed(path, raw)
