"""Business rules on the way to a license: token, organization, entitlement, address; each refusal names its rule."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from keymill.proxy.request import STATUS, Reason
from schemas.access import Entitlement
from schemas.ids import scoped_key
from schemas.policy import Policy, TrackTerms
from schemas.values import DrmSystem
from tests.proxy_rig import ProxyRig, challenge

LABELS = ("SD", "HD", "HD1", "UHD1", "UHD2", "AUDIO", "STEREO_AUDIO", "VIDEO", "HD+UHD1")
SOUND = {"AUDIO", "STEREO_AUDIO"}
UP_TO = {
    "SD": {"SD"},
    "HD": {"SD", "HD", "HD1"},
    "UHD1": {"SD", "HD", "HD1", "UHD1", "HD+UHD1"},
    "UHD2": set(LABELS),
}
PAST, FUTURE = 1_000, 4_000_000_000_000


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[ProxyRig]:
    """A proxy that believes one load balancer."""
    made = ProxyRig(tmp_path, trusted_proxies="10.0.0.0/8", missing_wait_ms=0)
    made.ingest("film", *LABELS, product_id="cinema")
    yield made
    made.close()


def refused(response: httpx.Response, reason: Reason) -> None:
    """The problem document of that reason."""
    assert (STATUS[reason], reason.value) == (response.status_code, response.json()["code"])


def served(rig: ProxyRig, **claims: object) -> set[str]:
    """The labels whose keys a token gets."""
    kids = {label: rig.kid("film", label) for label in LABELS}
    keys = rig.keys_of(rig.clearkey("film", *kids.values(), token=rig.token("film", **claims)))
    return {label for label, kid in kids.items() if kid in keys}


@pytest.mark.parametrize("highest", UP_TO)
def test_the_highest_track_type_limits(rig: ProxyRig, highest: str) -> None:
    """Nothing above it, all sound; what may be any picture counts as the highest, a union as its highest part."""
    assert UP_TO[highest] | SOUND == served(rig, max_track=highest)
    assert (UP_TO[highest] | SOUND) & {"UHD1", "AUDIO"} == served(rig, max_track=highest, tracks=["UHD1", "AUDIO"])


def test_tokens_with_other_limits_do_not_share_terms(rig: ProxyRig) -> None:
    """Merged policies are remembered, and one token's limits are not the next one's."""
    for _ in range(2):
        assert UP_TO["SD"] | SOUND == served(rig, max_track="SD")
        assert set(LABELS) == served(rig)
        assert {"HD"} == served(rig, tracks=["HD"])
        assert UP_TO["HD"] | SOUND == served(rig, max_track="HD")


@pytest.mark.parametrize("wrong", ["8K", "AUDIO", "HD1", "hd", 1, ["HD"]])
def test_an_unknown_track_type_makes_the_token_invalid(rig: ProxyRig, wrong: object) -> None:
    """A limit that nobody understands is not overlooked."""
    refused(rig.clearkey("film", rig.kid("film"), token=rig.token("film", max_track=wrong)), Reason.TOKEN_INVALID)


def test_an_organization_may_require_entitlements(rig: ProxyRig) -> None:
    """It alone, from the moment it says so; the entitlement is looked up here, and its end is the license's."""
    rig.ingest("clip", "HD", organization="other", product_id="cinema")
    server = rig.put_license_server(DrmSystem.WIDEVINE)
    token, anybody = rig.token("film", sub="anna"), rig.token("film")
    assert 200 == rig.clearkey("film", rig.kid("film"), token=token).status_code
    rig.put_organization(entitlements_required=True)
    for refused_token in (token, anybody):
        refused(rig.clearkey("film", rig.kid("film"), token=refused_token), Reason.NOT_ENTITLED)
    foreign = rig.token("clip", organization="other", sub="anna")
    assert 200 == rig.clearkey("clip", rig.kid("clip"), token=foreign, organization="other").status_code
    for until, reason in ((PAST, Reason.NOT_ENTITLED), (FUTURE, None), (None, None)):
        record = Entitlement(organization="demo", user="anna", product="cinema", valid_until=until)
        rig.put(scoped_key("demo", "anna", "cinema"), record)
        response = rig.request("POST", "/widevine/demo/film", params={"token": token}, content=b"x" * 60)
        if reason is not None:
            refused(response, reason)
        else:
            assert 200 == response.status_code
            assert (until is None) == (server.asked[-1].policy.license_duration_s is None)
    refused(rig.clearkey("film", rig.kid("film"), token=anybody), Reason.NOT_ENTITLED)


