"""The proxy flow: dedicated endpoints and a single one; challenge and license pass unmodified, certificates apart."""

import base64
import json
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.drm.widevine import LEAST_CHALLENGE, asks_certificate
from keymill.proxy.request import STATUS, Reason, Refusal
from schemas.values import DrmSystem
from tests.fakes import LicenseServer, license_of
from tests.proxy_rig import ProxyRig, challenge

CHALLENGE = b"\x08\x01" + b"\xff\x00challenge " * 8
SYSTEMS = (DrmSystem.WIDEVINE, DrmSystem.PLAYREADY, DrmSystem.FAIRPLAY)
LABELS = ("SD", "HD", "AUDIO")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyRig]:
    """One proxy for all."""
    made = ProxyRig(tmp_path_factory.mktemp("flow"))
    made.ingest("film", *LABELS, "HLS_AES128")
    made.put_organization(provider="widevine_demo")
    for system in DrmSystem:
        made.put_service(system.value, drm_system=system)
    yield made
    made.close()


@pytest.fixture
def rig(house: ProxyRig) -> ProxyRig:
    """The proxy, in contact with its brokers."""
    house.beat()
    return house


def ask(rig: ProxyRig, route: str, system: DrmSystem, body: bytes, **more: str) -> httpx.Response:
    """The same request on one of the routes."""
    token = more.pop("token", rig.token("film"))
    content_type = more.pop("content_type", "")
    path, query = {
        "dedicated": (f"/{system.value}/demo/film", {"token": token}),
        "single": ("/license", {"drm": system.value, "asset": "film", "token": token}),
        "tpstreams": ("/api/v1/demo/assets/film/drm_license/", {"drm_type": system.value, "access_token": token}),
        "firstlight": (
            "/getlicense",
            {"service": system.value, "version": "1.0", "kid": rig.kid("film").hex(), "ptoken": token},
        ),
    }[route]
    headers = {"content-type": content_type} if content_type else {}
    return rig.request("POST", path, params=query | more, content=body, headers=headers)


ROUTES = ("dedicated", "single", "tpstreams", "firstlight")


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("route", ROUTES)
def test_challenge_and_license_pass_unmodified(rig: ProxyRig, route: str, system: DrmSystem) -> None:
    """The license server gets the challenge as it came and every entitled key; the player gets the license as it is."""
    server = rig.put_license_server(system)
    answer = ask(rig, route, system, CHALLENGE)
    (granted,) = server.asked
    assert (200, license_of(granted)) == (answer.status_code, answer.content)
    assert CHALLENGE == granted.challenge
    assert {rig.kid("film", label): rig.clear[rig.kid("film", label)] for label in LABELS} == {
        key.kid: key.clear.cek.reveal() for key in granted.keys
    }
    assert (system, "film", "widevine_demo", False) == (
        granted.drm_system,
        granted.asset.asset,
        granted.provider,
        granted.parse_only,
    )
    expected = {"tpstreams": "application/octet-stream", "firstlight": "application/octet-stream;charset=UTF-8"}
    assert expected.get(route, server.content_type) == answer.headers["content-type"]
    assert "no-store" == answer.headers["cache-control"]


@pytest.mark.parametrize("route", ["dedicated", "single"])
def test_clearkey_is_answered_by_the_proxy(rig: ProxyRig, route: str) -> None:
    """As on the browser's own terms: asked keys, a JWK set."""
    kid = rig.kid("film", "SD")
    assert {kid: rig.clear[kid]} == rig.keys_of(ask(rig, route, DrmSystem.CLEARKEY, challenge(kid)))


@pytest.mark.parametrize("content_type", ["", "application/octet-stream", "text/xml; charset=utf-8", "text/plain"])
def test_content_type_of_a_challenge_is_not_looked_at(rig: ProxyRig, content_type: str) -> None:
    """Players send none, or any; for PlayReady and FairPlay JSON too."""
    for system in SYSTEMS:
        server = rig.put_license_server(system)
        assert 200 == ask(rig, "dedicated", system, CHALLENGE, content_type=content_type).status_code
        if system is not DrmSystem.WIDEVINE:
            assert 200 == ask(rig, "single", system, CHALLENGE, content_type="application/json").status_code
        assert {CHALLENGE} == {granted.challenge for granted in server.asked}


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"drm": "widevine"}, "malformed_request"),
        ({"asset": "film"}, "malformed_request"),
        ({"drm": "adobe", "asset": "film"}, "malformed_request"),
        ({"drm": "widevine", "asset": "a/b"}, "malformed_request"),
        ({"drm": "widevine", "asset": "nothing"}, "unknown_asset"),
    ],
)
def test_single_endpoint_needs_drm_and_asset(rig: ProxyRig, query: dict[str, str], code: str) -> None:
    """Each is named in the refusal."""
    rig.put_license_server(DrmSystem.WIDEVINE)
    answer = rig.request(
        "POST", "/license", params={"token": rig.token(query.get("asset")), **query}, content=CHALLENGE
    )
    assert code == answer.json()["code"]


