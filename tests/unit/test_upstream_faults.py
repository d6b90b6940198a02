"""License servers that misbehave: what the player is told, what is asked again, and who suffers for it."""

import asyncio
import base64
import ipaddress
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from schemas.values import DrmSystem
from tests.license_server.licenses import challenge_of
from tests.proxy_rig import challenge
from tests.upstream_rig import Double, UpstreamRig, double_of, table

LABELS = ("SD", "HD", "AUDIO")


@pytest.fixture(scope="module")
def double() -> Iterator[Double]:
    """One license server for all; each test says how it behaves."""
    with double_of() as made:
        yield made


@pytest.fixture
def rig(tmp_path: Path, double: Double) -> Iterator[UpstreamRig]:
    """A proxy with a license server by default, an impatient one, and one of another kind."""
    tables = {
        "usual": table("widevine", double, default=True),
        "short": table("widevine", double, default=False, deadline_s=0.3, max_response_bytes=4096),
        "forward": table("forward", double, default=False),
    }
    made = UpstreamRig(tmp_path, tables)
    made.ingest("film", *LABELS, product_id="p")
    for name in tables:
        made.put_service(name, drm_system=DrmSystem.WIDEVINE, upstream=name)
    double.next()
    yield made
    made.close()


BAD = [
    ({"mode": "status", "status": 500, "body": "trace of the server"}, 502, "upstream_failed"),
    ({"mode": "status", "status": 400}, 403, "upstream_refused"),
    ({"mode": "status", "status": 403, "body": "device revoked"}, 403, "upstream_refused"),
    ({"mode": "status", "status": 401}, 502, "upstream_failed"),
    ({"mode": "status", "status": 404}, 502, "upstream_failed"),
    ({"mode": "status", "status": 204, "body": ""}, 502, "upstream_failed"),
    ({"mode": "status", "status": 201}, 502, "upstream_failed"),
    ({"mode": "status", "status": 429}, 503, "upstream_unavailable"),
    ({"mode": "redirect", "location": "/widevine"}, 502, "upstream_failed"),
    ({"mode": "huge", "bytes": 300_000}, 502, "upstream_failed"),
    ({"mode": "compressed"}, 502, "upstream_failed"),
    ({"mode": "truncated"}, 502, "upstream_failed"),
    ({"mode": "no_http"}, 502, "upstream_failed"),
    ({"mode": "reset"}, 502, "upstream_failed"),
    ({"mode": "body", "body": ""}, 502, "upstream_failed"),
]
"""Misbehaviour, and what the player is told."""


@pytest.mark.parametrize(("misbehaviour", "status", "code"), BAD, ids=lambda each: str(each)[:40])
@pytest.mark.parametrize("kind", ["widevine", "forward"])
def test_misbehaviour_has_its_status_and_is_not_asked_again(
    tmp_path: Path, double: Double, kind: str, misbehaviour: dict[str, Any], status: int, code: str
) -> None:
    """One request whose bytes were sent is one request; what the server said stays with it."""
    rig = UpstreamRig(tmp_path, {"only": table(kind, double)})
    double.next(misbehaviour)
    try:
        rig.ingest("film", *LABELS)
        response = rig.ask(challenge_of())
        assert (status, code) == (response.status_code, response.json()["code"]), response.text
        assert ("retry-after" in response.headers) == (status >= 500)
        assert "trace" not in response.text and "revoked" not in response.text
        assert 1 == len(double.requests())
        assert 200 == rig.ask(challenge_of()).status_code
    finally:
        rig.close()


@pytest.mark.parametrize(
    "body", ["<html>", "[]", '{"status": "OK"}', '{"status": "OK", "license": "*"}', '{"status": "NEW_AND_UNKNOWN<"}']
)
def test_an_answer_that_widevine_does_not_give_is_502(rig: UpstreamRig, double: Double, body: str) -> None:
    """Not JSON, no license, no base64, no status."""
    double.next({"mode": "body", "body": body})
    response = rig.ask(challenge_of())
    assert (502, "upstream_failed") == (response.status_code, response.json()["code"])
    assert "UNKNOWN<" not in response.text


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_passing_failure_is_asked_again(rig: UpstreamRig, double: Double, status: int) -> None:
    """Twice at most, with the same bytes, since the server said that it did nothing."""
    bad = {"mode": "status", "status": status}
    challenge = challenge_of()
    double.next(bad, bad)
    made = rig.ask(challenge)
    assert 200 == made.status_code
    assert [challenge] * 3 == [base64.b64decode(seen["challenge"]) for seen in double.requests()]
    double.next(bad, bad, bad)
    expected = {502: "upstream_failed", 503: "upstream_unavailable", 504: "upstream_timeout"}
    response = rig.ask(challenge)
    assert (status, expected[status]) == (response.status_code, response.json()["code"])
    assert 3 == len(double.requests())


