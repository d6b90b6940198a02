"""Policy: who is refused and why, whose terms win, and which tracks are granted."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.core.merging import allows, released, tighten
from keymill.core.period import index_at
from keymill.core.policy import BUILT_IN_DEFAULT, Asks, Grant, Refusal, Scope, admit, effective_policy, uncovered
from keymill.core.provisioning import make_key_record, needed
from keymill.errors import InvalidRecord
from schemas.access import Entitlement
from schemas.events import AssetRevoked
from schemas.policy import Policy, TrackTerms
from schemas.records import PolicyRecord, PolicyState
from schemas.values import TRACK_TYPES, LogPosition
from tests.builders import KEYS, NOW, event, folded, ingest, rotate
from tests.property.strategies import LABEL, POLICIES, optional, tuples

REPLACE = msgspec.structs.replace
ASSET = folded(ingest("SD", "HD", "AUDIO", product_id="gold"))
SCOPE = Scope(asset="bbb")
GOLD = Entitlement(organization="demo", user="u", product="gold")
STORED = PolicyRecord(
    organization="demo",
    policy_id=7,
    version=1,
    state=PolicyState.READY,
    name="p",
    policy=Policy(can_play=True, can_persist=True),
    applied=LogPosition(generation=0, offset=0),
    created=0,
    changed=0,
)


def _code(decision):
    return decision.code if isinstance(decision, Refusal) else "granted"


def test_policy_0_exists_from_the_start_and_can_be_changed():
    """Built in: plays online, stores nothing, limits nothing; a stored one replaces it."""
    assert effective_policy(ASSET, None) == BUILT_IN_DEFAULT == Policy(can_play=True)
    changed = REPLACE(STORED, policy_id=0)
    assert effective_policy(ASSET, changed) == changed.policy


def test_a_missing_policy_is_never_replaced_by_another():
    """Not by the default, not by one of another id or organization."""
    asset = REPLACE(ASSET, policy_id=7)
    assert effective_policy(asset, STORED) == STORED.policy
    for stored in (None, REPLACE(STORED, policy_id=8), REPLACE(STORED, organization="other")):
        assert _code(effective_policy(asset, stored)) == "policy_missing"


def test_a_deleted_policy_holds_on_for_its_assets():
    """It takes no new assignments; what is assigned keeps playing."""
    assert effective_policy(REPLACE(ASSET, policy_id=7), REPLACE(STORED, state=PolicyState.DELETED)) == STORED.policy


@pytest.mark.parametrize(
    ("asset", "scope", "code"),
    [
        (ASSET, Scope(asset="bbb"), "granted"),
        (ASSET, Scope(product="gold"), "granted"),
        (ASSET, Scope(asset="bbb", product="gold"), "granted"),
        (ASSET, Scope(), "token_scope"),
        (ASSET, Scope(asset="ccc"), "token_scope"),
        (ASSET, Scope(product="silver"), "token_scope"),
        (ASSET, Scope(asset="bbb", product="silver"), "token_scope"),
        (folded(ingest()), Scope(product="gold"), "token_scope"),
        (folded(ingest(), event(AssetRevoked())), SCOPE, "asset_revoked"),
        (folded(ingest(available_from=NOW + 1)), SCOPE, "not_yet_available"),
        (folded(ingest(available_from=NOW)), SCOPE, "granted"),
        (folded(ingest(available_until=NOW)), SCOPE, "no_longer_available"),
        (folded(ingest(available_until=NOW + 1)), SCOPE, "granted"),
        (ASSET, Scope(asset="bbb", tracks=("UHD1",)), "no_key_allowed"),
        (ASSET, Scope(asset="bbb", tracks=()), "no_key_allowed"),
    ],
)
def test_business_rules(asset, scope, code):
    """Token, state and window; a window's start is inclusive, its end exclusive."""
    assert _code(admit(asset, BUILT_IN_DEFAULT, scope=scope, now_ms=NOW)) == code


