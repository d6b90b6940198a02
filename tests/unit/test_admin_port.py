"""The admin port: what callers may not reach by default, and who is taken for a client."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp

from keymill.config import GatewaySettings, ProxySettings, UpSettings, load
from keymill.errors import Misconfigured
from keymill.gateway.app import application as gateway_application
from keymill.gateway.asking import Asking, client
from keymill.http.admin import listen_admin, port_of
from keymill.http.health import Readiness
from keymill.http.server import listen
from keymill.kms.keyfile import create_key_file
from keymill.ops.plan import children_of, own_port
from keymill.proxy.app import application as proxy_application
from tests.proxy_rig import ProxyRig

ADMIN = ("/metrics", "/docs", "/openapi.json")
PROBES = ("/healthz", "/readyz")
MAIN_PORT, ADMIN_PORT = 8081, 9081


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyRig]:
    """What a worker holds open."""
    made = ProxyRig(tmp_path_factory.mktemp("ports"))
    yield made
    made.close()


class Told:
    """As much of the gateway's service as its routes need before a request comes."""

    def __init__(self) -> None:
        self.settings = load(GatewaySettings, environ={})
        self.readiness = Readiness()

    def __getattr__(self, _name: str) -> Any:
        return None


def applications(rig: ProxyRig, admin_port: int | None) -> dict[str, ASGIApp]:
    """Both programs'."""
    told: Any = Told()
    return {
        "proxy": proxy_application(rig.life, main_port=MAIN_PORT, admin_port=admin_port),
        "gateway": gateway_application(told, told, main_port=MAIN_PORT, admin_port=admin_port),
    }


def ask(
    app: ASGIApp, url: str, *, method: str = "GET", peer: str = "127.0.0.1", forwarded: tuple[str, ...] = ()
) -> httpx.Response:
    """One request, over no network."""

    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(peer, 1))) as client:
            return await client.request(method, url, headers=[("x-forwarded-for", each) for each in forwarded])

    return asyncio.run(asked())


def statuses(app: ASGIApp, port: int) -> dict[str, int]:
    """What each endpoint answers there."""
    return {path: ask(app, f"http://127.0.0.1:{port}{path}").status_code for path in (*PROBES, *ADMIN)}


@pytest.mark.parametrize("program", ["proxy", "gateway"])
def test_metrics_and_documents_are_on_the_admin_port_alone(rig: ProxyRig, program: str) -> None:
    """Callers find the probes and no more; one setting puts everything on their port."""
    rig.beat()
    split, together = applications(rig, ADMIN_PORT)[program], applications(rig, None)[program]
    everything = dict.fromkeys((*PROBES, *ADMIN), 200)
    assert dict.fromkeys(PROBES, 200) | dict.fromkeys(ADMIN, 404) == statuses(split, MAIN_PORT)
    assert everything == statuses(split, ADMIN_PORT) == statuses(together, MAIN_PORT)


def test_no_license_is_given_at_the_admin_port(rig: ProxyRig) -> None:
    """Its address is one that players' rules are not written for."""
    app = applications(rig, ADMIN_PORT)["proxy"]
    assert 404 == ask(app, f"http://127.0.0.1:{ADMIN_PORT}/clearkey/demo/film", method="POST").status_code


def test_a_document_says_where_what_it_describes_is(rig: ProxyRig) -> None:
    """At the main port, by the name that the admin port was asked under; nothing where it is the same."""
    split, together = applications(rig, ADMIN_PORT)["proxy"], applications(rig, None)["proxy"]
    for host in ("127.0.0.1", "keys.example", "[::1]"):
        document = ask(split, f"http://{host}:{ADMIN_PORT}/openapi.json").json()
        assert [{"url": f"http://{host}:{MAIN_PORT}"}] == document["servers"]
    assert "servers" not in ask(together, "http://127.0.0.1/openapi.json").json()