@pytest.mark.parametrize("misbehaviour", [{"mode": "slow", "seconds": 2}, {"mode": "trickle", "seconds": 0.05}])
def test_a_deadline_is_kept(rig: UpstreamRig, double: Double, misbehaviour: dict[str, Any]) -> None:
    """However slowly the server answers; the request is not sent again."""
    double.next(misbehaviour)
    begun = time.monotonic()
    response = rig.ask_service(challenge_of(), rig.kid("film"), "short")
    assert (500, 1007) == (response.status_code, response.json()["errorCode"])
    assert 0.3 <= time.monotonic() - begun < 1.5
    assert 1 == len(double.requests())


def test_a_deadline_is_504_where_the_dialect_knows_it(tmp_path: Path, double: Double) -> None:
    """With Retry-After."""
    rig = UpstreamRig(tmp_path, {"only": table("forward", double, deadline_s=0.2)})
    double.next({"mode": "slow", "seconds": 1})
    try:
        rig.ingest("film", *LABELS)
        response = rig.ask(challenge_of())
        assert (504, "upstream_timeout") == (response.status_code, response.json()["code"])
        assert "1" == response.headers["retry-after"]
    finally:
        rig.close()


def test_an_answer_within_the_limit_is_read(rig: UpstreamRig, double: Double) -> None:
    """The limit is the table's: a large license passes where it may, and not where it may not."""
    double.next({"mode": "body", "body": json.dumps({"status": "OK", "license": "A" * 100_000})})
    assert 75_000 == len(rig.ask(challenge_of()).content)
    double.next({"mode": "body", "body": json.dumps({"status": "OK", "license": "A" * 5_000})})
    assert 500 == rig.ask_service(challenge_of(), rig.kid("film"), "short").status_code


def test_an_unreachable_server_is_503_after_three_attempts(tmp_path: Path) -> None:
    """Nothing was sent, so it is tried again; then players are told to come back."""
    with double_of() as gone:
        rig = UpstreamRig(tmp_path, {"only": table("widevine", gone)})
    try:
        rig.ingest("film", *LABELS)
        begun = time.monotonic()
        response = rig.ask(challenge_of())
        assert (503, "upstream_unavailable") == (response.status_code, response.json()["code"])
        assert 0.25 <= time.monotonic() - begun < 2
    finally:
        rig.close()


def test_a_server_that_comes_back_is_asked_again(tmp_path: Path, double: Double) -> None:
    """The breaker opens after five failures in a row, refuses at once, lets one probe, and closes."""
    rig = UpstreamRig(tmp_path, {"only": table("forward", double)})
    reset = {"mode": "reset"}
    double.next(*[reset] * 5)
    try:
        rig.ingest("film", *LABELS)
        assert [502] * 5 == [rig.ask(challenge_of()).status_code for _ in range(5)]
        begun = time.monotonic()
        held = rig.ask(challenge_of())
        assert (503, "upstream_unavailable") == (held.status_code, held.json()["code"])
        assert "1" == held.headers["retry-after"]
        assert time.monotonic() - begun < 0.2
        assert 5 == len(double.requests())
        assert 'keymill_upstream_circuit_open{upstream="only"} 1.0' in metrics(rig)
        time.sleep(1.05)
        probes = rig.ask_all(*[challenge_of() for _ in range(5)])
        assert [200, 503, 503, 503, 503] == sorted(response.status_code for response in probes)
        assert 200 == rig.ask(challenge_of()).status_code
        assert 'keymill_upstream_circuit_open{upstream="only"} 0.0' in metrics(rig)
        assert 'keymill_upstream_requests_total{outcome="held_back",upstream="only"}' in metrics(rig)
    finally:
        rig.close()


@pytest.mark.parametrize("status", [500, 403, 404, 429, 307])
def test_refusals_never_open_the_breaker(tmp_path: Path, double: Double, status: int) -> None:
    """Nor does a 500, with which PlayReady's servers refuse: one player could cut off all others."""
    rig = UpstreamRig(tmp_path, {"only": table("forward", double, "playready")})
    double.next(*[{"mode": "status", "status": status}] * 8)
    try:
        rig.ingest("film", *LABELS)
        for _ in range(8):
            assert 200 != rig.ask(challenge_of(), "playready").status_code
        assert 200 == rig.ask(challenge_of(), "playready").status_code
    finally:
        rig.close()


