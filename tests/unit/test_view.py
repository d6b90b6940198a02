"""The guard: what becomes of each record that a view reads, given what it holds."""

import msgspec
import pytest

from keymill.core.folding import fold
from keymill.core.provisioning import Keys, make_key_record, needed
from keymill.core.view import (
    APPLIED,
    SAME,
    KidOwner,
    judge_asset_record,
    judge_key_record,
    judge_policy_record,
    misplaced,
    quarantined,
    stale,
)
from keymill.secret import Secret
from schemas.ids import asset_key
from schemas.policy import Policy
from schemas.records import PolicyRecord, PolicyState
from schemas.values import LogPosition
from tests.builders import KEYS, assign, at, folded, ingest, rotate

REPLACE = msgspec.structs.replace
ASSET = folded(ingest("SD", "HD"))
NEED = next(needed(ASSET, None))
RECORD = make_key_record(ASSET, NEED, KEYS)
OWNERS = {track.kid: KidOwner(asset="bbb", fp=track.fp) for track in RECORD.tracks}


def _with_fp(record, index, fp):
    tracks = list(record.tracks)
    tracks[index] = REPLACE(tracks[index], fp=fp)
    return REPLACE(record, tracks=tuple(tracks))


def test_a_new_key_record_is_applied_and_the_same_one_changes_nothing():
    """First sight, then a duplicate."""
    assert judge_key_record(RECORD, None, {}) == APPLIED
    assert judge_key_record(RECORD, RECORD, OWNERS) == SAME


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("held", [RECORD, None], ids=["held", "new"])
def test_another_fingerprint_for_a_known_kid_is_quarantined(held, index):
    """The first fingerprint wins for ever, under whatever record key the second one comes."""
    assert judge_key_record(_with_fp(RECORD, index, b"x" * 16), held, OWNERS) == quarantined("key_changed")


def test_a_record_that_contradicts_itself_is_quarantined():
    """One KID with two fingerprints within one record, nothing known before."""
    kid = RECORD.tracks[0].kid
    tracks = (RECORD.tracks[0], REPLACE(RECORD.tracks[1], kid=kid))
    assert judge_key_record(REPLACE(RECORD, tracks=tracks), None, {}) == quarantined("key_changed")


def test_a_kid_of_another_asset_is_quarantined():
    """KIDs are unique per organization."""
    owners = {kid: REPLACE(owner, asset="ccc") for kid, owner in OWNERS.items()}
    assert judge_key_record(RECORD, None, owners) == quarantined("kid_of_another_asset")


@pytest.mark.parametrize(
    "changed", [{"key_version": 2}, {"root_version": 2}, {"tracks": RECORD.tracks[:1]}, {"tracks": RECORD.tracks[::-1]}]
)
def test_other_keys_under_one_record_key_are_quarantined(changed):
    """A key record is write-once."""
    assert judge_key_record(REPLACE(RECORD, **changed), RECORD, OWNERS) == quarantined("key_record_changed")


def test_a_higher_epoch_replaces_and_a_lower_one_is_stale():
    """The only rewrite is the same keys under a higher KEK epoch."""
    later = make_key_record(ASSET, NEED, Keys(prk=KEYS.prk, k_fp=KEYS.k_fp, kek=Secret(b"z" * 64), kek_epoch=2))
    assert judge_key_record(later, RECORD, OWNERS) == APPLIED
    assert judge_key_record(RECORD, later, OWNERS) == stale("older_kek_epoch")


def test_another_wrapping_of_the_same_epoch_is_quarantined():
    """Wrapping is deterministic, so other bytes are somebody else's."""
    assert judge_key_record(REPLACE(RECORD, wrapped=b"w" * 80), RECORD, OWNERS) == quarantined("wrapping_changed")


def test_the_same_keys_from_another_event_leave_the_first_record():
    """A rebuild from an adopted topic names other coordinates: logically equal, so the first stays and none pages."""
    rebuilt = make_key_record(ASSET, REPLACE(NEED, event=LogPosition(generation=1, offset=0)), KEYS)
    assert judge_key_record(rebuilt, RECORD, OWNERS) == stale("key_record_written_before")


