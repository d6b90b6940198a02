"""License servers of every kind, asked by a real proxy over a real view; the license server is a process of its own."""

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keymill.proxy.request import Answer, Reason, Refusal
from keymill.proxy.upstream.contract import Granted, Upstream
from schemas.policy import Hdcp, PlayReadyTerms, SessionInit, SrmRule, TrackTerms, WidevineRequest, WidevineTerms
from schemas.values import DrmSystem
from tests.granted import granted
from tests.license_server.licenses import Key, challenge_of, license_of, read_license
from tests.license_server.protocols import CERTIFICATE, CERTIFICATE_REQUEST, SESSION_SECRET
from tests.upstream_rig import LICENSE_KEY, Double, UpstreamRig, double_of, table

KINDS = {
    ("widevine", "widevine"), ("entitlement", "widevine"), ("entitlement", "playready"), ("entitlement", "fairplay"),
    ("forward", "widevine"), ("forward", "playready"), ("forward", "fairplay"),
}  # fmt: skip
LABELS = ("SD", "HD", "AUDIO")


@pytest.fixture(scope="module")
def double() -> Iterator[Double]:
    """One license server for all; each test says how it behaves."""
    with double_of(b"k" * 32) as made:
        yield made


@pytest.fixture
def rig(tmp_path: Path, double: Double) -> Iterator[UpstreamRig]:
    """A proxy with a license server of every kind and DRM system, found by service; Widevine's serves by default."""
    tables = {f"{kind}-{system}": table(kind, double, system, default=kind == "widevine") for kind, system in KINDS}
    tables["short"] = table("widevine", double, default=False, deadline_s=0.3, max_response_bytes=4096)
    made = UpstreamRig(tmp_path, tables)
    made.ingest("film", *LABELS, product_id="p")
    for name, each in tables.items():
        made.put_service(name, drm_system=DrmSystem(each["drm_system"]), upstream=name)
    double.next()
    yield made
    made.close()


def ask(rig: UpstreamRig, challenge: bytes, kind: str, system: str) -> bytes:
    """A license from the server of that kind."""
    response = rig.ask_service(challenge, rig.kid("film"), f"{kind}-{system}")
    assert 200 == response.status_code, response.text
    return response.content


def granted_keys(rig: UpstreamRig, *, iv: bool = False) -> list[Key]:
    """The film's keys, as the key topic has them."""
    keys = []
    for label in LABELS:
        kid = rig.kid("film", label)
        keys.append(Key(kid=kid, cek=rig.clear[kid], iv=rig.ivs[kid] if iv else b"", label=label))
    return keys


@pytest.mark.parametrize(("kind", "system"), sorted(KINDS))
def test_a_challenge_goes_through_and_the_license_comes_back(
    rig: UpstreamRig, double: Double, kind: str, system: str
) -> None:
    """Both byte for byte; the keys that the server decrypted are those of the key topic, FairPlay's with their IVs."""
    challenge = challenge_of()
    made = ask(rig, challenge, kind, system)
    (seen,) = double.requests()
    assert challenge == base64.b64decode(seen["challenge"])
    keys = [] if kind == "forward" else granted_keys(rig, iv=system == "fairplay")
    assert license_of(bytes.fromhex(LICENSE_KEY), system, challenge, keys) == made
    assert seen["license"] == hashlib.sha256(made).hexdigest()
    assert {key.kid.hex(): key.label for key in keys} == seen["labels"]


@pytest.mark.parametrize(("kind", "system"), sorted(KINDS))
def test_certificate_requests_are_passed_on_or_answered_from_the_settings(
    rig: UpstreamRig, double: Double, tmp_path: Path, kind: str, system: str
) -> None:
    """Widevine's alone; nobody is asked where the certificate is configured."""
    found = rig.life.means.upstreams.find("demo", DrmSystem(system), f"{kind}-{system}")
    assert found is not None
    outcome = rig.runner.run(certificate(found))
    if system == "widevine":
        assert isinstance(outcome, Answer) and CERTIFICATE == outcome.body
        (seen,) = double.requests()
        assert {} == seen["fingerprints"] and CERTIFICATE_REQUEST == base64.b64decode(seen["challenge"])
    else:
        assert isinstance(outcome, Refusal) and outcome.reason is Reason.MALFORMED
        assert [] == double.requests()