@pytest.mark.parametrize(
    ("entitlement", "code"),
    [
        (GOLD, "granted"),
        (None, "not_entitled"),
        (REPLACE(GOLD, valid_until=NOW), "not_entitled"),
        (REPLACE(GOLD, valid_until=NOW + 1), "granted"),
        (REPLACE(GOLD, product="silver"), "not_entitled"),
        (REPLACE(GOLD, organization="other"), "not_entitled"),
    ],
)
def test_an_entitlement_is_asked_for_where_it_is_required(entitlement, code):
    """And ignored where it is not."""
    asked = {"scope": SCOPE, "now_ms": NOW, "entitlement": entitlement}
    assert _code(admit(ASSET, BUILT_IN_DEFAULT, entitlement_required=True, **asked)) == code
    assert _code(admit(ASSET, BUILT_IN_DEFAULT, entitlement_required=False, **asked)) == "granted"
    without = folded(ingest())
    assert _code(admit(without, BUILT_IN_DEFAULT, entitlement_required=True, **asked)) == "not_entitled"


def test_a_policy_that_forbids_playback_refuses():
    """Whatever else it says."""
    assert _code(admit(ASSET, Policy(can_play=False), scope=SCOPE, now_ms=NOW)) == "playback_denied"


def test_all_tracks_that_policy_and_token_allow_are_granted():
    """Of every key version, in order of appearance; the intersection of both."""
    asset = folded(ingest("UHD1"), ingest("SD"), rotate(2), ingest("AUDIO", periods=(0, 1)))
    assert admit(asset, BUILT_IN_DEFAULT, scope=SCOPE, now_ms=NOW).tracks == ("UHD1", "SD", "AUDIO")
    policy = Policy(can_play=True, allowed_tracks=("SD", "AUDIO"))
    scope = Scope(asset="bbb", tracks=("UHD1", "AUDIO"))
    assert admit(asset, policy, scope=scope, now_ms=NOW).tracks == ("AUDIO",)


def test_no_license_outlasts_the_window_or_the_entitlement():
    """The shortest of policy, window and entitlement, in whole seconds and at least one."""
    asset = folded(ingest(product_id="gold", available_until=NOW + 100_900))
    asked = {"scope": SCOPE, "now_ms": NOW}
    assert admit(asset, BUILT_IN_DEFAULT, **asked).policy.license_duration_s == 100
    assert admit(asset, Policy(can_play=True, license_duration_s=60), **asked).policy.license_duration_s == 60
    entitled = {"entitlement": REPLACE(GOLD, valid_until=NOW + 5), "entitlement_required": True}
    assert admit(asset, BUILT_IN_DEFAULT, **asked, **entitled).policy.license_duration_s == 1


@given(now=st.integers(NOW, NOW + 300_000))
def test_live_grants_the_current_and_the_next_period(now):
    """Of the keys that exist, those of two periods and no others; static keys at any time."""
    asset = folded(ingest("SD", periods=(0, 40)), ingest("AUDIO"))
    grant = admit(asset, BUILT_IN_DEFAULT, scope=SCOPE, now_ms=now)
    assert isinstance(grant, Grant)
    records = [make_key_record(asset, need, KEYS) for need in needed(asset, None)]
    covered = [
        record.period and record.period.index for record in records if grant.covers(record, record.tracks[0].label)
    ]
    current = index_at(now, period_s=10, start=NOW)
    assert sorted(covered, key=lambda index: -1 if index is None else index) == [None, current, current + 1]
    assert not any(grant.covers(record, "UHD1") for record in records)


@given(policy=POLICIES, tracks=optional(tuples(LABEL)), now=st.integers(NOW - 5, NOW + 5))
def test_a_grant_is_never_looser_than_policy_and_token(policy, tracks, now):
    """Whatever is granted, both allow; and its terms are the policy's or stricter."""
    asset = folded(ingest("SD", "HD", "HD+UHD1", available_from=NOW, available_until=NOW + 3))
    decision = admit(asset, policy, scope=Scope(asset="bbb", tracks=tracks), now_ms=now)
    if isinstance(decision, Refusal):
        assert decision.message
        return
    assert policy.can_play
    assert uncovered(asset, policy) == ()
    assert NOW <= now < NOW + 3
    for label in decision.tracks:
        assert allows(released(policy), label)
        assert allows(tracks, label)
        assert allows(decision.policy.allowed_tracks, label)
    assert REPLACE(tighten(decision.policy, policy), allowed_tracks=None) == REPLACE(
        decision.policy, allowed_tracks=None
    )


