"""TPStreams' endpoint: one URL for two bodies, and what its customised form may say to whom."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from keymill.core.merging import widevine_terms
from schemas.policy import Hdcp, WidevineTerms
from schemas.values import DrmSystem
from tests.fakes import LicenseServer, license_of
from tests.proxy_rig import ProxyRig, challenge

OCTETS = "application/octet-stream"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyRig]:
    """One proxy for all."""
    made = ProxyRig(tmp_path_factory.mktemp("tpstreams"))
    made.ingest("film", "SD", "HD")
    made.ingest("five", *LABELS, policy_id=5)
    made.put_policy(5, license_duration_s=60, widevine=WidevineTerms(security_level=3, hdcp=Hdcp.HDCP_V2))
    yield made
    made.close()


@pytest.fixture
def rig(house: ProxyRig) -> ProxyRig:
    """The proxy, in contact with its brokers."""
    house.beat()
    return house


def ask(
    rig: ProxyRig, body: bytes, *, slash: str = "/", content_type: str | None = None, **params: str
) -> httpx.Response:
    """One request with a valid token."""
    url = f"/api/v1/demo/assets/film/drm_license{slash}"
    headers = {"content-type": content_type} if content_type else {}
    query = {"access_token": rig.token("film"), **params}
    return rig.request("POST", url, params=query, content=body, headers=headers)


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(
    "content_type", [None, OCTETS, "text/plain", "application/json", "application/json; charset=utf-8"]
)
def test_raw_challenge_is_read_whatever_its_type(rig: ProxyRig, slash: str, content_type: str | None) -> None:
    """A ClearKey challenge is JSON itself, so no Content-Type changes what it is; with and without the slash."""
    kid = rig.kid("film")
    answer = ask(rig, challenge(kid), slash=slash, content_type=content_type, drm_type="clearkey")
    assert {kid: rig.clear[kid]} == rig.keys_of(answer)
    assert OCTETS == answer.headers["content-type"]


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("padding", [b"", b"="])
def test_customised_form_carries_the_challenge(rig: ProxyRig, encode, padding: bytes) -> None:
    """player_payload in standard or URL-safe base64, padded or not; drm_type as a member."""
    kid = rig.kid("film")
    payload = encode(challenge(kid)).rstrip(b"=" if not padding else b"\0").decode()
    specs = [{"track_type": "SD"}, {"track_type": "HD"}]
    body = json.dumps({"player_payload": payload, "drm_type": "clearkey", "widevine": {"content_key_specs": specs}})
    assert {kid} == set(rig.keys_of(ask(rig, body.encode(), content_type="application/json")))


@pytest.mark.parametrize(
    ("body", "params", "code"),
    [
        (b"", {"drm_type": "clearkey"}, "missing_challenge"),
        (b"{}", {"drm_type": "clearkey"}, "malformed_request"),
        (b"x", {"drm_type": "clearkey"}, "malformed_request"),
        (b'{"player_payload": "*"}', {"drm_type": "clearkey"}, "malformed_request"),
        (b'{"player_payload": 7}', {"drm_type": "clearkey"}, "malformed_request"),
        (b'{"player_payload": ""}', {"drm_type": "clearkey"}, "missing_challenge"),
        (b'{"player_payload": "AAAA", "drm_type": "clearkey"}', {"drm_type": "widevine"}, "malformed_request"),
        (b"{}", {}, "malformed_request"),
        (b"x", {"drm_type": "adobe"}, "malformed_request"),
    ],
)
def test_wrong_bodies_are_400(rig: ProxyRig, body: bytes, params: dict[str, str], code: str) -> None:
    """With a code; the query and the body must not differ about the DRM system."""
    answer = ask(rig, body, content_type="application/json", **params)
    assert (400, code) == (answer.status_code, answer.json()["code"])


@pytest.mark.parametrize("drm_type", [None, "widevine", "playready", "fairplay"])
def test_other_drm_systems_need_a_license_server(rig: ProxyRig, drm_type: str | None) -> None:
    """Widevine is the default; without a license server for it the refusal says so."""
    rig.servers.servers.clear()
    answer = ask(rig, b"\x08\x01", **({"drm_type": drm_type} if drm_type else {}))
    assert (400, "no_license_server") == (answer.status_code, answer.json()["code"])
    assert (drm_type or "widevine") in answer.json()["detail"]


def test_ill_formed_names_are_400(rig: ProxyRig) -> None:
    """An organization or asset id that is none is malformed, not unknown."""
    for path in ("/api/v1/Demo/assets/film/drm_license", "/api/v1/demo/assets/a%20b/drm_license/"):
        answer = rig.request("POST", path, params={"access_token": rig.token("film")}, content=b"x")
        assert (400, "malformed_request") == (answer.status_code, answer.json()["code"])


def test_token_is_the_access_token(rig: ProxyRig) -> None:
    """No other query member is looked at for it."""
    url = "/api/v1/demo/assets/film/drm_license"
    answer = rig.request("POST", url, params={"token": rig.token("film"), "drm_type": "clearkey"}, content=b"{}")
    assert (401, "token_missing") == (answer.status_code, answer.json()["code"])


KEY_MESSAGE = b"\x08\x01\x12" + b"\xfb\xff challenge" * 8
LABELS = ("SD", "HD", "UHD1", "UHD2", "AUDIO")
SAMPLE = [
    {"track_type": label, "security_level": 1, "required_output_protection": {"hdcp": "HDCP_V1"}} for label in LABELS
]
"""The document's own."""


