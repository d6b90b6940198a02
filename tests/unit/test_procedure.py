"""The license procedure over a real snapshot: who gets which keys, and how everybody else is refused."""

import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.errors import UnknownKey
from keymill.proxy.request import STATUS, Reason
from keymill.snapshot.state import Heartbeat, boot_id
from schemas.access import Entitlement
from schemas.events import AssetRestored, AssetRevoked
from schemas.ids import scoped_key
from tests import builders
from tests.proxy_rig import BEAT_EVERY_S, ProxyRig, b64, challenge, public_pem

PAST, FUTURE = 1_000, 4_000_000_000_000


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[ProxyRig]:
    """A proxy that has caught up and knows an asset `film`."""
    made = ProxyRig(tmp_path)
    made.ingest("film", "SD", "HD", "AUDIO")
    yield made
    made.close()


def refused(response: httpx.Response, reason: Reason) -> None:
    """The answer is the problem document of that reason, readable for a page of another origin."""
    assert (STATUS[reason], reason.value) == (response.status_code, response.json()["code"])
    assert "application/problem+json" == response.headers["content-type"]
    assert "*" == response.headers["access-control-allow-origin"]
    assert response.headers["x-request-id"] == response.json()["request_id"]
    assert "no-store" == response.headers["cache-control"]
    assert ("retry-after" in response.headers) == (response.status_code >= 500)


def test_asked_keys_are_served(rig: ProxyRig) -> None:
    """A valid token gets exactly the keys it asked for, as they were derived."""
    asked = [rig.kid("film", "HD"), rig.kid("film", "AUDIO")]
    response = rig.clearkey("film", *asked)
    assert {kid: rig.clear[kid] for kid in asked} == rig.keys_of(response)
    assert "temporary" == response.json()["type"]
    assert "application/json" == response.headers["content-type"]
    assert "no-store" == response.headers["cache-control"]
    assert "*" == response.headers["access-control-allow-origin"]
    assert float(response.headers["x-keymill-staleness"]) < 1


def test_request_id_is_taken_and_answered(rig: ProxyRig) -> None:
    """A caller's own request id comes back; one that could break a log line does not."""
    asked = rig.clearkey("film", rig.kid("film"), headers={"x-request-id": "play-1"})
    assert "play-1" == asked.headers["x-request-id"]
    asked = rig.clearkey("film", rig.kid("film"), headers={"x-request-id": "a b\tc"})
    assert "a b\tc" != asked.headers["x-request-id"]


@pytest.mark.parametrize("content_type", [None, "application/json", "text/plain", "application/octet-stream"])
def test_content_type_is_not_looked_at(rig: ProxyRig, content_type: str | None) -> None:
    """Players send none."""
    headers = {"content-type": content_type} if content_type else {}
    assert 200 == rig.clearkey("film", rig.kid("film"), headers=headers).status_code


def test_preflight_is_answered(rig: ProxyRig) -> None:
    """A page of another origin may ask with an Authorization or Content-Type header."""
    answer = rig.request("OPTIONS", "/clearkey/demo/film", headers={"origin": "https://page.example"})
    assert 204 == answer.status_code
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "content-type" in answer.headers["access-control-allow-headers"]


@pytest.mark.parametrize("path", ["/clearkey/demo/film", "/api/v1/demo/assets/film/drm_license/", "/getlicense"])
def test_get_is_told_to_post(rig: ProxyRig, path: str) -> None:
    """405 with a reason."""
    answer = rig.request("GET", path)
    assert (405, "POST, OPTIONS") == (answer.status_code, answer.headers["allow"])
    assert "POST" in answer.json()["detail"]


@pytest.mark.parametrize(
    "path", ["/", "/clearkey", "/clearkey/demo/film/more", "/clearkey/demo/film//", "/x%2Fy", "/%ff"]
)
def test_other_paths_are_not_found(rig: ProxyRig, path: str) -> None:
    """404 with a problem document."""
    assert "no_such_endpoint" == rig.request("POST", path).json()["code"]


