"""Replay in verify mode: what the key topic lacks, holds wrongly or holds too much, against its events."""

import msgspec
import pytest

from keymill.kms.keyring import Keyring
from keymill.ops.held import Held
from keymill.ops.replaying import compare
from keymill.ops.report import MAX_LISTED, Report
from schemas import framing, topics
from schemas.codec import decode, encode
from schemas.ids import asset_key
from schemas.partition import partition_for
from schemas.records import AssetRecord, KeyRecord
from schemas.values import LogPosition
from streams.decide import Decider
from streams.runs import RawRecord, Run
from tests.builders import NOW, assign, ingest, rotate
from tests.fakes import MemoryKms

PARTITIONS = 4
KEY = asset_key("demo", "bbb")
HERE = partition_for(KEY, PARTITIONS)


class Written:
    """A `Lookup` over what was published."""

    def __init__(self) -> None:
        self.assets: dict[bytes, AssetRecord] = {}
        self.keys: dict[bytes, bytes] = {}

    def asset(self, organization: str, asset: str) -> AssetRecord | None:
        return self.assets.get(asset_key(organization, asset))

    def has(self, record_key: bytes) -> bool:
        return record_key in self.keys


def raw(offset: int, event) -> RawRecord:
    """An event, or what is none, in the log."""
    is_event = isinstance(event, msgspec.Struct)
    key = asset_key("demo", event.asset) if is_event else KEY
    return RawRecord(topics.ASSETS.name, HERE, offset, NOW, 1, key, encode(event) if is_event else event, ())


class World:
    """One partition: the log of events, and the key topic as the processors have written it."""

    def __init__(self, *events, kms: MemoryKms | None = None) -> None:
        self.events = [raw(offset, event) for offset, event in enumerate(events)]
        self.topic: list[tuple[bytes, bytes | None]] = []
        self.refused: set[int] = set()
        self.provision(self.events, kms or MemoryKms())

    @staticmethod
    def decider(kms: MemoryKms) -> Decider:
        return Decider(Keyring(kms), framing.decode_event, partitions=PARTITIONS, generation=0)

    def provision(self, events: list[RawRecord], kms: MemoryKms) -> None:
        written, decider = Written(), self.decider(kms)
        for event in events:
            decided = decider.begin(Run(event.topic, HERE, 0, 0, event.offset, event.offset + 1, (event,), 0))
            decider.record(event, decided, written)
            self.refused |= {letter.offset for letter in decided.dead_letters}
            written.assets |= decided.assets
            written.keys |= decided.key_records
            self.topic += list(decided.key_records.items())
            self.topic += [(key, encode(asset)) for key, asset in decided.assets.items()]

    def keys(self) -> list[bytes]:
        return [key for key, _ in self.topic if b"/k/" in key]

    def replay(self, kms: MemoryKms | None = None, *, done: int = 0) -> Report:
        report, held = Report(), Held(HERE)
        for key, value in self.topic:
            held.add(key, value, report)
        compare(self.events, held, self.decider(kms or MemoryKms()), 0, report, frozenset(self.refused), done=done)
        return report


def counts(report: Report) -> dict[str, int]:
    """What is not zero, apart from the number of events."""
    names = ("identical", "missing", "different", "unexpected", "refused", "pending")
    return {name: number for name in names if (number := getattr(report, name))}


def same_partition(count: int) -> list[str]:
    """Assets of that partition."""
    found = (f"a{n}" for n in range(10_000) if partition_for(asset_key("demo", f"a{n}"), PARTITIONS) == HERE)
    return [next(found) for _ in range(count)]


def test_what_the_events_call_for_is_identical() -> None:
    """Two key records and one asset record of three events."""
    report = World(ingest("SD"), assign(4), rotate(2)).replay()
    assert {"identical": 3} == counts(report)
    assert (3, [], True) == (report.events, report.differences, report.clean())


def test_nothing_is_clean() -> None:
    """An empty log over an empty topic."""
    assert World().replay().clean()


def test_another_wrapping_is_identical() -> None:
    """The same keys under another KEK epoch."""
    world = World(ingest("SD"), rotate(2), kms=MemoryKms(kek_epochs=(1, 2)))
    assert {"identical": 3} == counts(world.replay(MemoryKms(kek_epochs=(1,))))


def test_only_the_newest_record_of_a_key_counts() -> None:
    """An older record that the topic still holds is no difference."""
    world = World(ingest("SD"), assign(4), assign(5))
    assert 3 == sum(key == KEY for key, _ in world.topic)
    assert {"identical": 2} == counts(world.replay())


