"""Claims without a key: what the log of claims says of a KID, which claims may be released, and what follows."""

from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.core.claim_log import NOBODY, folded, is_release, release_of, winner
from keymill.errors import NotReady
from keymill.ops.auditing_kids import Claims
from keymill.ops.orphaned import Facts, Orphan
from keymill.snapshot.reader import SnapshotReader
from keymill.snapshot.writer import SnapshotWriter
from schemas import topics
from schemas.codec import encode
from schemas.ids import asset_key, claim_key
from schemas.records import Claim
from schemas.values import LogPosition, Scheme
from tests.fakes import TRUSTING
from tests.view_records import Log, asset_record, key_record

PARTITIONS = 4
K = b"k" * 16


def claim(asset: str = "first", kid: bytes = K, offset: int = 3, version: int = 1) -> Claim:
    """A claim."""
    return Claim(
        organization="demo", kid=kid, asset=asset, key_version=version, label="SD", scheme=Scheme.CBCS, root_version=1,
        event=LogPosition(generation=0, offset=offset),
    )  # fmt: skip


def place(asset: str) -> int:
    """The partition of an asset's events."""
    return topics.partition_of(topics.ASSETS, asset_key("demo", asset), PARTITIONS)


def facts(*records: Claim, refused: tuple[int, ...] = (3,), committed: int = 10) -> Facts:
    """Claims, and events of the asset `first` that were refused."""
    found = Facts(0, PARTITIONS)
    for record in records or (claim(),):
        found.claim(record)
    found.decided(place("first"), committed, refused, ())
    return found


ASSETS = st.sampled_from(["a", "b", "c"])
KINDS = st.sampled_from(["claim", "release", "false release"])
LOGS = st.lists(st.tuples(KINDS, ASSETS, st.integers(0, 3)), max_size=12)


@given(LOGS)
def test_the_log_says_who_has_a_kid(steps: list[tuple[str, str, int]]) -> None:
    """The first claim, until a release of that very claim; every reader of the log agrees."""
    stands: Claim | None = None
    expected: Claim | None = None
    audit = Claims()
    for kind, asset, offset in steps:
        made = claim(asset, offset=offset)
        record = made if kind == "claim" else release_of(expected or made)
        if kind == "false release":
            record = msgspec.structs.replace(record, event=LogPosition(generation=9, offset=0))
        if kind == "claim":
            expected = expected or made
        elif kind == "release":
            expected = None
        stands = folded(stands, record)
        audit.add(record)
        assert expected == winner(stands) == audit.winners.get(("demo", K))
    assert winner(None) is None


@given(LOGS, st.integers(0, 12))
def test_a_view_says_the_same(steps: list[tuple[str, str, int]], cut: int) -> None:
    """In whatever batches it reads the log."""
    records: list[Claim] = []
    stands: Claim | None = None
    for kind, asset, offset in steps:
        made = claim(asset, offset=offset)
        records.append(made if kind == "claim" else release_of(winner(stands) or made))
        stands = folded(stands, records[-1])
    log = Log(followed=(topics.CLAIMS.name,))
    with TemporaryDirectory() as folder, SnapshotWriter(Path(folder), TRUSTING, map_size=64 << 20) as writer:
        writer.bind(log.checkpoints())
        for part in (records[:cut], records[cut:]):
            batch = [log.put_raw(topics.CLAIMS, claim_key("demo", K), encode(each)) for each in part]
            writer.apply(batch, log.slots)
        with SnapshotReader(Path(folder)) as reader:
            assert winner(stands) == reader.claim("demo", K)


def test_a_claim_whose_event_was_refused_is_an_orphan() -> None:
    """It is told with its coordinates; its release names nobody, and everything else that it names."""
    (found,) = facts().orphans()
    assert claim() == found
    told = Orphan.of(found, PARTITIONS)
    assert ("demo", K.hex(), "first", 1, "SD/cbcs") == told[:5]
    assert f"drm.assets.v1/{place('first')}/3" == told.event
    ended = release_of(found)
    assert is_release(ended) and NOBODY == ended.asset and not is_release(found)
    assert [] == facts(claim(), ended).orphans()


def test_an_event_that_was_not_refused_keeps_its_claim() -> None:
    """It may be decided yet, or its records may be lost, which a repair brings back."""
    assert [] == facts(refused=()).orphans()
    assert [] == facts(refused=(4,)).orphans()
    other = Facts(1, PARTITIONS)  # the log was made anew since
    other.claim(claim())
    other.decided(place("first"), 10, (3,), ())
    assert [] == other.orphans()


def test_a_kid_that_anybody_ever_had_is_not_free() -> None:
    """In a key record, or in an asset record whose key record is lost."""
    record_key, record = key_record("third", labels=("SD",))
    kid = record.tracks[0].kid
    held = facts(claim(kid=kid))
    assert [claim(kid=kid)] == held.orphans()
    held.made(record_key, encode(record))
    assert [] == held.orphans()
    named = facts()
    record_key, asset = asset_record("first")
    (version,) = asset.versions
    (key_set,) = version.key_sets
    track = msgspec.structs.replace(key_set.tracks[0], kid=K)
    key_set = msgspec.structs.replace(key_set, tracks=(track,))
    version = msgspec.structs.replace(version, key_sets=(key_set,))
    named.made(record_key, encode(msgspec.structs.replace(asset, versions=(version,))))
    assert [] == named.orphans()


@pytest.mark.parametrize("value", [None, b"junk"])
def test_what_cannot_be_read_keeps_the_claims_of_its_asset(value: bytes | None) -> None:
    """Nobody knows what it had."""
    found = facts()
    found.made(asset_key("demo", "first") + b"/k/00", value)
    assert [] == found.orphans()


def test_an_asset_with_an_event_to_come_keeps_its_claims() -> None:
    """Its next event may be the corrected one, and others' events do not matter."""
    found = facts()
    found.decided(place("second"), 10, (), (b"demo/second", None))
    assert [claim()] == found.orphans()
    found.decided(place("first"), 10, (3,), (b"demo/first",))
    assert [] == found.orphans()


def test_nothing_is_released_while_a_refused_event_may_be_decided_again() -> None:
    """Its dead letter is there and its commit is not: with the KID free it might be accepted."""
    facts(committed=4).require_committed()
    with pytest.raises(NotReady, match="offset 3 is refused and not committed"):
        facts(committed=3).require_committed()