def test_persistent_license_needs_a_policy_that_persists(rig: ProxyRig) -> None:
    """Refused by default; with a policy that allows it the type is echoed."""
    refused(rig.clearkey("film", rig.kid("film"), type="persistent-license"), Reason.PERSISTENCE_DENIED)
    rig.put_policy(0, can_persist=True)
    assert "persistent-license" == rig.clearkey("film", rig.kid("film"), type="persistent-license").json()["type"]


def test_policy_without_playback_refuses(rig: ProxyRig) -> None:
    """can_play false is 403 for every key."""
    rig.put_policy(0, can_play=False)
    refused(rig.clearkey("film", rig.kid("film")), Reason.PLAYBACK_DENIED)


def test_missing_policy_is_never_replaced_by_a_looser_one(rig: ProxyRig) -> None:
    """An asset whose policy the view lacks is refused; once the policy is there it is served."""
    rig.ingest("series", "HD", policy_id=7)
    refused(rig.clearkey("series", rig.kid("series")), Reason.POLICY_MISSING)
    rig.beat(live=False, ago_s=60)
    refused(rig.clearkey("series", rig.kid("series")), Reason.NOT_READY)
    rig.beat()
    rig.put_policy(7)
    assert 200 == rig.clearkey("series", rig.kid("series")).status_code


def test_keys_are_decided_one_by_one(rig: ProxyRig) -> None:
    """Policy and token withhold tracks; what is left is served, and when nothing is left the answer is no license."""
    asked = [rig.kid("film", label) for label in ("SD", "HD", "AUDIO")]
    token = rig.token("film", tracks=["SD", "AUDIO"])
    served = rig.keys_of(rig.clearkey("film", *asked, token=token))
    assert {rig.kid("film", "SD"), rig.kid("film", "AUDIO")} == set(served)
    rig.put_policy(0, allowed_tracks=("SD", "HD"))
    assert {rig.kid("film", "SD")} == set(rig.keys_of(rig.clearkey("film", *asked, token=token)))
    refused(rig.clearkey("film", rig.kid("film", "AUDIO"), token=token), Reason.NO_KEY_ALLOWED)


def test_keys_of_another_asset_are_not_served(rig: ProxyRig) -> None:
    """A KID of another asset is passed over, and alone it is no license."""
    rig.ingest("series", "HD")
    served = rig.keys_of(rig.clearkey("film", rig.kid("series"), rig.kid("film")))
    assert {rig.kid("film")} == set(served)
    refused(rig.clearkey("film", rig.kid("series")), Reason.NO_KEY_ALLOWED)


def test_unknown_kids_are_passed_over(rig: ProxyRig) -> None:
    """Beside a known one they do not matter."""
    assert {rig.kid("film")} == set(rig.keys_of(rig.clearkey("film", b"?" * 16, rig.kid("film"))))


def test_old_versions_stay_licensable_until_revoked(rig: ProxyRig) -> None:
    """After a rotation old and new keys are served, after a revocation none, after a restoration both."""
    held = rig.take(builders.rotate(2).__class__(**_fields(builders.rotate(2), asset="film")), _held(rig))
    both = [rig.kid("film", "HD", 1), rig.kid("film", "HD", 2)]
    assert set(both) == set(rig.keys_of(rig.clearkey("film", *both)))
    held = rig.take(builders.event(AssetRevoked(), asset="film"), held)
    refused(rig.clearkey("film", *both), Reason.ASSET_REVOKED)
    rig.take(builders.event(AssetRestored(), asset="film"), held)
    assert set(both) == set(rig.keys_of(rig.clearkey("film", *both)))


def _fields(event: msgspec.Struct, **changed: object) -> dict[str, object]:
    return {name: getattr(event, name) for name in event.__struct_fields__} | changed


def _held(rig: ProxyRig):
    with rig.life.means.reader.at_once() as view:
        return view.asset("demo", "film")


def test_live_keys_are_of_this_period_and_the_next(rig: ProxyRig) -> None:
    """A key of a period that is over, or that begins later than the next, is not given."""
    start = time.time_ns() // 1_000_000 - 25_000  # ten-second periods: number 2 is on air
    rig.ingest("channel", "HD", periods=(0, 6), period_s=10, start=start)
    kids = [rig.kid("channel", "HD", 1, period) for period in range(6)]
    assert {kids[2], kids[3]} == set(rig.keys_of(rig.clearkey("channel", *kids)))


