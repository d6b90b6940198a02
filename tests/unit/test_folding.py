"""The fold: what an event changes, what it never changes, and what is refused."""

import hashlib

import msgspec
import pytest
from hypothesis import given

from keymill.core.folding import MAX_ASSET_RECORD, SMALL_VERSIONS, fold
from keymill.core.versions import body_hash
from keymill.errors import Conflict, InvalidRecord, Reject, UnknownKey
from schemas.codec import decode, encode
from schemas.events import AssetEvent, AssetRestored, AssetRevoked
from schemas.records import AssetRecord, AssetState, KeySet, KeyVersion, LivePeriods, TrackIdentity
from schemas.values import LABELS, MAX_RECENT, LogPosition, Scheme
from tests.builders import NOW, assign, at, event, folded, ingest, rotate
from tests.property.strategies import EVENTS

REVOKED, RESTORED = event(AssetRevoked()), event(AssetRestored())


def test_the_first_event_makes_an_active_asset_with_policy_0():
    """Nothing named: the default policy, no window, one version."""
    asset = folded(ingest())
    assert asset == AssetRecord(
        organization="demo",
        asset="bbb",
        state=AssetState.ACTIVE,
        applied=LogPosition(generation=0, offset=0),
        policy_id=0,
        versions=asset.versions,
    )
    assert len(asset.versions) == 1


@pytest.mark.parametrize("happened", [ingest("UHD1"), rotate(2), rotate(9), assign(5), REVOKED, RESTORED])
@pytest.mark.parametrize("offset", [0, 6, 7])
def test_an_event_at_or_below_applied_changes_nothing(happened, offset):
    """Redelivery and replay: the record stays as it is, even for an event that would be refused now."""
    held = folded(ingest(), start=7)
    again = fold(happened, at=at(offset), held=held, root_version=3)
    assert again.asset is held
    assert not again.changed


def test_generations_order_before_offsets():
    """After a topic was adopted anew, its offset 0 is later than anything before."""
    held = folded(ingest(), start=100)
    later = fold(assign(3), at=at(0, generation=1), held=held, root_version=1)
    assert later.changed
    assert later.asset.policy_id == 3
    assert not fold(assign(4), at=at(200), held=later.asset, root_version=1).changed


@pytest.mark.parametrize("happened", [ingest(), rotate(1), assign(0), RESTORED], ids=lambda e: type(e.body).__name__)
def test_a_repeat_at_a_higher_offset_changes_only_applied(happened):
    """With or without an idempotency id."""
    held = folded(ingest())
    after = fold(happened, at=at(9), held=held, root_version=2)
    assert after.asset == msgspec.structs.replace(held, applied=LogPosition(generation=0, offset=9))
    assert after.changed


def test_the_same_event_id_has_one_effect():
    """Same id and body: only `applied`; other body: a conflict that names the first offset."""
    held = folded(assign_after := ingest(), assign(4, event_id="e-1"), assign(5))
    after = fold(assign(4, event_id="e-1"), at=at(3), held=held, root_version=1).asset
    assert after == msgspec.structs.replace(held, applied=LogPosition(generation=0, offset=3))
    with pytest.raises(Conflict, match="at offset 1") as refused:
        fold(assign(6, event_id="e-1"), at=at(3), held=held, root_version=1)
    assert (refused.value.field, refused.value.code) == ("event_id", "idempotency_conflict")
    assert assign_after.event_id is None


def test_the_time_of_an_event_is_not_its_content():
    """A client that retries with a fresh timestamp sends the same request."""
    held = folded(ingest(event_id="e-1"))
    later = msgspec.structs.replace(ingest(event_id="e-1"), event_time=NOW + 5)
    assert fold(later, at=at(1), held=held, root_version=1).asset.recent == held.recent


def test_a_request_hash_stands_for_the_content():
    """Where the gateway names the request's hash, it decides what is the same request."""
    held = folded(msgspec.structs.replace(ingest(event_id="e-1"), request_hash=b"h" * 32))
    same = msgspec.structs.replace(ingest("UHD1", event_id="e-1"), request_hash=b"h" * 32)
    assert fold(same, at=at(1), held=held, root_version=1).asset.versions == held.versions
    with pytest.raises(Conflict):
        fold(msgspec.structs.replace(same, request_hash=b"i" * 32), at=at(1), held=held, root_version=1)


def test_the_last_32_ids_are_remembered():
    """The oldest is forgotten first; coordinates and hash are kept with each."""
    held = folded(*(assign(n, event_id=f"e-{n}") for n in range(40)), held=folded(ingest()), start=1)
    assert [accepted.event_id for accepted in held.recent] == [f"e-{n}" for n in range(8, 40)]
    assert len(held.recent) == MAX_RECENT
    assert held.recent[-1].at.offset == 40
    assert held.recent[-1].timestamp == NOW