SPECS = Policy(can_play=True, tracks=(TrackTerms(label="SD"), TrackTerms(label="HD")))


def test_track_specs_must_name_every_declared_track():
    """A declared track without a spec is refused by name; of an asset whose event named none they choose the keys."""
    declared = admit(ASSET, SPECS, scope=SCOPE, now_ms=NOW)
    assert _code(declared) == "tracks_not_named"
    assert "AUDIO missing" in declared.message
    assert admit(folded(ingest(tracks=None)), SPECS, scope=SCOPE, now_ms=NOW).tracks == ("SD", "HD")
    wish = Asks(limits=(Policy(tracks=(TrackTerms(label="SD"),)),))
    assert _code(admit(ASSET, BUILT_IN_DEFAULT, scope=SCOPE, now_ms=NOW, asks=wish)) == "tracks_not_named"


def test_the_clear_hls_key_need_not_be_named():
    """No track type is its own: specs that leave it out withhold it, and it is never in a license."""
    asset = folded(ingest("SD", "HD", "HLS_AES128"))
    assert admit(asset, SPECS, scope=SCOPE, now_ms=NOW).tracks == ("SD", "HD")
    grant = admit(asset, BUILT_IN_DEFAULT, scope=SCOPE, now_ms=NOW)
    (record,) = [make_key_record(asset, need, KEYS) for need in needed(asset, None)]
    assert [grant.covers(record, label) for label in ("SD", "HLS_AES128")] == [True, False]
    assert [grant.covers(record, label, clear=True) for label in ("SD", "HLS_AES128")] == [False, True]


@given(policy=POLICIES, highest=st.sampled_from(TRACK_TYPES), labels=st.lists(LABEL, min_size=1, unique=True))
def test_a_highest_track_type_only_takes_away(policy, highest, labels):
    """What is left is left by the next higher one too; the highest of all takes nothing."""
    asset = folded(ingest(*labels))

    def left(max_track):
        decision = admit(asset, policy, scope=Scope(asset="bbb", max_track=max_track), now_ms=NOW)
        return set(decision.tracks) if isinstance(decision, Grant) else set()

    higher = TRACK_TYPES[TRACK_TYPES.index(highest) :]
    assert all(left(highest) <= left(each) for each in higher)
    assert left("UHD2") == left(None)
    sound = {label for label in left(None) if all("AUDIO" in part for part in label.split("+"))}
    assert sound <= left(highest)


def test_an_unknown_highest_track_type_is_refused():
    """A limit must be one that is understood."""
    with pytest.raises(InvalidRecord):
        Scope(asset="bbb", max_track="HD1")


def test_overrides_may_loosen_and_limits_may_not():
    """A server-side caller's durations and permissions stand over the stored ones; a player's only under them."""
    stored = Policy(can_play=True, can_persist=False, license_duration_s=60)
    loose = Policy(can_persist=True, license_duration_s=0)
    over = admit(ASSET, stored, scope=SCOPE, now_ms=NOW, asks=Asks(overrides=loose)).policy
    assert (over.can_persist, over.license_duration_s) == (True, 0)
    wished = admit(ASSET, stored, scope=SCOPE, now_ms=NOW, asks=Asks(limits=(loose,))).policy
    assert (wished.can_persist, wished.license_duration_s) == (False, 60)


def test_exclusive_overrides_drop_the_stored_policy():
    """Nothing of what is stored holds; without can_play there is no license."""
    stored = Policy(can_play=True, can_persist=True)
    alone = Asks(overrides=Policy(can_play=True), exclusively=True)
    assert admit(ASSET, stored, scope=SCOPE, now_ms=NOW, asks=alone).policy.can_persist is None
    silent = Asks(overrides=Policy(can_persist=True), exclusively=True)
    assert _code(admit(ASSET, stored, scope=SCOPE, now_ms=NOW, asks=silent)) == "playback_denied"
