"""Sentences of the five documents (docs/seeds.md) that stand between endpoints, policies and license servers."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from starlette.requests import Request

from keymill.core.envelope import unwrap_keys
from keymill.core.formats import naver
from keymill.core.merging import widevine_terms
from keymill.gateway.dialects.naver_route import _signed
from keymill.http.problems import HttpReject
from keymill.proxy.upstream import entitlement_message
from keymill.proxy.upstream.widevine_message import license_message
from keymill.secret import Secret
from schemas.policy import Hdcp, Policy, Renewal, WidevineTerms
from schemas.values import DrmSystem
from tests.fakes import license_of
from tests.granted import granted, key
from tests.proxy_rig import ProxyRig
from tests.unit.test_naver_format import PRINTED, config
from tests.unit.test_proxy_flow import CHALLENGE, LABELS, ROUTES, ask
from tests.unit.test_widevine_message import SPECS
from tests.unit.test_widevine_message import ask as ask_in_json

FUTURE = 4_000_000_000_000
COMMUNICATION_KEY = b"communication key of 32 bytes !!"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[ProxyRig]:
    """A proxy that knows an asset `film` and its services."""
    made = ProxyRig(tmp_path, missing_wait_ms=0)
    made.ingest("film", *LABELS, "HLS_AES128", product_id="cinema")
    for system in DrmSystem:
        made.put_service(system.value, drm_system=system)
    yield made
    made.close()


# TPStreams


def drm_license(rig: ProxyRig, organization: str, asset: str, token: str, **options: Any) -> httpx.Response:
    """One request to TPStreams' endpoint."""
    path = f"/api/v1/{organization}/assets/{asset}/drm_license/"
    return rig.request("POST", path, params={"access_token": token}, **({"content": CHALLENGE} | options))


def test_a_web_player_may_ask_tpstreams_endpoint(rig: ProxyRig) -> None:
    """A page of another origin: JSON needs a preflight, and license and refusal are readable to it."""
    rig.put_license_server(DrmSystem.WIDEVINE)
    asks = {"origin": "https://page.example", "access-control-request-headers": "content-type"}
    preflight = rig.request("OPTIONS", "/api/v1/demo/assets/film/drm_license/", headers=asks)
    assert 204 == preflight.status_code
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "content-type" in preflight.headers["access-control-allow-headers"]
    for token, status in ((rig.token("film"), 200), ("", 401)):
        answer = drm_license(rig, "demo", "film", token, headers={"origin": "https://page.example"})
        assert (status, "*") == (answer.status_code, answer.headers["access-control-allow-origin"])


def test_tpstreams_path_names_organization_and_asset(rig: ProxyRig) -> None:
    """The asset's license and no other's, and only with a token for both."""
    server = rig.put_license_server(DrmSystem.WIDEVINE)
    rig.ingest("clip", "HD")
    assert 200 == drm_license(rig, "demo", "clip", rig.token("clip")).status_code
    assert ["clip"] == [each.asset.asset for each in server.asked]
    assert [rig.kid("clip")] == [each.kid for each in server.asked[0].keys]
    for organization, asset in (("demo", "film"), ("other", "clip")):
        answer = drm_license(rig, organization, asset, rig.token("clip"))
        assert 403 == answer.status_code
    assert 1 == len(server.asked)


def test_without_customisation_the_stored_policy_holds(rig: ProxyRig) -> None:
    """For the raw challenge, and for the form that brings the challenge alone."""
    server = rig.put_license_server(DrmSystem.WIDEVINE)
    demands = WidevineTerms(security_level=3, hdcp=Hdcp.HDCP_V2)
    rig.put_policy(0, license_duration_s=60, widevine=demands)
    form = {"player_payload": base64.b64encode(CHALLENGE).decode()}
    for options in ({"headers": {"content-type": "application/octet-stream"}}, {"content": None, "json": form}):
        assert 200 == drm_license(rig, "demo", "film", rig.token("film"), **options).status_code
    assert 2 == len(server.asked)
    for each in server.asked:
        assert (CHALLENGE, 60) == (each.challenge, each.policy.license_duration_s)
        assert {demands} == {widevine_terms(each.policy, label) for label in LABELS}