def test_a_breaker_that_stays_open_says_for_how_long(tmp_path: Path) -> None:
    """Retry-After grows with the pauses."""
    with double_of() as gone:
        tables = {"only": table("forward", gone, deadline_s=0.2)}
    rig = UpstreamRig(tmp_path, tables)
    try:
        rig.ingest("film", *LABELS)
        for _ in range(6):
            rig.ask(challenge_of())
        time.sleep(1.05)
        assert {"1", "2"} == {rig.ask(challenge_of()).headers["retry-after"] for _ in range(2)}
    finally:
        rig.close()


def test_one_failing_server_leaves_the_others_alone(rig: UpstreamRig, double: Double) -> None:
    """Each has a breaker of its own."""
    double.next(*[{"mode": "reset"}] * 5)
    for _ in range(5):
        rig.ask(challenge_of())
    assert 503 == rig.ask(challenge_of()).status_code
    assert 200 == rig.ask_service(challenge_of(), rig.kid("film"), "forward").status_code


def test_connections_are_kept_and_shared(rig: UpstreamRig, double: Double) -> None:
    """Twenty licenses one after the other need one connection; at once no more than the table allows."""
    rig.ask(challenge_of())
    before = double.connections()
    for _ in range(20):
        assert 200 == rig.ask(challenge_of()).status_code
    assert before == double.connections()


def test_connections_are_limited(tmp_path: Path, double: Double) -> None:
    """The rest wait for their turn, within their deadline."""
    rig = UpstreamRig(tmp_path, {"only": table("forward", double, max_connections=3)})
    double.next(*[{"mode": "slow", "seconds": 0.05}] * 20)
    try:
        rig.ingest("film", *LABELS)
        before = double.connections()
        answers = rig.ask_all(*[challenge_of() for _ in range(20)])
        assert [200] * 20 == [response.status_code for response in answers]
        assert double.connections() - before <= 3
    finally:
        rig.close()


def test_slow_servers_do_not_hold_up_clearkey(rig: UpstreamRig, double: Double) -> None:
    """The event loop goes on: a ClearKey license takes its milliseconds while forty requests wait elsewhere."""
    double.next(*[{"mode": "slow", "seconds": 0.5}] * 40)
    path, query = "/api/v1/demo/assets/film/drm_license", {"access_token": rig.token("film")}

    async def both() -> float:
        waiting = [asyncio.create_task(rig.send(path, challenge_of(), **query)) for _ in range(40)]
        await asyncio.sleep(0.1)
        begun = time.monotonic()
        served = await rig.send("/clearkey/demo/film", challenge(rig.kid("film")), token=query["access_token"])
        took_s = time.monotonic() - begun
        assert 200 == served.status_code
        assert not any(task.done() for task in waiting)
        assert {200} == {response.status_code for response in await asyncio.gather(*waiting)}
        return took_s

    assert rig.runner.run(both()) < 0.2


def metrics(rig: UpstreamRig) -> str:
    """The worker's metrics as text."""
    return rig.request("GET", "/metrics").text


def test_tls_is_verified(tmp_path: Path) -> None:
    """A certificate that nobody known vouches for, or of another host, is no license server; nothing is sent."""
    right, wrong = (
        self_signed(tmp_path / name, host) for name, host in (("a.pem", "127.0.0.1"), ("b.pem", "127.0.0.2"))
    )
    with double_of(cert=right) as known, double_of(cert=wrong) as other:
        tables = {
            "vouched": table("widevine", known, default=True),
            "unknown": table("widevine", known, default=False) | {"ca_file": None},
            "misplaced": table("widevine", other, default=False),
        }
        rig = UpstreamRig(tmp_path, tables)
        try:
            rig.ingest("film", *LABELS, product_id="p")
            for name in tables:
                rig.put_service(name, drm_system=DrmSystem.WIDEVINE, upstream=name)
            assert 200 == rig.ask(challenge_of()).status_code
            for name in ("unknown", "misplaced"):
                response = rig.ask_service(challenge_of(), rig.kid("film"), name)
                assert (500, 1007) == (response.status_code, response.json()["errorCode"])
            assert 1 == len(known.requests())
            assert [] == other.requests()
        finally:
            rig.close()


def self_signed(file: Path, host: str) -> Path:
    """Certificate and key of a server at an address, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "double")])
    today = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(pem + made.public_bytes(Encoding.PEM))
    return file