def test_a_configured_certificate_is_answered_without_asking(tmp_path: Path, double: Double) -> None:
    """As the file has it, for every kind."""
    file = tmp_path / "certificate.bin"
    file.write_bytes(bytes(range(256)) * 3)
    given = {"service_certificate_file": file, "default": False}
    tables = {kind: table(kind, double, **given) for kind in ("widevine", "entitlement", "forward")}
    rig = UpstreamRig(tmp_path, tables)
    double.next()
    try:
        for name in tables:
            found = rig.life.means.upstreams.find("demo", DrmSystem.WIDEVINE, name)
            assert found is not None
            outcome = rig.runner.run(certificate(found))
            assert Answer(body=file.read_bytes(), content_type="application/octet-stream") == outcome
    finally:
        rig.close()
    assert [] == double.requests()


async def certificate(upstream: Upstream) -> Answer | Refusal:
    """The answer to a service-certificate request."""
    return await upstream.certificate(CERTIFICATE_REQUEST)


# -- what the license server is told


def test_a_stored_policys_demands_arrive(rig: UpstreamRig, double: Double) -> None:
    """In the very next request, and no track that the policy withholds."""
    rig.put_policy(
        0, can_persist=True, rental_duration_s=7200, allowed_tracks=("SD", "AUDIO"),
        widevine=WidevineTerms(security_level=2, hdcp=Hdcp.HDCP_V1, hdcp_srm_rule=SrmRule.CURRENT_SRM),
        widevine_request=WidevineRequest(policy_name="gold"),
    )  # fmt: skip
    made = ask(rig, challenge_of(persistent=True), "widevine", "widevine")
    assert {rig.kid("film", label).hex() for label in ("SD", "AUDIO")} == set(read_license(made)["kids"])
    (seen,) = double.requests()
    message = seen["message"]
    assert ("gold", True, 7200) == (
        message["policy_name"],
        message["policy_overrides"]["can_persist"],
        message["policy_overrides"]["rental_duration_seconds"],
    )
    for spec in message["content_key_specs"]:
        assert (2, {"hdcp": "HDCP_V1", "hdcp_srm_rule": "CURRENT_SRM"}) == (
            spec["security_level"], spec["required_output_protection"]
        )  # fmt: skip


def test_an_entitlement_carries_the_policy(rig: UpstreamRig, double: Double) -> None:
    """License terms, and each track's demands under its label."""
    high = PlayReadyTerms(security_level=3000)
    rig.put_policy(
        0, can_persist=True, playback_duration_s=60, playready=PlayReadyTerms(security_level=2000),
        tracks=(TrackTerms(label="SD"), TrackTerms(label="AUDIO"), TrackTerms(label="HD", playready=high)),
    )  # fmt: skip
    ask(rig, challenge_of(), "entitlement", "playready")
    (seen,) = double.requests()
    message = seen["message"]["message"]
    assert True is message["license"]["allow_persistence"]
    assert {"playback_duration": 60, "real_time_expiration": True} == message["license"]["playready"]
    levels = {
        each["name"]: each["playready"]["min_device_security_level"] for each in message["content_key_usage_policies"]
    }
    assert {"SD": 2000, "AUDIO": 2000, "HD": 3000} == levels


def test_a_demand_that_cannot_be_said_is_no_license(rig: UpstreamRig, double: Double) -> None:
    """Never looser than the policy: the server is not asked."""
    rig.put_policy(0, widevine=WidevineTerms(hdcp_srm_rule=SrmRule.CURRENT_SRM))
    response = rig.ask_service(challenge_of(), rig.kid("film"), "entitlement-widevine")
    assert 403 == response.status_code and "hdcp_srm_rule" in response.text
    assert [] == double.requests()