# the proxy flow

WHY = {
    "granted": 200,
    "no token": 401,
    "expired": 401,
    "another product": 403,
    "not entitled": 403,
    "not yet available": 403,
    "playback denied": 403,
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("why", WHY)
def test_who_is_refused_reaches_no_license_server(rig: ProxyRig, route: str, why: str) -> None:
    """User and business rules are checked first; the license server hears of nobody who may not play."""
    server = rig.put_license_server(DrmSystem.WIDEVINE)
    tokens = {
        "no token": "",
        "expired": rig.token("film", expires_in=-5),
        "another product": rig.token(None, product="series"),
    }
    match why:
        case "not entitled":
            rig.put_organization(entitlements_required=True)
        case "not yet available":
            with rig.life.means.reader.at_once() as view:
                held = view.asset("demo", "film")
            rig.ingest("film", held=held, available_from=FUTURE)
        case "playback denied":
            rig.put_policy(0, can_play=False)
    answer = ask(rig, route, DrmSystem.WIDEVINE, CHALLENGE, token=tokens.get(why, rig.token("film", sub="anna")))
    assert WHY[why] == answer.status_code, answer.text
    assert (why == "granted") == bool(server.asked)


@pytest.mark.parametrize("route", ["dedicated", "tpstreams"])
def test_each_video_has_its_own_parameters(rig: ProxyRig, route: str) -> None:
    """Security level, HDCP and clocks of the very video that is asked for, in whatever order they are played."""
    server = rig.put_license_server(DrmSystem.WIDEVINE)
    for policy_id, asset in enumerate(("low", "high"), 1):
        rig.ingest(asset, "HD", policy_id=policy_id)
        demands = WidevineTerms(security_level=2 * policy_id + 1, hdcp=list(Hdcp)[policy_id])
        rig.put_policy(policy_id, license_duration_s=60 * policy_id, widevine=demands)
    for asset in ("low", "high", "low"):
        token = rig.token(asset)
        if route == "tpstreams":
            answer = drm_license(rig, "demo", asset, token)
        else:
            answer = rig.request("POST", f"/widevine/demo/{asset}", params={"token": token}, content=CHALLENGE)
        assert 200 == answer.status_code
        seen = server.asked[-1]
        expected = (3, Hdcp.HDCP_V1, 60) if asset == "low" else (5, Hdcp.HDCP_V2, 120)
        terms = widevine_terms(seen.policy, "HD")
        assert expected == (terms.security_level, terms.hdcp, seen.policy.license_duration_s)
        assert [rig.kid(asset)] == [each.kid for each in seen.keys]


def test_the_proxy_holds_cenc_key_hls_key_and_hls_iv(rig: ProxyRig) -> None:
    """All three, found by the video's id in its own copy; the copy has none of them in clear."""
    with rig.life.means.reader.at_once() as view:
        records = list(view.key_records("demo", "film"))
    opened = {}
    for record in records:
        keys = rig.keyring.keys_for("demo", record.root_version)
        clear = unwrap_keys(keys.kek, keys.k_fp, record)
        opened |= {track.label: each for track, each in zip(record.tracks, clear, strict=True)}
    assert {*LABELS, "HLS_AES128"} == set(opened)
    secrets = [each.reveal() for held in opened.values() for each in (held.cek, held.iv)]
    assert {16} == {len(secret) for secret in secrets} and len(secrets) == len(set(secrets))
    assert rig.clear[rig.kid("film", "HLS_AES128")] == opened["HLS_AES128"].cek.reveal()
    files = [path for path in (rig.folder / "views").rglob("*") if path.is_file()]
    assert any(path.suffix == ".mdb" for path in files)
    for path in files:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret in content or secret.hex().encode() in content], path


# Firstlight


