"""Clear-key HLS: the key of an HLS_AES128 track by GET, under the same rules as any license."""

import json
import os
import time
import uuid
from collections.abc import Iterator

import httpx
import pytest

from keymill.proxy.request import STATUS, Reason
from schemas.events import AssetRestored, AssetRevoked
from schemas.values import DrmSystem
from tests import builders
from tests.proxy_rig import ProxyRig, challenge


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyRig]:
    """One proxy for all."""
    made = ProxyRig(tmp_path_factory.mktemp("hls"))
    made.ingest("film", "SD", "HLS_AES128")
    made.ingest("single", "SD", "HLS_AES128", single_key=True)
    made.ingest("series", "HLS_AES128")
    made.put_service()
    yield made
    made.close()


@pytest.fixture
def rig(house: ProxyRig) -> ProxyRig:
    """The proxy, in contact with its brokers."""
    house.beat()
    return house


def ask(rig: ProxyRig, kid: bytes | str, asset: str = "film", **more: str) -> httpx.Response:
    """One request."""
    organization, token = more.get("organization", "demo"), more.get("token", rig.token(asset))
    spelt = kid if isinstance(kid, str) else str(uuid.UUID(bytes=kid))
    return rig.request("GET", f"/hls/{organization}/{asset}/{spelt}", params={"token": token})


def refused(answer: httpx.Response, reason: Reason) -> None:
    """The problem document of that reason, readable for a page of another origin."""
    assert (STATUS[reason], reason.value) == (answer.status_code, answer.json()["code"])
    assert "*" == answer.headers["access-control-allow-origin"]


@pytest.mark.parametrize("asset", ["film", "single"])
@pytest.mark.parametrize("spelling", [str, lambda kid: str(kid).upper(), lambda kid: kid.hex])
def test_the_key_is_its_16_bytes(rig: ProxyRig, asset: str, spelling) -> None:
    """As octets, for nobody's cache, readable for any page; the KID in any spelling of a UUID."""
    kid = rig.kid(asset, "HLS_AES128")
    answer = ask(rig, spelling(uuid.UUID(bytes=kid)), asset)
    assert (200, rig.clear[kid]) == (answer.status_code, answer.content)
    assert ("application/octet-stream", "16", "no-store", "*") == tuple(
        answer.headers[name]
        for name in ("content-type", "content-length", "cache-control", "access-control-allow-origin")
    )


@pytest.mark.parametrize("asset", ["film", "single"])
def test_no_protected_tracks_key_is_ever_given(rig: ProxyRig, asset: str) -> None:
    """Nor is the clear key in a license: it is asked for by name and left out, by all and left out."""
    refused(ask(rig, rig.kid(asset, "SD"), asset), Reason.NO_KEY_ALLOWED)
    clear, protected = rig.kid(asset, "HLS_AES128"), rig.kid(asset, "SD")
    assert {protected} == set(rig.keys_of(rig.clearkey(asset, clear, protected)))
    refused(rig.clearkey(asset, clear), Reason.NO_KEY_ALLOWED)
    query = {"service": "demo", "version": "1.0", "kid": clear.hex(), "ptoken": rig.token(asset)}
    whole = rig.request("POST", "/getlicense", params=query, content=challenge(clear))
    assert {protected} == set(rig.keys_of(whole))


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"token": ""}, Reason.TOKEN_MISSING),
        ({"expires_in": -1}, Reason.TOKEN_EXPIRED),
        ({"asset": "series"}, Reason.TOKEN_SCOPE),
        ({"organization": "other"}, Reason.WRONG_ORGANIZATION),
        ({"tracks": ["SD"]}, Reason.NO_KEY_ALLOWED),
        ({"max_track": "HD"}, Reason.NO_KEY_ALLOWED),
        ({"tracks": ["HLS_AES128"]}, None),
        ({"max_track": "UHD2"}, None),
    ],
)
def test_the_rules_of_a_license_hold(rig: ProxyRig, claims: dict, reason: Reason | None) -> None:
    """Token, scope and tracks; a token that limits the track types and does not name this one withholds it."""
    token = "" if "token" in claims else rig.token(**{"asset": "film", **claims})
    answer = ask(rig, rig.kid("film", "HLS_AES128"), token=token)
    if reason is None:
        assert 200 == answer.status_code
    else:
        refused(answer, reason)


def test_asset_state_and_unknown_names(rig: ProxyRig) -> None:
    """Revoked 403, another asset's KID 403, an unknown one 404, one that is none 400, behind 503."""
    held = rig.ingest("gone", "HLS_AES128")
    held = rig.take(builders.event(AssetRevoked(), asset="gone"), held)
    refused(ask(rig, rig.kid("gone", "HLS_AES128"), "gone"), Reason.ASSET_REVOKED)
    rig.take(builders.event(AssetRestored(), asset="gone"), held)
    assert 200 == ask(rig, rig.kid("gone", "HLS_AES128"), "gone").status_code
    refused(ask(rig, rig.kid("series", "HLS_AES128")), Reason.NO_KEY_ALLOWED)
    refused(ask(rig, uuid.uuid4().hex), Reason.UNKNOWN_KID)
    refused(ask(rig, "key"), Reason.MALFORMED)
    refused(ask(rig, rig.kid("film", "HLS_AES128"), "no thing"), Reason.MALFORMED)
    rig.beat(ready=False, live=False)
    refused(ask(rig, rig.kid("film", "HLS_AES128")), Reason.NOT_READY)


def test_a_single_use_token_gets_one_key(rig: ProxyRig) -> None:
    """A key is what a license is elsewhere."""
    token = rig.token("film", jti="one-key")
    assert 200 == ask(rig, rig.kid("film", "HLS_AES128"), token=token).status_code
    refused(ask(rig, rig.kid("film", "HLS_AES128"), token=token), Reason.TOKEN_USED)


def test_other_methods_are_told(rig: ProxyRig) -> None:
    """405 with the one that works; a preflight is answered."""
    path = f"/hls/demo/film/{rig.kid('film', 'HLS_AES128').hex()}"
    answer = rig.request("POST", path, content=b"x")
    assert (405, "GET, OPTIONS") == (answer.status_code, answer.headers["allow"])
    assert 204 == rig.request("OPTIONS", path, headers={"origin": "https://page.example"}).status_code


def test_a_key_that_was_given_is_audited(rig: ProxyRig) -> None:
    """As a decision about `hls`, with its KID and without the key."""
    end, written = os.pipe()
    rig.life.means.audit.flush()
    rig.life.means.audit._descriptor = written
    kid = rig.kid("film", "HLS_AES128")
    ask(rig, kid)
    rig.life.means.audit.flush()
    time.sleep(0.3)  # the writer's own turn
    text = os.read(end, 65_536).decode()
    rig.life.means.audit._descriptor = 2
    os.close(end)
    (line,) = [json.loads(each) for each in text.splitlines()]
    assert ("granted", "hls", "film", [kid.hex()]) == tuple(
        line[name] for name in ("reason", "drm_system", "asset", "kids")
    )
    assert rig.clear[kid].hex() not in text
    assert 'keymill_licenses_total{drm_system="hls",outcome="granted"}' in rig.request("GET", "/metrics").text


def test_a_widevine_license_has_no_clear_key(rig: ProxyRig) -> None:
    """Whatever the license server could do with it."""
    server = rig.put_license_server(DrmSystem.WIDEVINE)
    rig.request("POST", "/widevine/demo/film", params={"token": rig.token("film")}, content=b"x" * 60)
    assert ["SD"] == [key.label for key in server.asked[0].keys]