def test_asset_records_only_go_forward():
    """By `applied`; the same position with other content is a contradiction."""
    later = fold(assign(3), at=at(9), held=ASSET, root_version=1).asset
    assert judge_asset_record(ASSET, None) == APPLIED
    assert judge_asset_record(ASSET, ASSET) == SAME
    assert judge_asset_record(later, ASSET) == APPLIED
    assert judge_asset_record(ASSET, later) == stale("older_applied")
    assert judge_asset_record(REPLACE(ASSET, policy_id=9), ASSET) == quarantined("asset_record_changed")


def test_a_lost_key_version_is_quarantined():
    """Old versions stay licensable, so no later record may lack one."""
    rotated = folded(rotate(2), held=ASSET, start=1)
    shorter = REPLACE(ASSET, applied=LogPosition(generation=0, offset=9))
    assert judge_asset_record(shorter, rotated) == quarantined("key_version_lost")


@pytest.mark.parametrize(
    "changed", [{"root_version": 2}, {"salt": b"s" * 16}, {"single_key": True}, {"schemes": ()}, {"key_sets": ()}]
)
def test_a_version_whose_choices_changed_is_quarantined(changed):
    """They decide every key; a later record may only add to a version."""
    version = REPLACE(ASSET.versions[0], **changed)
    later = REPLACE(ASSET, versions=(version,), applied=LogPosition(generation=0, offset=9))
    assert judge_asset_record(later, ASSET) == quarantined("key_version_changed")


def test_live_tracks_never_change():
    """Periods may be added, other tracks not."""
    held = folded(ingest("SD", periods=(0, 5)))
    assert judge_asset_record(folded(ingest("SD", periods=(5, 5)), held=held, start=1), held) == APPLIED
    live = REPLACE(held.versions[0].live, tracks=())
    other = REPLACE(held, versions=(REPLACE(held.versions[0], live=live),), applied=LogPosition(generation=0, offset=9))
    assert judge_asset_record(other, held) == quarantined("key_version_changed")


def test_every_fold_passes_the_guard():
    """What the core itself makes is never quarantined."""
    held = ASSET
    steps = [
        ingest("UHD1"),
        rotate(2),
        ingest("SD", periods=(0, 5)),
        ingest("SD", periods=(3, 9)),
        rotate(3),
        assign(1),
    ]
    for offset, happened in enumerate(steps, 1):
        after = folded(happened, held=held, start=offset)
        assert judge_asset_record(after, held) == APPLIED, happened
        held = after


POLICY = PolicyRecord(
    organization="demo",
    policy_id=1,
    version=2,
    state=PolicyState.READY,
    name="p",
    policy=Policy(can_play=True),
    applied=LogPosition(generation=0, offset=5),
    created=0,
    changed=0,
)


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, SAME),
        ({"applied": LogPosition(generation=0, offset=6), "version": 3}, APPLIED),
        ({"applied": LogPosition(generation=0, offset=6)}, APPLIED),
        ({"applied": LogPosition(generation=0, offset=4)}, stale("older_applied")),
        ({"name": "q"}, quarantined("policy_record_changed")),
        ({"applied": LogPosition(generation=0, offset=6), "version": 1}, quarantined("policy_version_lost")),
    ],
)
def test_policies_only_go_forward(changed, verdict):
    """By `applied`, and their version never down."""
    assert judge_policy_record(REPLACE(POLICY, **changed), POLICY) == verdict
    assert judge_policy_record(POLICY, None) == APPLIED


@pytest.mark.parametrize(
    "record_key", [b"demo/ccc", b"demo/bbb/", b"demo/bbb/k/" + b"0" * 31, b"demo/bbb/k/" + b"0" * 33]
)
def test_a_record_under_a_foreign_key_is_quarantined(record_key):
    """The record key is the record's own name, or the record is not believed."""
    for record in (ASSET, RECORD, POLICY):
        assert misplaced(record_key, record) == quarantined("record_key_of_another")


def test_records_stand_under_their_own_keys():
    """What the product writes is placed right."""
    assert misplaced(asset_key("demo", "bbb"), ASSET) is None
    assert misplaced(NEED.record_key, RECORD) is None
    assert misplaced(b"demo/1", POLICY) is None
