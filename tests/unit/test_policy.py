"""Policy: who is refused and why, whose terms win, and which tracks are granted."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.core.period import index_at
from keymill.core.policy import BUILT_IN_DEFAULT, Grant, Refusal, Scope, admit, allows, effective_policy, tighten
from keymill.core.provisioning import make_key_record, needed
from schemas.access import Entitlement
from schemas.events import AssetRevoked, Policy
from schemas.records import PolicyRecord, PolicyState
from schemas.values import LogPosition
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


@given(policies=st.lists(POLICIES, min_size=1, max_size=4), label=LABEL)
def test_tightening_never_loosens(policies, label):
    """Each field is at least as strict as in every policy that was merged, and no stricter than the strictest."""
    merged = tighten(*policies)
    assert merged.can_play == all(policy.can_play for policy in policies)
    assert merged.can_persist == all(policy.can_persist for policy in policies)
    assert merged.can_renew == all(policy.can_renew for policy in policies)
    for name in ("license_duration_s", "rental_duration_s", "playback_duration_s"):
        given_s = [getattr(policy, name) for policy in policies]
        assert getattr(merged, name) == min((s for s in given_s if s), default=0)
    assert allows(merged.allowed_tracks, label) == all(allows(policy.allowed_tracks, label) for policy in policies)


@given(first=POLICIES, second=POLICIES, third=POLICIES, label=LABEL)
def test_merging_is_idempotent_and_needs_no_order(first, second, third, label):
    """Whoever's wishes come first, the terms are the same."""

    def meaning(policy):
        return REPLACE(policy, allowed_tracks=None), allows(policy.allowed_tracks, label)

    assert meaning(tighten(first, first)) == meaning(tighten(first))
    assert meaning(tighten(first, second, third)) == meaning(tighten(third, first, second))
    assert meaning(tighten(tighten(first, second), third)) == meaning(tighten(first, second, third))


@given(policy=POLICIES, tracks=optional(tuples(LABEL)), now=st.integers(NOW - 5, NOW + 5))
def test_a_grant_is_never_looser_than_policy_and_token(policy, tracks, now):
    """Whatever is granted, both allow; and its terms are the policy's or stricter."""
    asset = folded(ingest("SD", "HD", "HD+UHD1", available_from=NOW, available_until=NOW + 3))
    decision = admit(asset, policy, scope=Scope(asset="bbb", tracks=tracks), now_ms=now)
    if isinstance(decision, Refusal):
        assert decision.message
        return
    assert policy.can_play
    assert NOW <= now < NOW + 3
    for label in decision.tracks:
        assert allows(policy.allowed_tracks, label)
        assert allows(tracks, label)
        assert allows(decision.policy.allowed_tracks, label)
    assert REPLACE(tighten(policy, decision.policy), allowed_tracks=None) == REPLACE(
        decision.policy, allowed_tracks=None
    )