def test_a_lost_key_record_is_missing() -> None:
    """It is named."""
    world = World(ingest("SD"), rotate(2))
    lost = world.keys()[0]
    world.topic = [entry for entry in world.topic if entry[0] != lost]
    report = world.replay()
    assert {"identical": 2, "missing": 1} == counts(report)
    assert [("missing", lost.decode(), "key record")] == [(d.kind, d.record_key, d.detail) for d in report.differences]
    assert not report.clean()


def test_a_lost_asset_record_is_missing() -> None:
    """Where later events of other assets show that its events were processed."""
    first, second = same_partition(2)
    world = World(ingest("SD", asset=first), ingest("SD", asset=second))
    world.topic = [entry for entry in world.topic if entry[0] != asset_key("demo", first)]
    report = world.replay()
    assert {"identical": 3, "missing": 1} == counts(report)
    assert "asset record" == report.differences[0].detail


def changed_key_record(value: bytes, **track) -> bytes:
    record = decode(value, KeyRecord)
    return encode(msgspec.structs.replace(record, tracks=(msgspec.structs.replace(record.tracks[0], **track),)))


@pytest.mark.parametrize("change", [{"fp": b"f" * 16}, {"kid": b"k" * 16}, {"label": "HD"}])
def test_a_changed_key_record_is_different(change: dict) -> None:
    """Fingerprint, KID or label: it contradicts its event."""
    world = World(ingest("SD"))
    world.topic = [(k, changed_key_record(v, **change) if b"/k/" in k else v) for k, v in world.topic]
    report = world.replay()
    assert {"identical": 1, "different": 1} == counts(report)
    assert ("different", world.keys()[0].decode()) == (report.differences[0].kind, report.differences[0].record_key)


def test_keys_of_other_roots_are_different() -> None:
    """A key file that is not the one the keys came from."""
    world = World(ingest("SD"), rotate(2))

    class OtherKms(MemoryKms):
        @staticmethod
        def _bytes(name: str, size: int) -> bytes:
            return MemoryKms._bytes(f"other {name}", size)

    assert {"identical": 1, "different": 2} == counts(world.replay(OtherKms()))


def test_an_asset_record_that_is_not_the_fold_is_different() -> None:
    """Same place, other content."""
    world = World(ingest("SD"), assign(4))
    key, value = world.topic[-1]
    assert value is not None
    world.topic.append((key, encode(msgspec.structs.replace(decode(value, AssetRecord), policy_id=9))))
    assert {"identical": 1, "different": 1} == counts(world.replay())


@pytest.mark.parametrize("which", ["asset", "key"])
@pytest.mark.parametrize("keeps", [0, 2, 30, -1])
def test_an_unreadable_record_is_different_and_nothing_else(which: str, keeps: int) -> None:
    """It is counted once, and never as identical, wherever its damage begins."""
    world = World(ingest("SD"))
    broken = KEY if which == "asset" else world.keys()[0]
    world.topic = [(key, (value or b"")[:keeps] if key == broken else value) for key, value in world.topic]
    report = world.replay()
    assert {"identical": 1, "different": 1} == counts(report)
    assert broken.decode() == report.differences[0].record_key


@pytest.mark.parametrize("which", ["asset", "key"])
def test_a_tombstone_is_a_difference(which: str) -> None:
    """Keys are revoked, never deleted: compaction will drop the record, so it does not count as held."""
    world = World(ingest("SD"))
    gone = KEY if which == "asset" else world.keys()[0]
    world.topic.append((gone, None))
    report = world.replay()
    assert {"identical": 1, "different": 1} == counts(report)
    assert "tombstone" in report.differences[0].detail


@pytest.mark.parametrize("rubbish", [None, b'{"oops":1}'], ids=["tombstone", "undecodable"])
def test_what_was_put_right_is_no_difference(rubbish: bytes | None) -> None:
    """The right record was written over it, so the topic holds what the log calls for; not so the other way round."""
    world = World(ingest("SD"))
    right = list(world.topic)
    world.topic += [(key, rubbish) for key, _ in right] + right
    assert {"identical": 2} == counts(world.replay())
    world.topic += [(key, rubbish) for key, _ in right]
    assert {"different": 2} == counts(world.replay())