def test_nothing_of_a_revoked_organization_is_licensed(rig: ProxyRig) -> None:
    """Its tokens are right and its keys are there; once it is back, they are served again."""
    rig.put_license_server(DrmSystem.WIDEVINE)
    rig.put_organization(revoked=True)
    refused(rig.clearkey("film", rig.kid("film")), Reason.ORGANIZATION_REVOKED)
    refused(rig.clearkey("nothing", rig.kid("film")), Reason.ORGANIZATION_REVOKED)
    for body in (b"\x08\x04", b"x" * 60):
        answer = rig.request("POST", "/widevine/demo/film", params={"token": rig.token("film")}, content=body)
        refused(answer, Reason.ORGANIZATION_REVOKED)
    rig.put_organization()
    assert 200 == rig.clearkey("film", rig.kid("film")).status_code


@pytest.mark.parametrize(
    ("peer", "forwarded", "served"),
    [
        ("9.9.9.9", None, True),
        ("10.0.0.7", None, False),
        ("10.0.0.7", "9.9.9.9", True),
        ("10.0.0.7", "1.1.1.1, 9.9.9.9", True),
        ("10.0.0.7", "9.9.9.9, 10.1.1.1", True),
        ("10.0.0.7", "9.9.9.9, 1.1.1.1", False),
        ("10.0.0.7", "9.9.9.9, unknown", False),
        ("1.1.1.1", "9.9.9.9", False),
    ],
)
def test_a_token_bound_to_an_address_believes_listed_proxies_alone(
    rig: ProxyRig, peer: str, forwarded: str | None, served: bool
) -> None:
    """The last unlisted address of the chain asks, and nobody else's word counts."""
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    token = rig.token("film", ip="9.9.9.9")
    answer = rig.clearkey("film", rig.kid("film"), token=token, client=peer, headers=headers)
    if served:
        assert 200 == answer.status_code
    else:
        refused(answer, Reason.TOKEN_ADDRESS)


def test_several_forwarded_headers_are_one(rig: ProxyRig) -> None:
    """In their order, as HTTP says."""
    headers = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "9.9.9.9")]
    token = rig.token("film", ip="9.9.9.9")
    assert 200 == rig.clearkey("film", rig.kid("film"), token=token, client="10.0.0.7", headers=headers).status_code
    turned = rig.clearkey("film", rig.kid("film"), token=token, client="10.0.0.7", headers=headers[::-1])
    refused(turned, Reason.TOKEN_ADDRESS)


def test_other_organizations_assets_are_nobodys_business(rig: ProxyRig) -> None:
    """Whether one exists there or not, every answer is the same, by id and by KID, also while its owner is revoked."""
    rig.ingest("secret", "HD", "HLS_AES128", organization="other")
    rig.put_service()
    rig.put_license_server(DrmSystem.WIDEVINE, organization="other")
    hd, clear = rig.kid("secret", "HD"), rig.kid("secret", "HLS_AES128")
    for revoked in (False, True):
        rig.put_organization("other", revoked=revoked)
        seen = []
        for asset, kid, key in (("secret", hd, clear), ("nothing", b"?" * 16, b"!" * 16)):
            token = rig.token(asset)
            answers = [
                rig.clearkey(asset, kid, token=token, organization="other"),
                rig.clearkey("film", kid),
                rig.request("POST", f"/widevine/other/{asset}", params={"token": token}, content=b"x" * 60),
                rig.request("GET", f"/hls/other/{asset}/{key.hex()}", params={"token": token}),
                rig.request("GET", f"/hls/demo/film/{key.hex()}", params={"token": rig.token("film")}),
                rig.request(
                    "POST", "/license", content=b"x" * 60, params={"drm": "clearkey", "asset": asset, "token": token}
                ),
                rig.request(
                    "POST",
                    "/getlicense",
                    params={"service": "demo", "version": "1.0", "kid": kid.hex(), "ptoken": rig.token("film")},
                    content=challenge(kid),
                ),
            ]
            seen.append([(each.status_code, each.content.replace(asset.encode(), b"")[:90]) for each in answers])
        assert seen[0] == seen[1]


def test_a_single_use_token_is_used_up_by_a_license_alone(rig: ProxyRig) -> None:
    """Refused requests leave it; afterwards nobody is asked for a license in vain."""
    server = rig.put_license_server(DrmSystem.WIDEVINE)
    token = rig.token("film", jti="once")
    refused(rig.clearkey("film", b"?" * 16, token=token), Reason.UNKNOWN_KID)
    refused(rig.clearkey("film", rig.kid("film"), type="persistent-license", token=token), Reason.PERSISTENCE_DENIED)
    assert 200 == rig.clearkey("film", rig.kid("film"), token=token).status_code
    refused(rig.clearkey("film", rig.kid("film"), token=token), Reason.TOKEN_USED)
    answer = rig.request("POST", "/widevine/demo/film", params={"token": token}, content=b"x" * 60)
    refused(answer, Reason.TOKEN_USED)
    assert [] == server.asked
    assert 200 == rig.clearkey("film", rig.kid("film"), token=rig.token("film", jti="another")).status_code


