"""The proxy flow's endpoints over real license servers, a process each kind of which behaves like the vendors'."""

import base64
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.license_server.licenses import challenge_of, read_license
from tests.license_server.protocols import CERTIFICATE, CERTIFICATE_REQUEST, SESSION_SECRET
from tests.upstream_rig import Double, UpstreamRig, double_of, table

WAYS = [("widevine", "widevine")] + [
    (system, kind) for system in ("widevine", "playready", "fairplay") for kind in ("entitlement", "forward")
]
LABELS = ("SD", "HD", "AUDIO")


@pytest.fixture(scope="module")
def double() -> Iterator[Double]:
    """One license server for all."""
    with double_of() as made:
        yield made


@pytest.fixture(scope="module")
def rigs(double: Double, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, UpstreamRig]]:
    """A proxy per kind; the kind `widevine` serves Widevine alone."""
    made = {}
    for kind in ("widevine", "entitlement", "forward"):
        systems = [system for system, each in WAYS if each == kind]
        tables = {f"{system}-{kind}": table(kind, double, system) for system in systems}
        made[kind] = UpstreamRig(tmp_path_factory.mktemp(kind), tables, missing_wait_ms=0)
        made[kind].ingest("film", *LABELS, "HLS_AES128")
    yield made
    for rig in made.values():
        rig.close()


@pytest.fixture(autouse=True)
def in_contact(rigs: dict[str, UpstreamRig], double: Double) -> None:
    """The proxies have heard from their brokers, and the license server has forgotten what came before."""
    for rig in rigs.values():
        rig.beat()
    double.next()


def ask(rig: UpstreamRig, route: str, system: str, body: bytes, **claims: Any) -> httpx.Response:
    """One request on the dedicated endpoint or on the single one."""
    path, query = {
        "dedicated": (f"/{system}/demo/film", {}),
        "single": ("/license", {"drm": system, "asset": "film"}),
    }[route]
    return rig.request("POST", path, params={**query, "token": rig.token("film", **claims)}, content=body)


@pytest.mark.parametrize("route", ["dedicated", "single"])
@pytest.mark.parametrize(("system", "kind"), WAYS)
def test_challenge_and_license_are_what_they_were(
    rigs: dict[str, UpstreamRig], double: Double, route: str, system: str, kind: str
) -> None:
    """Every DRM system over every kind: the challenge arrives byte for byte, the license comes back byte for byte."""
    rig = rigs[kind]
    challenge = challenge_of(*(rig.kid("film", label) for label in LABELS))
    answer = ask(rig, route, system, challenge)
    (seen,) = double.requests()
    assert (200, seen["license"]) == (answer.status_code, hashlib.sha256(answer.content).hexdigest())
    assert challenge == base64.b64decode(seen["challenge"])
    assert hashlib.sha256(challenge).hexdigest() == read_license(answer.content)["challenge"]
    if kind != "forward":  # which has the keys itself
        assert {rig.kid("film", label).hex(): label for label in LABELS} == {
            kid: label.split("-")[-1] for kid, label in seen["labels"].items()
        }


@pytest.mark.parametrize("route", ["dedicated", "single"])
@pytest.mark.parametrize("kind", ["widevine", "entitlement", "forward"])
def test_a_player_begins_with_the_certificate(
    rigs: dict[str, UpstreamRig], double: Double, route: str, kind: str
) -> None:
    """Its two requests with one single-use token: the certificate, then a license; a second license is refused."""
    claims = {"jti": f"{route}-{kind}"}
    answer = ask(rigs[kind], route, "widevine", CERTIFICATE_REQUEST, **claims)
    assert (200, CERTIFICATE) == (answer.status_code, answer.content)
    assert [CERTIFICATE_REQUEST] == [base64.b64decode(seen["challenge"]) for seen in double.requests()]
    assert [200, 401] == [ask(rigs[kind], route, "widevine", challenge_of(), **claims).status_code for _ in range(2)]


def send(rig: UpstreamRig, message: dict[str, Any], *, server_side: bool = False) -> httpx.Response:
    """A message of the Azure document."""
    body = json.dumps({"payload": base64.b64encode(challenge_of()).decode()} | message)
    query = {"token": rig.token("film", server_side=server_side or None)}
    headers = {"content-type": "application/json"}
    return rig.request("POST", "/widevine/demo/film", params=query, content=body, headers=headers)


def test_a_servers_message_reaches_the_license_server(rigs: dict[str, UpstreamRig], double: Double) -> None:
    """Overrides, specs and session data as it said them, the keys the stored ones; a player's reach only tighter."""
    rig = rigs["widevine"]
    hd = base64.b64encode(rig.clear[rig.kid("film", "HD")]).decode()
    specs = [{"track_type": "SD"}, {"track_type": "HD", "security_level": 3, "key": hd}, {"track_type": "AUDIO"}]
    token = base64.b64encode(b"client token").decode()
    said = {
        "policy_overrides": {"can_play": True, "can_persist": True, "license_duration_seconds": 3600},
        "content_key_specs": specs,
        "session_init": {"provider_client_token": token, "override_provider_client_token": True},
    }
    assert 200 == send(rig, said, server_side=True).status_code
    del specs[1]["key"]
    assert 200 == send(rig, said).status_code
    mine, players = [seen["message"] for seen in double.requests()]
    assert said["policy_overrides"].items() <= mine["policy_overrides"].items()
    assert said["session_init"] == mine["session_init"]
    assert (3600, False) == (
        players["policy_overrides"]["license_duration_seconds"],
        players["policy_overrides"].get("can_persist", False),
    )
    assert "session_init" not in players
    for message in (mine, players):
        assert {"SD": None, "HD": 3, "AUDIO": None} == {
            spec["track_type"]: spec.get("security_level") for spec in message["content_key_specs"]
        }


def test_parse_only_tells_values_and_no_secret(rigs: dict[str, UpstreamRig], double: Double) -> None:
    """200 with what the license server read; no key was sent, and nothing secret comes back."""
    answer = send(rigs["widevine"], {"parse_only": True})
    assert (200, "application/json") == (answer.status_code, answer.headers["content-type"])
    assert {"make", "model", "security_level", "client_info"} <= answer.json().keys()
    assert not {"license", "session_state"} & answer.json().keys()
    assert SESSION_SECRET not in answer.text
    (seen,) = double.requests()
    assert ({}, True) == (seen["fingerprints"], seen["message"]["parse_only"])
    for kind in ("entitlement", "forward"):
        refused = send(rigs[kind], {"parse_only": True})
        assert (400, "malformed_request") == (refused.status_code, refused.json()["code"])
