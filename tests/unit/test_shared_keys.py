"""A key that opens several tracks has the strictest terms of all, and needs leave for every one of them."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.core.merging import fairplay_terms, playready_terms, tighten, widevine_terms
from keymill.core.policy import highest
from keymill.proxy.upstream import entitlement_message, widevine_message
from keymill.secret import Secret
from schemas.events import TrackWish
from schemas.policy import FairPlayTerms, Hdcp, PlayReadyTerms, Policy, TrackTerms, WidevineTerms
from schemas.records import AssetRecord
from schemas.values import DEFAULT_LABELS, DrmSystem
from tests import builders
from tests.granted import granted, key
from tests.property.strategies import POLICIES
from tests.proxy_rig import ProxyRig

K = b"k" * 16
TERMS = {DrmSystem.WIDEVINE: widevine_terms, DrmSystem.PLAYREADY: playready_terms, DrmSystem.FAIRPLAY: fairplay_terms}
LOOSE = WidevineTerms(security_level=1, hdcp=Hdcp.HDCP_NONE)
STRICT = WidevineTerms(security_level=5, hdcp=Hdcp.HDCP_V2)
SPECS = Policy(
    can_play=True,
    tracks=(
        TrackTerms(label="SD", widevine=LOOSE, playready=PlayReadyTerms(security_level=150)),
        TrackTerms(
            label="HD", widevine=STRICT, playready=PlayReadyTerms(security_level=3000),
            fairplay=FairPlayTerms(hdcp_enforcement=1, allow_airplay=False),
        ),
        TrackTerms(label="AUDIO"),
    ),
)  # fmt: skip
SHARED = st.lists(st.sampled_from([*DEFAULT_LABELS, "HD+UHD1", "HD1"]), min_size=1, max_size=4, unique=True)


@given(POLICIES, SHARED, st.sampled_from(sorted(TERMS)), st.randoms())
def test_shared_terms_are_never_looser_than_a_tracks(
    policy: Policy, labels: list[str], system: DrmSystem, r: Any
) -> None:
    """In every DRM system, whatever the order: tightening them by those of any track changes nothing."""
    terms_of, name = TERMS[system], system.value
    shared = terms_of(policy, *labels)
    mixed = list(labels)
    r.shuffle(mixed)
    assert shared == terms_of(policy, *mixed)
    for label in {part for label in labels for part in (label, *label.split("+"))}:
        if label not in labels and label in DEFAULT_LABELS and any(t.label == f"{label}+" for t in policy.tracks or ()):
            continue
        own = terms_of(policy, label)
        one, other = (Policy(tracks=(TrackTerms(label="SD", **{name: each}),)) for each in (shared, own))
        if "+" in label or label in labels:
            assert shared == terms_of(tighten(one, other), "SD")


def test_a_union_has_the_terms_of_its_parts() -> None:
    """A track of several classes without a spec of its own; one that is named has its own."""
    assert STRICT == widevine_terms(SPECS, "SD+HD")
    named = msgspec.structs.replace(SPECS, tracks=(*(SPECS.tracks or ()), TrackTerms(label="SD+HD", widevine=LOOSE)))
    assert LOOSE == widevine_terms(named, "SD+HD")


def test_permission_is_given_by_all_or_none() -> None:
    """AirPlay of one track does not open another that says nothing."""
    policy = Policy(tracks=(TrackTerms(label="SD", fairplay=FairPlayTerms(allow_airplay=True)), TrackTerms(label="HD")))
    assert [None, None] == [fairplay_terms(policy, *labels).allow_airplay for labels in (("SD", "HD"), ("HD", "SD"))]
    assert fairplay_terms(policy, "SD").allow_airplay is True


def test_one_label_stands_for_a_shared_key() -> None:
    """The highest, whatever the order."""
    assert ["HD", "HD", "UHD2", "AUDIO", "ALL"] == [
        highest(labels)
        for labels in (("SD", "HD", "AUDIO"), ("AUDIO", "HD", "SD"), ("UHD2", "UHD1"), ("AUDIO",), ("UHD2", "ALL"))
    ]


@pytest.mark.parametrize("labels", [("SD", "HD", "AUDIO"), ("AUDIO", "HD", "SD")])
def test_what_license_servers_are_told(labels: tuple[str, ...]) -> None:
    """One spec, one usage policy, each with HD's demands."""
    shared = msgspec.structs.replace(key("HD"), labels=labels)
    message = json.loads(widevine_message.license_message(granted(SPECS, shared)))
    (spec,) = message["content_key_specs"]
    assert ("HD", 5, "HDCP_V2") == (
        spec["track_type"], spec["security_level"], spec["required_output_protection"]["hdcp"]
    )  # fmt: skip
    secret = Secret(b"s" * 32)
    for system in TERMS:
        told = entitlement_message.license_message(
            granted(SPECS, shared, key("SD", 2), system=system), key=secret, key_id="id", expires_ms=1
        )
        read = jwt.decode(told, secret.reveal(), algorithms=["HS256"])["message"]
        usages = {each["name"]: each[system.value] for each in read["content_key_usage_policies"]}
        names = [each["usage_policy"] for each in read["content_keys_source"]["inline"]]
        assert names == list(usages) == ["/".join(labels), "SD"]
        level = {"widevine": "device_security_level", "playready": "min_device_security_level", "fairplay": "hdcp"}
        strict = {"widevine": "HW_SECURE_ALL", "playready": 3000, "fairplay": "TYPE1"}
        assert strict[system.value] == usages["/".join(labels)][level[system.value]]


