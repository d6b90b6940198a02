"""Several policies into one: overrides replace, limits only tighten, and nobody's wish loosens what is stored."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.core.merging import (
    allows,
    fairplay_terms,
    override,
    playready_terms,
    released,
    tighten,
    unnamed,
    widevine_terms,
)
from schemas.policy import Cgms, FairPlayTerms, Hdcp, PlayReadyTerms, Policy, SrmRule, TrackTerms, WidevineTerms
from tests.property.strategies import LABEL, POLICIES

REPLACE = msgspec.structs.replace
TERMS = {WidevineTerms: widevine_terms, PlayReadyTerms: playready_terms, FairPlayTerms: fairplay_terms}
PERMISSIONS = ("can_play", "can_persist", "can_renew")
DURATIONS = ("license_duration_s", "rental_duration_s", "playback_duration_s")
ORDER = {
    "security_level": list(range(0, 3001)),
    "hdcp": list(Hdcp),
    "cgms": list(Cgms),
    "disable_analog_output": [False, True],
    "hdcp_srm_rule": list(SrmRule),
    "override_device_revocation": [True, False],
    "digital_video_level": list(range(302)),
    "analog_video_level": list(range(302)),
    "digital_audio_level": list(range(302)),
    "hdcp_type1": [False, True],
    "hdcp_enforcement": [-1, 0, 1],
    "allow_airplay": [True, False],
    "allow_av_adapter": [True, False],
}
"""Every demand's values, the loosest first."""
GIVEN_BY_THE_FIRST = ("override_device_revocation", "allow_airplay", "allow_av_adapter")


def whole_terms(policy, kind):
    """What is demanded for every track."""
    return next(
        (terms for terms in (policy.widevine, policy.playready, policy.fairplay) if type(terms) is kind), kind()
    )


def rank(name, value):
    return -1 if value is None else ORDER[name].index(value)


@given(policies=st.lists(POLICIES, min_size=1, max_size=4), label=LABEL)
def test_tightening_never_loosens(policies, label):
    """Each member is at least as strict as in every policy that was merged; permission is the first one's to give."""
    merged = tighten(*policies)
    for name in PERMISSIONS:
        said = [getattr(policy, name) for policy in policies]
        assert getattr(merged, name) == (False if False in said else said[0])
    for name in DURATIONS:
        said = [s for policy in policies if (s := getattr(policy, name)) is not None]
        assert getattr(merged, name) == (min((s for s in said if s), default=0) if said else None)
    assert allows(released(merged), label) == all(allows(released(policy), label) for policy in policies)


@given(policies=st.lists(POLICIES, min_size=2, max_size=4), label=LABEL)
def test_every_demand_is_the_strictest_one(policies, label):
    """Per track and DRM system; what the first leaves to the license server nobody after it may allow."""
    merged = tighten(*policies)
    for kind, terms in TERMS.items():
        for name in kind.__struct_fields__:
            said = [getattr(terms(policy, label), name) for policy in policies]
            found = getattr(terms(merged, label), name)
            if name in GIVEN_BY_THE_FIRST:
                expected = False if False in said else said[0]
                if expected is None and any(getattr(whole_terms(policy, kind), name) is False for policy in policies):
                    expected = False  # a track takes back what the whole title forbids by a word, not by silence
                assert found == expected, (name, said)
            else:
                assert rank(name, found) == max(rank(name, value) for value in said), (name, said)


@given(first=POLICIES, second=POLICIES, third=POLICIES, label=LABEL)
def test_tightening_is_idempotent_and_the_limits_need_no_order(first, second, third, label):
    """Whoever's wishes come first, the terms for a track are the same."""

    def meaning(policy):
        flat = REPLACE(policy, allowed_tracks=None, tracks=None, source=None)
        return flat, allows(released(policy), label), [terms(policy, label) for terms in TERMS.values()]

    assert meaning(tighten(first, first)) == meaning(first)
    assert meaning(tighten(first, second, third)) == meaning(tighten(first, third, second))
    assert meaning(tighten(tighten(first, second), third)) == meaning(tighten(first, second, third))


@given(policy=POLICIES, overrides=POLICIES)
def test_an_override_says_the_last_word(policy, overrides):
    """What it says holds, looser or not; what it leaves out stays."""
    merged = override(policy, overrides)
    for name in (*PERMISSIONS, *DURATIONS):
        said = getattr(overrides, name)
        assert getattr(merged, name) == (getattr(policy, name) if said is None else said)
    assert override(policy, None) is policy


@given(policy=POLICIES, overrides=POLICIES, label=LABEL)
def test_an_override_s_track_specs_choose_the_tracks(policy, overrides, label):
    """Instead of what was allowed; what it allows chooses among the tracks of stored specs, whose demands stay."""
    merged = override(policy, overrides)
    if overrides.tracks is not None:
        assert allows(released(merged), label) == allows(released(overrides), label)
    elif overrides.allowed_tracks is not None:
        named = None if policy.tracks is None else [track.label for track in policy.tracks]
        assert allows(released(merged), label) == (allows(overrides.allowed_tracks, label) and allows(named, label))
    else:
        assert allows(released(merged), label) == allows(released(policy), label)


def test_an_override_of_one_demand_keeps_the_others():
    """Members of a struct are replaced one by one, of a track spec too."""
    stored = Policy(
        widevine=WidevineTerms(security_level=3, hdcp=Hdcp.HDCP_V1),
        tracks=(TrackTerms(label="HD", widevine=WidevineTerms(security_level=5)), TrackTerms(label="SD")),
    )
    over = Policy(
        widevine=WidevineTerms(hdcp=Hdcp.HDCP_V2),
        tracks=(TrackTerms(label="HD", widevine=WidevineTerms(cgms=Cgms.COPY_NEVER)),),
    )
    merged = override(stored, over)
    assert widevine_terms(merged, "HD") == WidevineTerms(security_level=5, hdcp=Hdcp.HDCP_V2, cgms=Cgms.COPY_NEVER)
    assert [track.label for track in merged.tracks] == ["HD"]
    assert widevine_terms(merged, "AUDIO") == WidevineTerms(security_level=3, hdcp=Hdcp.HDCP_V2)


@pytest.mark.parametrize("loose", [Policy(can_persist=True), Policy(license_duration_s=0), Policy(can_renew=True)])
def test_a_wish_cannot_grant_what_was_not_said(loose):
    """A stored policy that says nothing of persistence does not persist because a player asks."""
    stored = Policy(can_play=True, license_duration_s=60)
    assert tighten(stored, loose) == stored


def test_track_specs_that_leave_a_declared_label_out_are_found():
    """By name; a union is covered by its parts."""
    specs = Policy(tracks=(TrackTerms(label="SD"), TrackTerms(label="HD")))
    assert unnamed([specs], ["SD", "HD+SD", "AUDIO"]) == ("AUDIO",)
    assert unnamed([Policy()], ["SD"]) == ()