@pytest.mark.parametrize("coding", ["", "identity", "gzip, deflate, br", "gzip;q=1.0, *;q=0"])
def test_accept_encoding_changes_nothing(rig: ProxyRig, coding: str) -> None:
    """It is optional: the license is never compressed, whatever the player says that it could read."""
    server = rig.put_license_server(DrmSystem.WIDEVINE)
    query = {"service": "widevine", "version": "1.0", "kid": rig.kid("film").hex(), "ptoken": rig.token("film")}
    headers = {"accept-encoding": coding}
    answer = rig.request("POST", "/getlicense", params=query, content=CHALLENGE, headers=headers)
    assert (200, license_of(server.asked[0])) == (answer.status_code, answer.content)
    assert "content-encoding" not in answer.headers


def test_a_version_selects_its_configuration(rig: ProxyRig) -> None:
    """Two versions of one service are two configurations: the one that is named limits the license."""
    server = rig.put_license_server(DrmSystem.WIDEVINE)
    for version, seconds in (("1.0", 60), ("2.0", 30)):
        limits = Policy(license_duration_s=seconds)
        rig.put_service("cinema", version, drm_system=DrmSystem.WIDEVINE, limits=limits)
    for version, seconds in (("1.0", 60), ("2.0", 30), ("1.0", 60)):
        answer = ask(rig, "firstlight", DrmSystem.WIDEVINE, CHALLENGE, service="cinema", version=version)
        assert (200, seconds) == (answer.status_code, server.asked[-1].policy.license_duration_s)


def test_a_service_is_its_organizations_own(rig: ProxyRig) -> None:
    """Of two services of one name the token's organization has one, and its limits are the ones that hold."""
    rig.ingest("clip", "HD", organization="other")
    expected = {"demo": ("film", 60), "other": ("clip", 30)}
    for organization, (_, seconds) in expected.items():
        limits = Policy(license_duration_s=seconds)
        rig.put_service("cinema", organization=organization, drm_system=DrmSystem.WIDEVINE, limits=limits)
    for organization, (asset, seconds) in expected.items():
        server = rig.put_license_server(DrmSystem.WIDEVINE, organization=organization)
        token = rig.token(asset, organization=organization)
        query = {"service": "cinema", "version": "1.0", "kid": rig.kid(asset).hex(), "ptoken": token}
        assert 200 == rig.request("POST", "/getlicense", params=query, content=CHALLENGE).status_code
        assert [seconds] == [each.policy.license_duration_s for each in server.asked]


# Azure


def test_exclusive_overrides_must_name_every_track_too(rig: ProxyRig) -> None:
    """Dropping the stored policy drops no track: the specs name all, or there is no license."""
    server = rig.put_license_server(DrmSystem.WIDEVINE)
    said = {"policy_overrides": {"can_play": True}, "use_policy_overrides_exclusively": True, "server_side": True}
    short = ask_in_json(rig, content_key_specs=SPECS[:2], **said)
    assert (400, "tracks_not_named") == (short.status_code, short.json()["code"])
    assert "AUDIO missing" in short.json()["detail"]
    assert 200 == ask_in_json(rig, content_key_specs=SPECS, **said).status_code
    assert 1 == len(server.asked)


RENEWAL = Renewal(
    server_url="https://renew.example", delay_s=1, retry_interval_s=2, recovery_duration_s=3, with_usage=True
)


@pytest.mark.parametrize("can_renew", [None, False, True])
def test_renewal_is_said_only_where_the_license_renews(can_renew: bool | None) -> None:
    """All five members are used with can_renew alone; of another policy the license server hears none."""
    policy = Policy(can_play=True, can_renew=can_renew, renewal=RENEWAL)
    said = json.loads(license_message(granted(policy)))["policy_overrides"]
    told = {name: value for name, value in said.items() if name.startswith(("renewal_", "renew_"))}
    members = {
        "renewal_server_url": "https://renew.example",
        "renewal_delay_seconds": 1,
        "renewal_retry_interval_seconds": 2,
        "renewal_recovery_duration_seconds": 3,
        "renew_with_usage": True,
    }
    assert told == (members if can_renew else {})