def one_event(rig: ProxyRig) -> AssetRecord:
    """A single key."""
    return rig.ingest("film", "SD", "HD", "AUDIO", single_key=True)


def two_events(rig: ProxyRig) -> AssetRecord:
    """A single key, whose stricter tracks come later and stand in a record of their own."""
    held = rig.ingest("film", "SD", "AUDIO", single_key=True)
    return rig.ingest("film", "HD", held=held)


def one_kid(rig: ProxyRig) -> AssetRecord:
    """A KID that the caller chose for all."""
    tracks = tuple(TrackWish(label=label, kid=K) for label in ("SD", "HD", "AUDIO"))
    return rig.ingest("film", tracks=tracks)


def one_kid_later(rig: ProxyRig) -> AssetRecord:
    """A KID that a later event gives to a stricter track too."""
    held = rig.ingest("film", tracks=tuple(TrackWish(label=label, kid=K) for label in ("AUDIO", "SD")))
    return rig.ingest("film", tracks=(TrackWish(label="HD", kid=K),), held=held)


def periods(rig: ProxyRig) -> AssetRecord:
    """A single key in each crypto period."""
    return rig.ingest("film", "SD", "HD", "AUDIO", single_key=True, periods=(0, 2), start=None)


@pytest.fixture(params=[one_event, two_events, one_kid, one_kid_later, periods], ids=lambda make: make.__name__)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ProxyRig]:
    """A proxy with an asset whose tracks share a key, under the policy above."""
    made = ProxyRig(tmp_path)
    request.param(made)
    made.put_policy(0, **{name: getattr(SPECS, name) for name in ("can_play", "tracks")})
    yield made
    made.close()


def ask(rig: ProxyRig, system: DrmSystem, **claims: Any) -> Any:
    """A challenge of that DRM system."""
    token = rig.token("film", **claims)
    if system is DrmSystem.CLEARKEY:
        return rig.clearkey("film", *rig.kids.values(), token=token)
    return rig.request("POST", f"/{system.value}/demo/film", params={"token": token}, content=b"c" * 64)


@pytest.mark.parametrize("system", list(TERMS))
def test_a_shared_key_is_licensed_on_the_strictest_terms(rig: ProxyRig, system: DrmSystem) -> None:
    """Each KID once, with every track that it opens."""
    server = rig.put_license_server(system)
    assert 200 == ask(rig, system).status_code
    (told,) = server.asked
    assert {*rig.kids.values()} == {each.kid for each in told.keys}
    for each in told.keys:
        assert ({"SD", "HD", "AUDIO"}, "HD") == (set(each.labels), each.label)
        assert TERMS[system](told.policy, "HD") == TERMS[system](told.policy, *each.labels)


@pytest.mark.parametrize("system", list(DrmSystem))
@pytest.mark.parametrize("claims", [{"tracks": ["AUDIO"]}, {"max_track": "SD"}, {"tracks": ["SD", "AUDIO"]}])
def test_who_may_not_have_a_track_does_not_get_its_key(
    rig: ProxyRig, system: DrmSystem, claims: dict[str, Any]
) -> None:
    """The refusal says which track the key opens too."""
    if system is not DrmSystem.CLEARKEY:
        rig.put_license_server(system)
    answer = ask(rig, system, **claims)
    assert (403, "no_key_allowed") == (answer.status_code, answer.json()["code"])
    assert "also opens " in answer.json()["detail"] and "HD, which" in answer.json()["detail"]


def test_a_spec_by_kid_is_about_every_track_that_it_opens(rig: ProxyRig) -> None:
    """A server-side request names the KID once; no track is left out, and its demands hold for all."""
    server = rig.put_license_server(DrmSystem.WIDEVINE)
    kid = next(iter(rig.kids.values()))
    spec = {"key_id": base64.b64encode(kid).decode(), "security_level": 5}
    body = {"payload": base64.b64encode(b"c" * 64).decode(), "content_key_specs": [spec]}
    answer = rig.request(
        "POST", "/widevine/demo/film", params={"token": rig.token("film", server_side=True)},
        content=json.dumps(body), headers={"content-type": "application/json"},
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    assert 5 == widevine_terms(server.asked[0].policy, "SD").security_level


def test_an_imported_key_that_is_another_records_derived_one_is_shared(tmp_path: Path) -> None:
    """Its KID stands in the index under the record that had it first."""
    made = ProxyRig(tmp_path)
    try:
        held = made.ingest("film", "SD")
        kid = made.kid("film", "SD")
        imported = builders.imported(kid, made.clear[kid])
        made.given[kid] = made.clear[kid]
        made.ingest("film", tracks=(TrackWish(label="HD", kid=kid, imported=imported),), held=held)
        server = made.put_license_server(DrmSystem.WIDEVINE)
        made.request("POST", "/widevine/demo/film", params={"token": made.token("film")}, content=b"c" * 64)
        assert {kid: {"SD", "HD"}} == {each.kid: set(each.labels) for each in server.asked[0].keys}
        answer = ask(made, DrmSystem.WIDEVINE, tracks=["HD"])
        assert "the key of HD also opens SD, which" in answer.json()["detail"]
    finally:
        made.close()