def test_single_endpoint_is_the_tokens_organizations(rig: ProxyRig) -> None:
    """Another organization's token asks for that one's asset, of which nothing is known here."""
    rig.put_license_server(DrmSystem.WIDEVINE)
    answer = ask(rig, "single", DrmSystem.WIDEVINE, CHALLENGE, token=rig.token("film", organization="other"))
    assert (404, "unknown_asset") == (answer.status_code, answer.json()["code"])


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("route", ROUTES)
def test_an_empty_body_is_a_missing_challenge(rig: ProxyRig, route: str, system: DrmSystem) -> None:
    """On every route: it asks for no certificate either."""
    server = rig.put_license_server(system)
    answer = ask(rig, route, system, b"")
    code = answer.json()["code"]
    assert (400, "MissingLicenseChallengeError" if route == "firstlight" else "missing_challenge") == (
        answer.status_code,
        code,
    )
    assert not server.asked and not server.certificates


@pytest.mark.parametrize("body", [b"\x08\x04", b"\x08", b"x" * (LEAST_CHALLENGE - 1)])
@pytest.mark.parametrize("route", ROUTES)
def test_certificate_requests_are_told_apart(rig: ProxyRig, route: str, body: bytes) -> None:
    """Fewer than 50 bytes on any route that takes a Widevine challenge: the server's certificate, and no license."""
    server = rig.put_license_server(DrmSystem.WIDEVINE)
    answer = ask(rig, route, DrmSystem.WIDEVINE, body)
    assert (200, b"certificate") == (answer.status_code, answer.content)
    assert ([body], []) == (server.certificates, server.asked)


def test_certificate_requests_in_json(rig: ProxyRig) -> None:
    """Wrapped in TPStreams' form or in the Azure message they are the same request."""
    server = rig.put_license_server(DrmSystem.WIDEVINE)
    small = base64.b64encode(b"\x08\x04").decode()
    for route, member in (("tpstreams", "player_payload"), ("dedicated", "payload"), ("single", "payload")):
        body = json.dumps({member: small}).encode()
        answer = ask(rig, route, DrmSystem.WIDEVINE, body, content_type="application/json")
        assert (200, b"certificate") == (answer.status_code, answer.content)
    assert [b"\x08\x04"] * 3 == server.certificates


@pytest.mark.parametrize("system", [DrmSystem.PLAYREADY, DrmSystem.FAIRPLAY])
def test_other_systems_have_no_certificate_request(rig: ProxyRig, system: DrmSystem) -> None:
    """A short challenge of theirs is a challenge."""
    server = rig.put_license_server(system)
    assert 200 == ask(rig, "dedicated", system, b"\x08\x04").status_code
    assert 1 == len(server.asked) and not server.certificates


@given(st.binary(max_size=80))
def test_what_is_a_certificate_request(body: bytes) -> None:
    """Not empty, and shorter than any license request."""
    assert asks_certificate(body) == (0 < len(body) < 50)


def test_certificate_requests_need_a_token_and_use_none_up(rig: ProxyRig) -> None:
    """A single-use token gets certificates and then one license; nothing is known of its asset before that."""
    server = rig.put_license_server(DrmSystem.WIDEVINE)
    assert 401 == ask(rig, "dedicated", DrmSystem.WIDEVINE, b"\x08\x04", token="").status_code
    foreign = rig.token("film", organization="other")
    assert 403 == ask(rig, "dedicated", DrmSystem.WIDEVINE, b"\x08\x04", token=foreign).status_code
    token = rig.token("film", jti="once-certificate")
    for _ in range(2):
        assert 200 == ask(rig, "dedicated", DrmSystem.WIDEVINE, b"\x08\x04", token=token).status_code
    assert 200 == ask(rig, "dedicated", DrmSystem.WIDEVINE, CHALLENGE, token=token).status_code
    again = ask(rig, "dedicated", DrmSystem.WIDEVINE, CHALLENGE, token=token)
    assert (401, "token_used", 1) == (again.status_code, again.json()["code"], len(server.asked))