def test_records_that_no_event_calls_for_are_unexpected() -> None:
    """A stranger's asset record and key record."""
    stranger = World(ingest("SD", asset=same_partition(1)[0]))
    world = World(ingest("SD"))
    world.topic += stranger.topic
    report = world.replay()
    assert {"identical": 2, "unexpected": 2} == counts(report)
    assert {key.decode() for key, _ in stranger.topic} == {each.record_key for each in report.differences}


def test_refused_events_are_counted_and_no_difference() -> None:
    """Each has its dead letter; those behind it are replayed."""
    report = World(ingest("SD"), b"junk", ingest(schemes=("cenc",)), assign(4)).replay()
    assert {"identical": 2, "refused": 2} == counts(report)
    assert report.clean()


def test_a_refused_event_without_dead_letter_is_missing_one() -> None:
    """Nothing that was accepted may end in nothing."""
    world = World(ingest("SD"), b"junk", assign(4))
    world.refused.clear()
    report = world.replay()
    assert {"identical": 2, "missing": 1} == counts(report)
    assert "dead letter of offset 1" in report.differences[0].detail


def test_what_was_refused_once_stays_refused() -> None:
    """An event refused before its organization had roots is not the first of a version when the log is replayed."""
    world = World(ingest(schemes=("cenc",)), ingest("SD"))
    early = World(ingest("SD"))
    world.events, world.topic, world.refused = [world.events[0], *_moved(early.events)], [], {0}
    world.provision(world.events[1:], MemoryKms())
    assert {"identical": 2, "refused": 1} == counts(world.replay())
    world.refused.clear()
    assert not world.replay().clean()


def _moved(events: list[RawRecord]) -> list[RawRecord]:
    return [msgspec.structs.replace(event, offset=event.offset + 1) for event in events]


def test_events_that_are_not_processed_yet_are_pending() -> None:
    """Newer than anything that was applied: of this asset, of another one, and broken ones."""
    world = World(ingest("SD"))
    later = (assign(4), ingest("SD", asset=same_partition(1)[0]), b"junk")
    world.events += [raw(offset, event) for offset, event in enumerate(later, 1)]
    report = world.replay()
    assert {"identical": 2, "pending": 3} == counts(report)
    assert report.clean()


def test_what_a_run_has_half_published_is_pending() -> None:
    """Another asset's later event is in the topic already, this asset's last event not yet: no difference."""
    other = same_partition(1)[0]
    world = World(ingest("SD"), assign(4), ingest("SD", asset=other))
    world.topic = [entry for number, entry in enumerate(world.topic) if number != 2]
    assert {"identical": 4, "pending": 1} == counts(world.replay())


def test_what_is_lost_of_a_committed_event_is_missing() -> None:
    """Whatever was applied since: the newest asset, a last change, a dead letter; what came after is pending."""
    other = same_partition(1)[0]
    world = World(ingest("SD", asset=other), msgspec.structs.replace(assign(4), asset=other), ingest("SD"), b"junk")
    lost = [entry for entry in world.topic if not entry[0].startswith(KEY)]
    world.refused.clear()
    world.events.append(raw(4, assign(5)))
    for topic, missing in ((lost, 3), ([*lost[:-1], *world.topic[3:]], 2)):
        world.topic = topic
        report = world.replay(done=4)
        assert (missing, 1) == (report.missing, report.pending), report.differences


def test_a_wrong_generation_is_later() -> None:
    """The topic was adopted anew, and nothing of it has been processed."""
    world = World(ingest("SD"))
    report, held = Report(), Held(HERE)
    for key, value in world.topic:
        held.add(key, value, report)
    decider = Decider(Keyring(MemoryKms()), framing.decode_event, partitions=PARTITIONS, generation=1)
    compare(world.events, held, decider, 1, report)
    assert 1 == report.pending
    assert held.newest == (0, 0)
    assert LogPosition(generation=1, offset=0) > decode(held.values[KEY], AssetRecord).applied


def test_every_difference_is_counted_and_the_first_thousand_are_named() -> None:
    """A lost topic must not fill the memory."""
    report = Report()
    for number in range(MAX_LISTED + 5):
        report.note("missing", b"\xff%d" % number, "key record")
    assert (MAX_LISTED + 5, MAX_LISTED) == (report.missing, len(report.differences))
    assert [] == Report().differences


def test_a_key_record_whose_asset_record_is_on_its_way_is_pending() -> None:
    """A processor publishes it first, and the topic's end may be taken between the two."""
    world = World(ingest("SD"))
    world.topic = world.topic[:1]
    assert {"pending": 1} == counts(world.replay())
    world.events = []
    assert {"unexpected": 1} == counts(world.replay())