def test_an_event_too_far_ahead_is_refused():
    """More than 24 h after the record's own timestamp; exactly 24 h is fine."""
    day = 86_400_000
    assert fold(msgspec.structs.replace(ingest(), event_time=NOW + day), at=at(0), held=None, root_version=1).changed
    with pytest.raises(InvalidRecord) as refused:
        fold(msgspec.structs.replace(ingest(), event_time=NOW + day + 1), at=at(0), held=None, root_version=1)
    assert refused.value.field == "event_time"


@pytest.mark.parametrize("happened", [rotate(2), assign(1), REVOKED, RESTORED], ids=lambda e: type(e.body).__name__)
def test_nothing_happens_to_an_unknown_asset(happened):
    """Only an ingest event begins one."""
    with pytest.raises(UnknownKey) as refused:
        fold(happened, at=at(0), held=None, root_version=1)
    assert refused.value.code == "unknown_asset"


def test_a_revoked_asset_stays_revoked_until_it_is_restored():
    """Further ingest events and rotations do not give licenses back."""
    held = folded(ingest(), REVOKED, ingest("UHD1"), rotate(2), assign(3))
    assert held.state is AssetState.REVOKED
    assert len(held.versions) == 2
    assert folded(RESTORED, held=held, start=5).state is AssetState.ACTIVE


def test_what_an_event_does_not_name_is_inherited():
    """Policy, product and window stay."""
    held = folded(ingest(policy_id=3, product_id="gold", available_from=5, available_until=9))
    after = folded(ingest(), held=held, start=1)
    assert (after.policy_id, after.product_id, after.available_from, after.available_until) == (3, "gold", 5, 9)
    assert folded(ingest(available_until=10), held=held, start=1).available_from == 5


def test_a_window_is_checked_with_what_is_inherited():
    """Two halves from two events must not make a window that never opens."""
    held = folded(ingest(available_from=100))
    with pytest.raises(InvalidRecord) as refused:
        fold(ingest(available_until=100), at=at(1), held=held, root_version=1)
    assert refused.value.field == "available_until"


def test_small_records_fit_without_being_measured():
    """As many versions as the fold does not measure, each with the most and longest tracks there can be, fit."""
    label = "+".join(sorted(LABELS - {"ALL"}))
    tracks = tuple(TrackIdentity(label=label, scheme=Scheme.CBCS, declared=True, kid=b"k" * 16) for _ in range(64))
    far = LogPosition(generation=2**31 - 1, offset=2**62)
    sets = tuple(KeySet(digest=b"d" * 16, at=far, tracks=(track,)) for track in tracks)
    live = LivePeriods(period_s=2**31 - 1, start=2**47, from_index=0, through_index=2**53, at=far, tracks=tracks)
    version = KeyVersion(
        key_version=1, root_version=9, salt=b"s" * 64, single_key=True, schemes=tuple(Scheme), created=far,
        key_sets=sets, live=live,
    )  # fmt: skip
    asset = msgspec.structs.replace(folded(ingest(product_id="p" * 128)), versions=(version,) * SMALL_VERSIONS)
    assert 40_000 < len(encode(asset)) <= MAX_ASSET_RECORD


def _large():
    asset, offset = folded(ingest("SD", salt=b"s" * 64)), 0
    with pytest.raises(Reject) as refused:
        while True:
            offset += 1
            asset = fold(rotate(offset + 1), at=at(offset), held=asset, root_version=1).asset
    assert refused.value.code == "asset_too_large"
    return asset, offset


def test_an_asset_record_never_outgrows_its_topic():
    """Rotations end at a limit with a reason; a revocation still passes, with the longest ids there are."""
    asset, offset = _large()
    assert len(encode(asset)) <= MAX_ASSET_RECORD
    for index in range(40):
        revoked = event(AssetRevoked(), event_id=f"{index:03d}".rjust(128, "e"))
        asset = fold(revoked, at=at(2**40 + offset + index), held=asset, root_version=1).asset
    assert asset.state is AssetState.REVOKED
    assert len(encode(asset)) < 65_536 - 1_500
    assert decode(encode(asset), AssetRecord) == asset


@given(EVENTS)
def test_the_hash_of_a_body_is_that_of_the_event_without_id_and_time(said: AssetEvent) -> None:
    """It stands in asset records for good: every release must give the same."""
    plain = msgspec.structs.replace(said, event_id=None, request_hash=None, event_time=0)
    assert hashlib.sha256(encode(plain)).digest() == body_hash(said)