def test_a_used_token_is_told_before_the_right_to_play(rig: ProxyRig) -> None:
    """Like any other invalid token: on /getlicense it is 201, whatever was asked for."""
    rig.put_service()
    token = rig.token("film", jti="spent")
    query = {"service": "demo", "version": "1.0", "kid": rig.kid("film").hex(), "ptoken": token}
    body = challenge(rig.kid("film"))
    assert 200 == rig.request("POST", "/getlicense", params=query, content=body).status_code
    answer = rig.request("POST", "/getlicense", params=query | {"kid": "0" * 32}, content=body)
    assert (401, 201) == (answer.status_code, answer.json()["errorCode"])


def test_two_at_once_share_no_single_use_token(rig: ProxyRig) -> None:
    """Both reach the license server, which takes its time; one license is given."""
    server = rig.put_license_server(DrmSystem.WIDEVINE, delay_s=0.05)
    query = {"token": rig.token("film", jti="twice")}
    answers = rig.together(*[("POST", "/widevine/demo/film", {"params": query, "content": b"x" * 60})] * 2)
    assert [200, 401] == sorted(answer.status_code for answer in answers)
    assert 2 == len(server.asked)


def test_service_limits_hold_for_its_licenses_alone(rig: ProxyRig) -> None:
    """Tighter than the stored policy they win, looser they do not; another route does not know them."""
    rig.put_policy(0, license_duration_s=600)
    server = rig.put_license_server(DrmSystem.WIDEVINE)
    rig.put_service("short", drm_system=DrmSystem.WIDEVINE, limits=Policy(license_duration_s=60, can_persist=True))
    rig.put_service("long", drm_system=DrmSystem.WIDEVINE, limits=Policy(license_duration_s=0))
    rig.put_service("low", drm_system=DrmSystem.WIDEVINE, limits=Policy(allowed_tracks=("SD", "AUDIO")))
    found = {}
    for _ in range(2):  # the second time from what is remembered
        for name in ("short", "long", "low"):
            query = {"service": name, "version": "1.0", "kid": rig.kid("film").hex(), "ptoken": rig.token("film")}
            assert 200 == rig.request("POST", "/getlicense", params=query, content=b"x" * 60).status_code
            found[name] = server.asked[-1]
        rig.request("POST", "/widevine/demo/film", params={"token": rig.token("film")}, content=b"x" * 60)
        assert (600, len(LABELS)) == (server.asked[-1].policy.license_duration_s, len(server.asked[-1].keys))
    assert (60, None) == (found["short"].policy.license_duration_s, found["short"].policy.can_persist)
    assert 600 == found["long"].policy.license_duration_s
    assert ["SD", "AUDIO"] == [key.label for key in found["low"].keys]


def test_a_changed_service_changes_its_licenses(rig: ProxyRig) -> None:
    """What was remembered was merged from another record."""
    server = rig.put_license_server(DrmSystem.WIDEVINE)
    query = {"service": "demo", "version": "1.0", "kid": rig.kid("film").hex(), "ptoken": rig.token("film")}
    for seconds in (60, 30):
        rig.put_service(drm_system=DrmSystem.WIDEVINE, limits=Policy(license_duration_s=seconds))
        rig.request("POST", "/getlicense", params=query, content=b"x" * 60)
        assert seconds == server.asked[-1].policy.license_duration_s


def test_a_policys_key_id_must_be_the_tracks(rig: ProxyRig) -> None:
    """A stored spec that names another KID than the asset's is a conflict, never another key."""
    rig.ingest("clip", "SD", "HD", policy_id=4)
    for kid, label in ((rig.kid("clip", "SD"), "HD"), (rig.kid("film", "HD"), "HD"), (b"?" * 16, "HD")):
        rig.put_policy(4, version=int(rig._next()), tracks=(TrackTerms(label=label, kid=kid), TrackTerms(label="SD")))
        refused(rig.clearkey("clip", rig.kid("clip")), Reason.KEY_MISMATCH)
    right = TrackTerms(label="HD", kid=rig.kid("clip", "HD"))
    elsewhere = TrackTerms(label="UHD1", kid=b"?" * 16)
    rig.put_policy(4, version=int(rig._next()), tracks=(right, TrackTerms(label="SD"), elsewhere))
    assert 200 == rig.clearkey("clip", rig.kid("clip")).status_code