@pytest.mark.parametrize(
    ("window", "reason"),
    [
        ({"available_from": FUTURE}, Reason.NOT_YET_AVAILABLE),
        ({"available_until": PAST}, Reason.NO_LONGER_AVAILABLE),
        ({"available_from": PAST, "available_until": FUTURE}, None),
    ],
)
def test_availability_window_holds(rig: ProxyRig, window: dict[str, int], reason: Reason | None) -> None:
    """Outside of it 403 with a code that says which end."""
    rig.ingest("event", "HD", **window)
    response = rig.clearkey("event", rig.kid("event"))
    if reason is None:
        assert 200 == response.status_code
    else:
        refused(response, reason)


def test_product_tokens_open_their_products_assets(rig: ProxyRig) -> None:
    """A token for a product opens that product's assets and no others."""
    rig.ingest("series", "HD", product_id="season-1")
    token = rig.token(None, product="season-1")
    assert 200 == rig.clearkey("series", rig.kid("series"), token=token).status_code
    refused(rig.clearkey("film", rig.kid("film"), token=token), Reason.TOKEN_SCOPE)


def test_entitlement_is_asked_for_where_required(tmp_path: Path) -> None:
    """With the setting a user needs an entitlement to the product, which may end."""
    rig = ProxyRig(tmp_path, require_entitlement=True)
    rig.ingest("series", "HD", product_id="season-1")
    token = rig.token("series", sub="anna")
    try:
        refused(rig.clearkey("series", rig.kid("series"), token=token), Reason.NOT_ENTITLED)
        for until, reason in ((PAST, Reason.NOT_ENTITLED), (FUTURE, None), (None, None)):
            record = Entitlement(organization="demo", user="anna", product="season-1", valid_until=until)
            rig.put(scoped_key("demo", "anna", "season-1"), record)
            response = rig.clearkey("series", rig.kid("series"), token=token)
            if reason is None:
                assert 200 == response.status_code
            else:
                refused(response, reason)
    finally:
        rig.close()


@pytest.mark.parametrize(
    ("ready", "live", "organization", "asset", "status"),
    [
        (False, False, "demo", "film", 503),
        (False, False, "demo", "nothing", 503),
        (True, True, "demo", "film", 200),
        (True, True, "demo", "nothing", 404),
        (True, True, "other", "film", 403),
        (True, True, "other", "nothing", 403),
        (True, False, "demo", "film", 200),
        (True, False, "demo", "nothing", 503),
        (True, False, "other", "nothing", 403),
    ],
)
def test_readiness_matrix(rig: ProxyRig, ready: bool, live: bool, organization: str, asset: str, status: int) -> None:
    """Behind: 503, whatever was asked. Caught up: 404 within the token's organization, 403 elsewhere. Cut off: 503."""
    rig.beat(ready=ready, live=live, ago_s=0 if live else 30)
    response = rig.clearkey(asset, rig.kid("film"), organization=organization, token=rig.token(asset))
    assert status == response.status_code, response.text
    assert ("retry-after" in response.headers) == (status == 503)


def test_a_dead_follower_makes_nothing_unknown(rig: ProxyRig) -> None:
    """A moment ago it said that the view is live: what came since may be what is asked for, so nobody says 404."""
    rig.followed = False
    time.sleep(3 * BEAT_EVERY_S)
    assert rig.life.means.reader.state().live
    response = rig.clearkey("nothing", rig.kid("film"), token=rig.token("nothing"))
    assert 503 == response.status_code
    assert 200 == rig.clearkey("film", rig.kid("film"), token=rig.token("film")).status_code