def test_the_admin_port_is_another_one() -> None:
    """A request goes by its port's number, so the two may not be the same, at whatever addresses."""
    with listen("127.0.0.1", 0) as main:
        with pytest.raises(Misconfigured, match="another"):
            listen_admin(load(ProxySettings, environ={}, admin_host="127.0.0.2"), port_of(main), main)
        assert listen_admin(load(ProxySettings, environ={}, admin_on_main_port=True), 0, main) is None
        admin = listen_admin(load(ProxySettings, environ={}), 0, main)
        assert admin is not None and port_of(admin) != port_of(main)
        admin.close()


def test_the_admin_port_is_loopback_s_and_tls_is_wanted_beyond() -> None:
    """Whoever opens it beyond says how it is protected, as for the main one."""
    assert "127.0.0.1" == load(ProxySettings, environ={}, host="0.0.0.0").admin_host
    with pytest.raises(Misconfigured, match=r"0\.0\.0\.0"):
        load(GatewaySettings, environ={}, admin_host="0.0.0.0").require_tls()
    load(GatewaySettings, environ={}, admin_host="0.0.0.0", admin_on_main_port=True).require_tls()
    load(GatewaySettings, environ={}, admin_host="0.0.0.0", behind_tls_proxy=True).require_tls()


def test_a_proxy_s_workers_share_both_sockets(tmp_path: Path) -> None:
    """The program says both addresses, and any worker answers at either; nobody at the brokers' is needed."""
    create_key_file(tmp_path / "keys.json")
    settings = {"KEYMILL_DATA": str(tmp_path), "KEYMILL_BOOTSTRAP": "127.0.0.1:9", "KEYMILL_PROXY_PORT": "0"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KEYMILL_")} | settings
    command = [sys.executable, "-m", "keymill.ops.cli", "proxy", "--parent", str(os.getpid())]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert (
            200 == httpx.get(f"{told['admin']}/metrics").status_code == httpx.get(f"{told['admin']}/docs").status_code
        )
        assert 404 == httpx.get(f"{told['listening']}/metrics").status_code
        assert {200} == {httpx.get(f"{url}/healthz").status_code for url in told.values()}
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("8.8.8.8", ("1.1.1.1",), "8.8.8.8"),
        ("10.0.0.1", ("1.1.1.1",), "1.1.1.1"),
        ("10.0.0.1", ("9.9.9.9", "1.1.1.1"), "1.1.1.1"),
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("nobody",), ""),
    ],
)
def test_the_gateway_s_audit_believes_trusted_proxies_alone(
    peer: str, forwarded: tuple[str, ...], expected: str
) -> None:
    """X-Forwarded-For of whoever likes to send it is nothing to go by."""

    async def tell(scope: Any, receive: Any, send: Any) -> None:
        await answer(Request(scope))(scope, receive, send)

    def answer(_request: Request) -> Response:
        return PlainTextResponse(client.get())

    trusting = Asking(tell, trusted=("10.0.0.0/8",))
    assert expected == ask(trusting, "http://a/", peer=peer, forwarded=forwarded).text
    assert peer == ask(Asking(tell), "http://a/", peer=peer, forwarded=forwarded).text


def test_up_gives_every_program_an_admin_port() -> None:
    """Behind all ports that it gave before; a given one is taken."""
    settings = load(UpSettings, environ={}, port_base=9000, processors=2)
    children = children_of(settings, "127.0.0.1:9", None)
    admin = {name: children[name][0].environment[f"KEYMILL_{name.upper()}_ADMIN_PORT"] for name in ("gateway", "proxy")}
    assert ({"gateway": "9006", "proxy": "9007"}, 9008) == (admin, own_port(settings))
    given = load(UpSettings, environ={}, gateway_admin_port=1, proxy_admin_port=2, up_port=3)
    environments = [children_of(given, "127.0.0.1:9", None)[name][0].environment for name in ("gateway", "proxy")]
    told = [environments[0]["KEYMILL_GATEWAY_ADMIN_PORT"], environments[1]["KEYMILL_PROXY_ADMIN_PORT"]]
    assert (["1", "2"], 3, 0) == (told, own_port(given), own_port(load(UpSettings, environ={})))