@pytest.fixture
def server(house: ProxyRig) -> LicenseServer:
    """A Widevine license server; the asset `five` has every track type, and a policy of some strength."""
    house.beat()
    return house.put_license_server(DrmSystem.WIDEVINE)


def customise(
    rig: ProxyRig, form: dict[str, Any], *, asset: str = "five", server_side: bool = False, **params: str
) -> httpx.Response:
    """The customised form with a Widevine key message."""
    body = {"player_payload": base64.b64encode(KEY_MESSAGE).decode()} | form
    query = {"access_token": rig.token(asset, server_side=server_side or None), **params}
    return rig.request("POST", f"/api/v1/demo/assets/{asset}/drm_license/", params=query, json=body)


@pytest.mark.parametrize("member", ["widevine", "license_specs"])
def test_the_documents_sample_is_taken(rig: ProxyRig, server: LicenseServer, member: str) -> None:
    """Its prose's name too; what a player asks looser than the policy is ignored, the rest tightens."""
    answer = customise(rig, {member: {"content_key_specs": SAMPLE}})
    (granted,) = server.asked
    assert (200, OCTETS, license_of(granted)) == (answer.status_code, answer.headers["content-type"], answer.content)
    assert KEY_MESSAGE == granted.challenge
    assert list(LABELS) == [key.label for key in granted.keys]
    for label in LABELS:
        assert WidevineTerms(security_level=3, hdcp=Hdcp.HDCP_V2) == widevine_terms(granted.policy, label)


@pytest.mark.parametrize("member", ["widevine", "license_specs"])
def test_a_player_may_tighten_each_track(rig: ProxyRig, server: LicenseServer, member: str) -> None:
    """One spec is stricter than the policy, the others are not."""
    specs = [{"track_type": label} for label in LABELS[:-2]]
    specs.append({"track_type": "UHD2", "security_level": 5, "required_output_protection": {"hdcp": "HDCP_V2_2"}})
    customise(rig, {member: {"content_key_specs": [*specs, {"track_type": "AUDIO"}]}})
    policy = server.asked[0].policy
    assert WidevineTerms(security_level=5, hdcp=Hdcp.HDCP_V2_2) == widevine_terms(policy, "UHD2")
    assert WidevineTerms(security_level=3, hdcp=Hdcp.HDCP_V2) == widevine_terms(policy, "HD")


def test_a_server_sets_what_the_document_allows(rig: ProxyRig, server: LicenseServer) -> None:
    """Its specs are overrides; what they leave unsaid the policy says."""
    customise(rig, {"widevine": {"content_key_specs": SAMPLE}}, server_side=True)
    policy = server.asked[0].policy
    assert {WidevineTerms(security_level=1, hdcp=Hdcp.HDCP_V1)} == {widevine_terms(policy, label) for label in LABELS}
    assert 60 == policy.license_duration_s