def test_the_license_server_decides_about_devices(rig: UpstreamRig, double: Double) -> None:
    """A weak device gets the keys that it may have; none left, or a KID that is not granted, is a refusal."""
    low = TrackTerms(label="SD", widevine=WidevineTerms(security_level=1))
    tracks = (low, TrackTerms(label="HD"), TrackTerms(label="AUDIO"))
    rig.put_policy(0, widevine=WidevineTerms(security_level=3), tracks=tracks)
    made = ask(rig, challenge_of(level=1), "widevine", "widevine")
    assert [rig.kid("film", "SD").hex()] == read_license(made)["kids"]
    weak = challenge_of(rig.kid("film", "HD"), level=1)
    for kind in ("widevine", "entitlement"):
        assert 403 == rig.ask_service(weak, rig.kid("film"), f"{kind}-widevine").status_code
    stranger = challenge_of(b"?" * 16)
    assert 403 == rig.ask_service(stranger, rig.kid("film"), "entitlement-fairplay").status_code


@pytest.mark.parametrize(
    ("own", "told", "override", "wins"),
    [
        (None, None, None, None), (None, b"told", None, b"told"), (None, b"told", True, b"told"),
        (b"own", None, None, b"own"), (b"own", None, True, b"own"), (b"own", b"told", None, b"own"),
        (b"own", b"told", False, b"own"), (b"own", b"told", True, b"told"),
    ],
)  # fmt: skip
def test_the_client_token_follows_its_truth_table(
    rig: UpstreamRig, own: bytes | None, told: bytes | None, override: bool | None, wins: bytes | None
) -> None:
    """The device's own token goes first, unless the policy overrides it."""
    session = SessionInit(provider_client_token=told, override_provider_client_token=override)
    rig.put_policy(0, session_init=session)
    made = read_license(ask(rig, challenge_of(client_token=own), "widevine", "widevine"))
    assert (base64.b64encode(wins).decode() if wins else None) == made["client_token"]


def test_headers_are_those_of_the_settings_and_the_drm_system(rig: UpstreamRig, double: Double) -> None:
    """PlayReady's challenge is SOAP; nothing of the player's request goes along."""
    token = rig.token("film")
    for kind, system in sorted(KINDS - {("widevine", "widevine")}):
        double.next()
        ask(rig, challenge_of(), kind, system)
        (seen,) = double.requests()
        headers = seen["headers"]
        expected = "text/xml; charset=utf-8" if system == "playready" else "application/octet-stream"
        assert (expected, system == "playready") == (headers["content-type"], "soapaction" in headers)
        own = "x-axdrm-message" if kind == "entitlement" else "x-api-key"
        usual = {"host", "accept", "content-type", "content-length", "user-agent", "soapaction"}
        assert own in headers and set(headers) <= usual | {own}
        assert "keymill" == headers["user-agent"] and token not in str(headers)


def test_only_body_and_content_type_come_back(rig: UpstreamRig, double: Double) -> None:
    """No other header of the license server reaches the player."""
    double.next({"mode": "well", "headers": {"Set-Cookie": "a=b", "X-AxDRM-Message": "c", "Cache-Control": "public"}})
    response = rig.ask_service(challenge_of(), rig.kid("film"), "forward-playready")
    assert 200 == response.status_code
    assert not {"set-cookie", "x-axdrm-message", "x-double"} & set(response.headers)
    assert "no-store" == response.headers["cache-control"]


@pytest.mark.parametrize("kind", ["forward", "entitlement"])
def test_the_content_type_is_the_servers(rig: UpstreamRig, double: Double, kind: str) -> None:
    """PlayReady's is XML; one that is missing or no header's is octets."""
    system = DrmSystem.PLAYREADY
    found = rig.life.means.upstreams.find("demo", system, f"{kind}-playready")
    assert found is not None
    for given, expected in (
        ("text/xml; charset=utf-8", "text/xml; charset=utf-8"),
        ("", "application/octet-stream"),
        ("x" * 129, "application/octet-stream"),
    ):
        double.next({"mode": "body", "body": "<License/>", "content_type": given})
        outcome = rig.runner.run(license_from(found, granted(system=system)))
        assert Answer(body=b"<License/>", content_type=expected) == outcome