REFUSALS = (
    (Reason.UPSTREAM_REFUSED, (403, 1004)),
    (Reason.UPSTREAM_FAILED, (500, 1007)),
    (Reason.UPSTREAM_UNAVAILABLE, (500, 1007)),
    (Reason.UPSTREAM_TIMEOUT, (500, 1007)),
)


@pytest.mark.parametrize(("reason", "firstlight"), REFUSALS)
@pytest.mark.parametrize("route", ROUTES)
def test_a_failing_license_server_is_told(
    rig: ProxyRig, route: str, reason: Reason, firstlight: tuple[int, int]
) -> None:
    """Each failure has its status and code, and Retry-After where asking again may help; a token is not used up."""
    server = rig.put_license_server(DrmSystem.WIDEVINE)
    server.refusal = Refusal(reason=reason, message="no", retry_after_s=7)
    token = rig.token("film", jti=f"{route}-{reason}")
    answer = ask(rig, route, DrmSystem.WIDEVINE, CHALLENGE, token=token)
    if route == "firstlight":
        assert firstlight == (answer.status_code, answer.json()["errorCode"])
    else:
        assert (STATUS[reason], reason.value) == (answer.status_code, answer.json()["code"])
    assert ("7" if answer.status_code >= 500 else None) == answer.headers.get("retry-after")
    server.refusal = None
    assert 200 == ask(rig, route, DrmSystem.WIDEVINE, CHALLENGE, token=token).status_code


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_system_without_license_server_is_400(rig: ProxyRig, system: DrmSystem) -> None:
    """For a license and for a certificate; the refusal names the system."""
    rig.servers.servers.clear()
    for body in (CHALLENGE, b"\x08\x04"):
        answer = ask(rig, "dedicated", system, body)
        assert (400, "no_license_server") == (answer.status_code, answer.json()["code"])
        assert system.value in answer.json()["detail"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.just(base64.b64encode(CHALLENGE).decode()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ("payload", "player_payload", "widevine", "content_key_specs", "track_type", "policy_overrides",
                 "can_play", "security_level", "key", "key_id", "parse_only", "drm_type", "kids", "type", "x"),
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)  # fmt: skip


@given(
    body=JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=200),
    content_type=st.sampled_from(["", "application/json", "application/json;x", "APPLICATION/JSON", "text/xml"]),
    server_side=st.booleans(),
)
def test_no_body_is_a_server_error(house: ProxyRig, body: bytes, content_type: str, server_side: bool) -> None:
    """Whatever a caller sends on whichever route is answered with 200 or with 4xx and a code."""
    house.beat()
    for system in SYSTEMS:
        house.put_license_server(system)
    token = house.token("film", server_side=server_side or None)
    for route in ROUTES:
        for system in DrmSystem:
            answer = ask(house, route, system, body, content_type=content_type, token=token)
            assert answer.status_code in (200, 400, 403, 404, 409), answer.text
            assert answer.status_code == 200 or answer.json()["code"]


def test_a_service_names_its_license_server(rig: ProxyRig) -> None:
    """A service configuration's upstream is asked, not the organization's own."""
    rig.put_service("special", drm_system=DrmSystem.WIDEVINE, upstream="vendor")
    own, named = rig.put_license_server(DrmSystem.WIDEVINE), rig.put_license_server(DrmSystem.WIDEVINE, name="vendor")
    answer = ask(rig, "firstlight", DrmSystem.WIDEVINE, CHALLENGE, service="special")
    assert (200, 0, 1, "vendor") == (answer.status_code, len(own.asked), len(named.asked), named.asked[0].upstream)


def test_the_provider_is_the_organizations_or_its_id(rig: ProxyRig) -> None:
    """Without a name at Widevine's license server the organization goes by its id."""
    rig.ingest("clip", "HD", organization="other")
    rig.put_license_server(DrmSystem.WIDEVINE, organization="other")
    server = rig.servers.servers["other", DrmSystem.WIDEVINE, None]
    assert isinstance(server, LicenseServer)
    token = rig.token("clip", organization="other")
    answer = rig.request("POST", "/widevine/other/clip", params={"token": token}, content=CHALLENGE)
    assert (200, "other") == (answer.status_code, server.asked[0].provider)


@pytest.mark.parametrize("path", [f"/{system.value}/demo/film" for system in DrmSystem] + ["/license"])
def test_licenses_are_asked_for_by_post(rig: ProxyRig, path: str) -> None:
    """GET is told so, and a page of another origin may ask."""
    answer = rig.request("GET", path)
    assert (405, "POST, OPTIONS") == (answer.status_code, answer.headers["allow"])
    assert 204 == rig.request("OPTIONS", path, headers={"origin": "https://page.example"}).status_code