CLOCKS = ("license_duration_seconds", "rental_duration_seconds", "playback_duration_seconds")


@pytest.mark.parametrize("member", CLOCKS)
@pytest.mark.parametrize("seconds", [None, 0, 1, 2**63 - 1])
def test_each_clock_is_said_as_it_is_meant(rig: ProxyRig, member: str, seconds: int | None) -> None:
    """0 is said as 0, no limit; what nobody said is left out, which the document has mean 0."""
    server = rig.put_license_server(DrmSystem.WIDEVINE)
    overrides = {"can_play": True} | ({} if seconds is None else {member: seconds})
    assert 200 == ask_in_json(rig, server_side=True, policy_overrides=overrides).status_code
    said = json.loads(license_message(server.asked[0]))["policy_overrides"]
    assert {name: said.get(name) for name in CLOCKS} == dict.fromkeys(CLOCKS) | {member: seconds}


# NAVER

SIGNATURE_HEADERS = ("x-ncp-apigw-timestamp", "x-ncp-iam-access-key", "x-ncp-apigw-signature-v2")


@pytest.mark.parametrize("missing", SIGNATURE_HEADERS)
def test_each_naver_signature_header_is_required(missing: str) -> None:
    """401 names the one that is not there, or that is empty."""
    for lost in ({}, {missing: ""}):
        given = {name: "1" for name in SIGNATURE_HEADERS if name != missing} | lost
        headers = [(name.encode(), value.encode()) for name, value in given.items()]
        scope = {
            "type": "http",
            "method": "GET",
            "raw_path": b"/api/v1/policy",
            "query_string": b"",
            "headers": headers,
        }
        with pytest.raises(HttpReject) as refusal:
            _signed(Request(scope))
        assert (401, f"{missing} missing") == (refusal.value.status, str(refusal.value))


def said_to_widevine(body: dict[str, Any], *labels: str) -> dict[str, Any]:
    """What Widevine's license server is told under a policy that NAVER's API made."""
    policy = naver.read(json.dumps(body).encode()).policy
    keys = [key(label, number) for number, label in enumerate(labels or ("HD",), 1)]
    said: dict[str, Any] = json.loads(license_message(granted(policy, *keys)))
    return said


def said_in_entitlement(body: dict[str, Any], system: DrmSystem) -> dict[str, Any]:
    """What the license service of PlayReady or FairPlay is told about the track."""
    policy = naver.read(json.dumps(body).encode()).policy
    token = entitlement_message.license_message(
        granted(policy, system=system), key=Secret(COMMUNICATION_KEY), key_id="k", expires_ms=FUTURE
    )
    message = jwt.decode(token, COMMUNICATION_KEY, algorithms=["HS256"])["message"]
    (usage,) = message["content_key_usage_policies"]
    demands: dict[str, Any] = usage[system.value]
    return demands


@pytest.mark.parametrize(
    ("member", "values", "place"),
    [
        ("securityLevel", [1, 2, 3, 4, 5], "security_level"),
        ("hdcp", [each.value for each in Hdcp if each is not Hdcp.HDCP_V2_3], "hdcp"),
        ("cgms", ["CGMS_NONE", "COPY_FREE", "COPY_ONCE", "COPY_NEVER"], "cgms_flags"),
        ("disableAnalogOutputYn", [False, True], "disable_analog_output"),
        ("hdcpSrmRule", ["HDCP_SRM_RULE_NONE", "CURRENT_SRM"], "hdcp_srm_rule"),
        ("deviceRevocation", [False, True], "override_device_revocation"),
    ],
)
def test_a_naver_widevine_setting_reaches_the_license_server(member: str, values: list[Any], place: str) -> None:
    """Each value as it is; unsaid, or with useYn false, nothing is demanded."""
    for value in values:
        for used in (True, False):
            said = said_to_widevine(config(wideVine={"useYn": used, member: value}))
            spec = said["content_key_specs"][0]
            found = {**said, **spec, **spec.get("required_output_protection", {})}
            assert found.get(place) == (value if used else None)
    silent = said_to_widevine(config(wideVine={"useYn": True}))
    assert place not in {**silent, **silent["content_key_specs"][0]}