async def license_from(upstream: Upstream, asked: Granted) -> Answer | Refusal:
    """A license, without a request around it."""
    return await upstream.license(asked)


# -- who is asked


def test_license_servers_are_found_by_organization_system_and_name(rig: UpstreamRig) -> None:
    """Another organization, system or name finds none; ClearKey is the proxy's own."""
    find = rig.life.means.upstreams.find
    assert find("demo", DrmSystem.WIDEVINE) is find("demo", DrmSystem.WIDEVINE, "widevine-widevine")
    assert find("demo", DrmSystem.WIDEVINE, "short") is not None
    for organization, system, name in (
        ("other", DrmSystem.WIDEVINE, None),
        ("other", DrmSystem.WIDEVINE, "short"),
        ("demo", DrmSystem.PLAYREADY, None),
        ("demo", DrmSystem.PLAYREADY, "short"),
        ("demo", DrmSystem.WIDEVINE, "none"),
        ("demo", DrmSystem.CLEARKEY, "short"),
    ):
        assert find(organization, system, name) is None
    assert find("other", DrmSystem.CLEARKEY) is not None


def test_an_only_server_serves_unless_it_says_no(tmp_path: Path, double: Double) -> None:
    """`default = false` leaves it to services that name it."""
    tables = {"a": table("forward", double, "playready"), "b": table("forward", double, "fairplay", default=False)}
    rig = UpstreamRig(tmp_path, tables)
    try:
        find = rig.life.means.upstreams.find
        assert find("demo", DrmSystem.PLAYREADY) is find("demo", DrmSystem.PLAYREADY, "a") is not None
        assert find("demo", DrmSystem.FAIRPLAY) is None
        assert find("demo", DrmSystem.FAIRPLAY, "b") is not None
    finally:
        rig.close()


@pytest.mark.parametrize(
    ("kind", "wrong", "status"),
    [
        ("widevine", {"key_hex": "00" * 32}, 502),
        ("widevine", {"signer": "stranger"}, 502),
        ("entitlement", {"communication_key": base64.b64encode(b"x" * 32).decode()}, 403),
        ("forward", {"headers": {}}, 502),
    ],
)
def test_wrong_credentials_are_not_the_players_fault(
    tmp_path: Path, double: Double, kind: str, wrong: dict[str, Any], status: int
) -> None:
    """502 where the server says so; Axinom's 400 cannot be told from a bad challenge."""
    rig = UpstreamRig(tmp_path, {"only": table(kind, double, **wrong)})
    double.next()
    try:
        rig.ingest("film", *LABELS)
        assert status == rig.ask(challenge_of()).status_code
        assert "problem" in double.requests()[0]
    finally:
        rig.close()


def test_parse_only_shows_what_the_server_read(rig: UpstreamRig, double: Double) -> None:
    """JSON without keys, session state and license; the request carries no key. Other kinds cannot."""
    outcome = parse_only(rig, "widevine-widevine")
    assert isinstance(outcome, Answer) and "application/json" == outcome.content_type
    shown = json.loads(outcome.body)
    assert ("double", 5, "HDCP_V2_2") == (shown["model"], shown["security_level"], shown["client_max_hdcp_version"])
    assert {"type", "key_id"} == set(shown["supported_tracks"][0])
    assert SESSION_SECRET.encode() not in outcome.body and not {"license", "session_state"} & set(shown)
    (seen,) = double.requests()
    assert {} == seen["fingerprints"] and True is seen["message"]["parse_only"]
    for other in ("entitlement-widevine", "forward-widevine"):
        outcome = parse_only(rig, other)
        assert isinstance(outcome, Refusal) and outcome.reason is Reason.MALFORMED


def parse_only(rig: UpstreamRig, name: str) -> Answer | Refusal:
    """What an upstream makes of a parse-only request."""
    found = rig.life.means.upstreams.find("demo", DrmSystem.WIDEVINE, name)
    assert found is not None
    return rig.runner.run(license_from(found, granted(challenge=challenge_of(), parse_only=True)))