@pytest.mark.parametrize("drm_type", ["widevine", "clearkey"])
def test_a_declared_track_without_a_spec_is_400(rig: ProxyRig, server: LicenseServer, drm_type: str) -> None:
    """It is named; a spec for a track that the asset lacks is ignored."""
    payload = challenge(rig.kid("five")) if drm_type == "clearkey" else KEY_MESSAGE
    form = {"player_payload": base64.b64encode(payload).decode(), "drm_type": drm_type}
    answer = customise(rig, {**form, "widevine": {"content_key_specs": SAMPLE[:-1]}})
    assert (400, "tracks_not_named") == (answer.status_code, answer.json()["code"])
    assert "AUDIO missing" in answer.json()["detail"]
    more = [*SAMPLE, {"track_type": "STEREO_AUDIO"}]
    assert 200 == customise(rig, {**form, "widevine": {"content_key_specs": more}}).status_code


def test_defaulted_tracks_without_a_spec_are_withheld(rig: ProxyRig, server: LicenseServer) -> None:
    """Of an asset whose event named none."""
    rig.ingest("any", tracks=None)
    assert 200 == customise(rig, {"widevine": {"content_key_specs": SAMPLE[:2]}}, asset="any").status_code
    assert ["SD", "HD"] == [key.label for key in server.asked[0].keys]


@pytest.mark.parametrize(
    ("form", "word"),
    [
        ({"widevine": {"content_key_specs": SAMPLE}, "license_specs": {"content_key_specs": SAMPLE}}, "license_specs"),
        ({"widevine": {"content_key_specs": []}}, "content_key_specs"),
        ({"widevine": {"content_key_specs": [*SAMPLE, SAMPLE[0]]}}, "twice"),
        ({"widevine": {"content_key_specs": [{"security_level": 1}]}}, "track_type"),
        ({"widevine": {"content_key_specs": [{"track_type": "HD", "key": "AAAAAAAAAAAAAAAAAAAAAA=="}]}}, "no key"),
        ({"widevine": {"content_key_specs": [{"track_type": "8K"}]}}, "track_type"),
        ({"widevine": {"content_key_specs": [{"track_type": "HD", "security_level": 0}]}}, "security_level"),
        ({"widevine": {"content_key_specs": [{"track_type": "HD", "level": 1}]}}, "level"),
        ({"widevine": {"is_persistent": True}}, "is_persistent"),
        ({"policy": {}}, "policy"),
    ],
)
def test_what_the_form_does_not_have_is_refused(
    rig: ProxyRig, server: LicenseServer, form: dict[str, Any], word: str
) -> None:
    """By name, so that no wish is lost without a word."""
    answer = customise(rig, form)
    assert (400, "malformed_request") == (answer.status_code, answer.json()["code"])
    assert word in answer.json()["detail"]


@pytest.mark.parametrize("system", [DrmSystem.PLAYREADY, DrmSystem.FAIRPLAY])
@pytest.mark.parametrize("place", ["query", "member"])
def test_other_systems_take_the_form_too(rig: ProxyRig, system: DrmSystem, place: str) -> None:
    """drm_type stands in the query or in the body, or in both and the same."""
    server = rig.put_license_server(system)
    form, params = ({"drm_type": system.value}, {}) if place == "member" else ({}, {"drm_type": system.value})
    assert 200 == customise(rig, form, asset="film", **params).status_code
    assert 200 == customise(rig, {"drm_type": system.value}, asset="film", drm_type=system.value).status_code
    assert [KEY_MESSAGE, KEY_MESSAGE] == [granted.challenge for granted in server.asked]


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_a_key_message_survives_both_alphabets(rig: ProxyRig, server: LicenseServer, encode) -> None:
    """Bytes whose digits differ in the two arrive as they were."""
    text = encode(KEY_MESSAGE * 3).decode()
    assert {"+", "/", "-", "_"} & set(text)
    customise(rig, {"player_payload": text})
    assert KEY_MESSAGE * 3 == server.asked[0].challenge


@pytest.mark.parametrize("slash", ["", "/"])
def test_no_redirect(rig: ProxyRig, server: LicenseServer, slash: str) -> None:
    """Players do not follow one with a body; both spellings are the endpoint."""
    assert 200 == ask(rig, KEY_MESSAGE, slash=slash).status_code