@pytest.mark.parametrize("what", ["service", "policy", "entitlement", "token key"])
@pytest.mark.parametrize("trouble", ["a dead follower", "brokers that are away"])
def test_what_an_old_view_lacks_may_exist(rig: ProxyRig, what: str, trouble: str) -> None:
    """Whatever a license needs and the view has not: 503, and final only once the view is live again."""
    final = {"service": 400, "policy": 403, "entitlement": 403, "token key": 401}[what]
    if what == "policy":
        rig.ingest("series", "HD", policy_id=7)
    if what == "entitlement":
        rig.put_organization(entitlements_required=True)
    rig.put_service("demo", "1.0")

    def ask() -> int:
        body = challenge(rig.kid("film"))
        if what == "service":
            query = {"service": "later", "version": "2.0", "kid": rig.kid("film").hex(), "ptoken": rig.token("film")}
            return rig.request("POST", "/getlicense", params=query, content=body).status_code
        if what == "token key":
            return rig.clearkey("film", rig.kid("film"), token=rig.token("film", headers={"kid": "later"})).status_code
        asset = "series" if what == "policy" else "film"
        return rig.clearkey(asset, rig.kid(asset), token=rig.token(asset, sub="anna")).status_code

    assert final == ask()
    if trouble == "brokers that are away":
        rig.beat(live=False, ago_s=30)
    elif what == "token key":
        return  # how long a refusal takes must not tell which keys exist: nothing is waited for
    else:
        rig.followed = False
        time.sleep(3 * BEAT_EVERY_S)
        assert rig.life.means.reader.state().live
    assert ask() in {503, 500 if what == "service" else 503}
    rig.beat()
    assert final == ask()


