"""TPStreams' endpoint with a ClearKey body."""

import base64
import json
from collections.abc import Iterator

import httpx
import pytest

from tests.proxy_rig import ProxyRig, challenge

OCTETS = "application/octet-stream"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyRig]:
    """One proxy for all."""
    made = ProxyRig(tmp_path_factory.mktemp("tpstreams"))
    made.ingest("film", "SD", "HD")
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