@pytest.mark.parametrize(
    ("system", "member", "values", "place", "said"),
    [
        ("playReady", "securityLevel", [150, 2000, 3000], "min_device_security_level", None),
        ("playReady", "digitalVideoProtectionLevel", [100, 250, 270, 300, 301], "uncompressed_digital_video_opl", None),
        ("playReady", "analogVideoProtectionLevel", [100, 150, 200, 201], "analog_video_opl", None),
        ("playReady", "digitalAudioProtectionLevel", [100, 250, 300, 301], "uncompressed_digital_audio_opl", None),
        ("fairPlay", "hdcpEnforcement", ["-1", "0", "1"], "hdcp", ["NONE", "TYPE0", "TYPE1"]),
        ("fairPlay", "allowAirPlay", [False, True], "allow_airplay", None),
        ("fairPlay", "allowAvAdaptor", [False, True], "allow_av_adapter", None),
    ],
)
def test_another_systems_naver_setting_reaches_the_license_server(
    system: str, member: str, values: list[Any], place: str, said: list[str] | None
) -> None:
    """Each value under its own name there; with useYn false none is."""
    drm_system = DrmSystem(system.lower())
    for value, expected in zip(values, said or values, strict=True):
        used = said_in_entitlement(config(**{system: {"useYn": True, member: value}}), drm_system)
        assert expected == used[place]
        assert {} == said_in_entitlement(config(**{system: {"useYn": False, member: value}}), drm_system)


@pytest.mark.parametrize("level", ["100", "250", "270", "300", "301"])
def test_naver_type_1_holds_where_its_levels_apply_hdcp(level: str) -> None:
    """The printed sample has 100, under which HDCP does not apply: the level stays, and the restriction goes along."""
    settings = {"useYn": True, "digitalVideoProtectionLevel": level, "hdcpUseYn": True}
    said = said_in_entitlement(config(playReady=settings), DrmSystem.PLAYREADY)
    assert int(level) == said["uncompressed_digital_video_opl"]
    restriction = {"id": "ABB2C6F1-E663-4625-A945-972D17B231E7", "config_data": "AAAAAQ=="}
    assert [restriction] == said["digital_video_output_protections"]
    without = said_in_entitlement(config(playReady=settings | {"hdcpUseYn": False}), DrmSystem.PLAYREADY)
    assert "digital_video_output_protections" not in without


def test_a_naver_policy_is_the_same_for_all_tracks() -> None:
    """Its settings have no track: every key of a license has the same demands."""
    specs = said_to_widevine(PRINTED, "SD", "HD", "UHD1", "AUDIO")["content_key_specs"]
    assert ["SD", "HD", "UHD1", "AUDIO"] == [spec["track_type"] for spec in specs]
    demands = [{name: spec[name] for name in spec if name not in ("track_type", "key", "key_id")} for spec in specs]
    assert all(demand and demand == demands[0] for demand in demands)


@pytest.mark.parametrize("persistent", [None, False, True])
def test_naver_persistence_reaches_the_license_server(persistent: bool | None) -> None:
    """True keeps the license on the device; false, the default, does not."""
    body = config() | ({} if persistent is None else {"persistent": persistent})
    assert bool(persistent) is said_to_widevine(body)["policy_overrides"]["can_persist"]


def test_naver_clocks_reach_the_license_server() -> None:
    """rentalDuration until the first playback, playbackDuration after it, in seconds; 0 by default."""
    body = config() | {"persistent": True, "rentalDuration": 7200, "playbackDuration": "60"}
    overrides = said_to_widevine(body)["policy_overrides"]
    assert (7200, 60) == (overrides["rental_duration_seconds"], overrides["playback_duration_seconds"])
    overrides = said_to_widevine(config())["policy_overrides"]
    assert (0, 0) == (overrides["rental_duration_seconds"], overrides["playback_duration_seconds"])