@pytest.mark.parametrize("trouble", ["a lagging view", "a dead follower", "a stopped one"])
def test_readiness_says_that_the_copy_is_old(rig: ProxyRig, trouble: str) -> None:
    """It serves on, and whoever looks is told within five seconds."""
    assert {"status": "ready"} == rig.request("GET", "/readyz").json()
    if trouble == "a lagging view":
        rig.beat(ago_s=7)
    else:
        rig.followed = False
        dead = Heartbeat(
            environment=rig.writer.manifest.environment, boot=boot_id(), ready=True,
            contact_boot_s=time.monotonic() - 6, contact_s=time.time() - 6,
            error="the topic drm.keys.v1 was truncated" if trouble == "a stopped one" else None,
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("keymill.snapshot.state.time.monotonic", lambda real=time.monotonic: real() - 6)
            rig.heartbeat.write(dead)
    told = rig.request("GET", "/readyz")
    expected = {"a lagging view": "7 s old", "a dead follower": "no sign of life", "a stopped one": "truncated"}
    assert 200 == told.status_code
    assert expected[trouble] in told.json()["degraded"]


@pytest.mark.parametrize(("live", "status"), [(True, 404), (False, 503)])
def test_unknown_kids_alone(rig: ProxyRig, live: bool, status: int) -> None:
    """Of a known asset, too: unknown while caught up, undecided while cut off."""
    rig.beat(live=live, ago_s=0 if live else 30)
    assert status == rig.clearkey("film", b"?" * 16).status_code


def test_missing_asset_is_waited_for(tmp_path: Path) -> None:
    """A record that arrives within the wait is served by the request that came before it."""
    rig = ProxyRig(tmp_path, missing_wait_ms=2000)
    try:
        kid = rig.ingest("draft", "HD") and rig.kid("draft")
        timer = threading.Timer(0.1, lambda: rig.ingest("late", "HD"))
        timer.start()
        started = time.monotonic()
        response = rig.clearkey("late", kid)
        assert 0.05 < time.monotonic() - started < 1.9
        refused(response, Reason.NO_KEY_ALLOWED)
        timer.join()
    finally:
        rig.close()


def test_cut_off_proxy_serves_and_says_how_old(rig: ProxyRig) -> None:
    """Caught up once and cut off since: the license comes with the copy's age."""
    rig.beat(live=False, ago_s=120)
    response = rig.clearkey("film", rig.kid("film"))
    assert 200 == response.status_code
    assert 120 <= float(response.headers["x-keymill-staleness"]) < 130


def test_staleness_limit_refuses(tmp_path: Path) -> None:
    """With a limit an old copy is not served from, and /readyz says so."""
    rig = ProxyRig(tmp_path, max_staleness_s=60)
    rig.ingest("film", "HD")
    try:
        assert 200 == rig.clearkey("film", rig.kid("film")).status_code
        rig.beat(live=False, ago_s=61)
        refused(rig.clearkey("film", rig.kid("film")), Reason.TOO_STALE)
        assert (503, "not_ready") == (
            rig.request("GET", "/readyz").status_code,
            rig.request("GET", "/readyz").json()["code"],
        )
    finally:
        rig.close()


def test_health_says_what_is_missing(rig: ProxyRig) -> None:
    """Ready when caught up; otherwise the reason stands in the answer."""
    assert 200 == rig.request("GET", "/healthz").status_code
    assert 200 == rig.request("GET", "/readyz").status_code
    rig.beat(ready=False, live=False)
    assert "caught up" in rig.request("GET", "/readyz").json()["detail"]
    assert "keymill_licenses_total" in rig.request("GET", "/metrics").text


def test_large_requests_are_refused(rig: ProxyRig) -> None:
    """413 for a body or a query beyond its limit, whatever it holds."""
    refused(rig.clearkey("film", content=b"x" * 65_537), Reason.TOO_LARGE)
    refused(rig.clearkey("film", rig.kid("film"), token="t" * 9000), Reason.TOO_LARGE)


def test_altered_record_is_never_a_wrong_key(rig: ProxyRig) -> None:
    """A record that does not open is reported and not served; the copy that was open before is."""
    keys = rig.life.keys
    with rig.life.means.reader.at_once() as view:
        owner = view.owner("demo", rig.kid("film"))
        record = view.key_record(owner.record_key)
    flipped = bytes([record.wrapped[0] ^ 1]) + record.wrapped[1:]
    damaged = msgspec.structs.replace(record, kek_epoch=2, wrapped=flipped)
    rig.put_key_record(owner.record_key, damaged)
    refused(rig.clearkey("film", rig.kid("film")), Reason.KEK_MISSING)
    told = rig.request("GET", "/readyz")
    assert (200, "KEKs are missing: demo epoch 2") == (told.status_code, told.json()["degraded"])
    keys._keks["demo", 2] = keys._keks["demo", 1]
    refused(rig.clearkey("film", rig.kid("film")), Reason.KEY_UNUSABLE)


def test_record_that_opened_before_is_served_on(rig: ProxyRig) -> None:
    """A newer copy under a KEK epoch that is not here leaves the older one in service."""
    before = rig.keys_of(rig.clearkey("film", rig.kid("film")))
    with rig.life.means.reader.at_once() as view:
        owner = view.owner("demo", rig.kid("film"))
        record = view.key_record(owner.record_key)
    rig.put_key_record(
        owner.record_key, msgspec.structs.replace(record, kek_epoch=2, wrapped=b"?" * len(record.wrapped))
    )
    assert before == rig.keys_of(rig.clearkey("film", rig.kid("film")))


def test_new_organizations_keys_arrive_with_a_refresh(rig: ProxyRig) -> None:
    """The KMS is asked beside the requests; what it has afterwards is served without another question."""
    rig.life.keys.refresh()
    assert rig.life.keys.missing() is None
    with pytest.raises(UnknownKey):
        rig.kms.kek("nobody", 1)


def test_snapshot_that_is_begun_anew_is_opened(rig: ProxyRig) -> None:
    """The old copy is served until the new one speaks; then 503 until that one has caught up."""
    before = rig.keys_of(rig.clearkey("film", rig.kid("film")))
    rig.begin_anew()
    assert before == rig.keys_of(rig.clearkey("film", rig.kid("film")))
    rig.beat(ready=False, live=False)
    refused(rig.clearkey("film", rig.kid("film")), Reason.NOT_READY)
    rig.put_token_key("demo", "portal", "EdDSA", public_pem(rig.signers["demo"]))
    rig.ingest("film", "SD", "HD", "AUDIO")
    rig.beat()
    assert before == rig.keys_of(rig.clearkey("film", rig.kid("film")))


def test_decisions_are_audited_without_secrets(rig: ProxyRig) -> None:
    """One JSON line per decision: who, what, why, which KIDs; no token, no challenge, no key."""
    end, written = os.pipe()
    rig.life.means.audit.flush()
    rig.life.means.audit._descriptor = written
    token = rig.token("film", sub="anna")
    granted = rig.clearkey("film", rig.kid("film"), token=token, headers={"x-request-id": "one"})
    assert 200 == granted.status_code
    rig.clearkey("film", b"?" * 16, token=token)
    rig.life.means.audit.flush()
    time.sleep(0.3)  # the writer's own turn
    text = os.read(end, 65_536).decode()
    os.close(end)
    first, second = [json.loads(line) for line in text.splitlines()]
    assert ("one", "granted", "demo", "film", "anna", [rig.kid("film").hex()]) == tuple(
        first[name] for name in ("request_id", "reason", "organization", "asset", "user", "kids")
    )
    assert "unknown_kid" == second["reason"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["timestamp"])
    key = rig.clear[rig.kid("film")]
    assert ("portal", "127.0.0.1", [1]) == tuple(first[name] for name in ("caller", "client", "key_versions"))
    assert ("anna", "portal") == (second["user"], second["caller"])
    for secret in (token, token.split(".")[2], key.hex(), b64(key)):
        assert secret not in text
    assert 'keymill_licenses_total{drm_system="clearkey",outcome="granted"}' in rig.request("GET", "/metrics").text


@pytest.mark.parametrize("reason", Reason)
def test_every_code_is_documented(reason: Reason) -> None:
    """docs/licenses.md names it with its status."""
    lines = (Path(__file__).parents[2] / "docs" / "licenses.md").read_text().splitlines()
    assert any(f"`{reason.value}`" in line and f"| {STATUS[reason]} |" in line for line in lines)


body = st.binary(max_size=300) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(("kids", "type", "x")), inner, max_size=3)
    ),
).map(lambda value: json.dumps(value).encode())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyRig]:
    """One proxy for many requests that change nothing."""
    made = ProxyRig(tmp_path_factory.mktemp("shared"), missing_wait_ms=0)
    made.ingest("film", "SD", "HD", "AUDIO")
    made.put_service()
    yield made
    made.close()


