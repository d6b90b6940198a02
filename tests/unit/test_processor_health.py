"""The processor's health port: it answers from the first moment on, and says what the program waits for."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from keymill.config import ProcessorSettings, load
from keymill.http.server import listen, url_of
from streams import health
from streams.health import Health

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(url: str) -> tuple[int, str]:
    """Status and detail of an answer."""
    try:
        with DIRECT.open(url, timeout=5) as answer:
            return answer.status, json.load(answer)["status"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["detail"]


@pytest.fixture
def served() -> Iterator[tuple[Health, str]]:
    settings = load(ProcessorSettings, environ={})
    with listen("127.0.0.1", 0) as bound, Health(settings, bound) as port:
        yield port, url_of(bound, settings)


def test_it_answers_before_anything_else_runs(served):
    """Alive from the start; not ready, with the reason, until nothing is waited for."""
    port, url = served
    assert ask(f"{url}/healthz") == (200, "ok")
    assert ask(f"{url}/readyz") == (503, "the program is starting")
    port.waits_for = "the view is catching up, 7 records behind"
    assert ask(f"{url}/readyz") == (503, "the view is catching up, 7 records behind")
    port.waits_for = None
    assert ask(f"{url}/readyz") == (200, "ready")


def test_a_program_that_stops_is_not_ready(served):
    """From the signal on, whatever else is well."""
    port, url = served
    port.waits_for = None
    port.stopping()
    assert ask(f"{url}/readyz") == (503, "the program is stopping")
    assert ask(f"{url}/healthz") == (200, "ok")


def test_an_event_loop_that_hangs_is_not_ready(served, monkeypatch):
    """It was heard of once, and then not for too long; before its first beat the start says what is missing."""
    port, url = served
    port.waits_for = None
    port.beat()
    assert ask(f"{url}/readyz") == (200, "ready")
    monkeypatch.setattr(health, "SILENT_S", -1.0)
    assert ask(f"{url}/readyz")[1].startswith("the event loop has not been heard of")