@given(
    content=body,
    token=st.text(max_size=40) | st.just(""),
    path=st.sampled_from(("demo/film", "demo/x", "Ä/ö", "a b/%00")),
)
def test_no_request_is_a_server_error(shared: ProxyRig, content: bytes, token: str, path: str) -> None:
    """Whatever a caller sends is answered with 2xx or 4xx and a code, on every route."""
    shared.beat()
    for given_token in (token, shared.token("film")):
        for url, name in (
            (f"/clearkey/{path}", "token"),
            (f"/api/v1/{path.replace('/', '/assets/')}/drm_license", "access_token"),
        ):
            params = {name: given_token, "drm_type": "clearkey"}
            answer = shared.request("POST", url, params=params, content=content)
            assert answer.status_code < 500, (answer.status_code, answer.text)
            assert answer.status_code == 200 or answer.json()["code"]
        params = {"service": "demo", "version": "1.0", "kid": shared.kid("film").hex(), "ptoken": given_token}
        answer = shared.request("POST", "/getlicense", params=params, content=content)
        assert answer.status_code in (200, 400, 401, 403), answer.text


@given(kids=st.lists(st.binary(min_size=16, max_size=16) | st.just(b"HD"), min_size=1, max_size=5))
def test_only_asked_keys_are_ever_served(shared: ProxyRig, kids: list[bytes]) -> None:
    """The license holds a subset of what was asked, all of it the asset's, all of it right."""
    shared.beat()
    asked = [shared.kid("film") if kid == b"HD" else kid for kid in kids]
    response = shared.clearkey("film", *asked)
    if response.status_code == 200:
        served = shared.keys_of(response)
        assert served and set(served) <= set(asked)
        assert all(shared.clear[kid] == key for kid, key in served.items())
        assert b64(shared.kid("film")) in challenge(*asked).decode()
    else:
        assert 404 == response.status_code


@pytest.mark.parametrize("path", ["/clearkey/demo/film", "/license", "/healthz", "/readyz", "/openapi.json"])
def test_a_slash_at_the_end_means_nothing(rig: ProxyRig, path: str) -> None:
    """No endpoint is 404 or a redirect for it."""
    method = "GET" if path in ("/healthz", "/readyz", "/openapi.json") else "POST"
    options = {"params": {"token": rig.token("film"), "drm": "clearkey", "asset": "film"}} if method == "POST" else {}
    body = {"content": challenge(rig.kid("film"))} if method == "POST" else {}
    first, second = (rig.request(method, f"{path}{end}", **options, **body) for end in ("", "/"))
    assert (200, 200) == (first.status_code, second.status_code), second.text
