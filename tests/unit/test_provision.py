"""The provision agent over a real view and an in-memory log: what it sends, in which order, and what it waits for."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from keymill.core.claims import claims_of
from keymill.errors import NotReady, Unavailable
from keymill.kafka.outgoing import Outgoing
from keymill.kafka.positions import Slot
from keymill.kms.keyring import Keyring
from keymill.telemetry import REQUEST_ID_HEADER
from schemas import framing, topics
from schemas.codec import decode, encode
from schemas.events import TrackWish
from schemas.ids import asset_key, claim_key, is_key_set
from schemas.partition import partition_for
from schemas.records import AssetRecord, Claim, DeadLetter, KeyRecord
from schemas.values import LogPosition
from streams.decide import Decider
from streams.provision import Provisioner
from streams.runs import RawRecord, Run
from tests.agent_rig import PARTITIONS, AgentRig, bounded, under_way
from tests.builders import NOW, assign, folded, ingest, rotate
from tests.fakes import MemoryKms

KEYS, DEAD_LETTERS, ASSETS = topics.KEYS.name, topics.DEAD_LETTERS.name, topics.ASSETS.name
CLAIMS = topics.CLAIMS.name


class Rig(AgentRig):
    """A provisioner, its view, and a follower that reads only when it is told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, topics.KEYS)
        self.provisioner = self.fresh()

    def fresh(self) -> Provisioner:
        """Another worker with the same view."""
        return Provisioner(
            decider=Decider(Keyring(MemoryKms()), framing.decode_event, partitions=PARTITIONS, generation=0),
            owner=self.owner_by(topics.ASSETS),
            partitions=PARTITIONS,
            claimant=self.claimant(),
        )

    def forge(self, record: AssetRecord) -> None:
        """A late or rogue writer."""
        self.append(asset_key(record.organization, record.asset), encode(record), HERE)


@pytest.fixture
def rig(tmp_path: Path):
    rig = Rig(tmp_path / "view")
    yield rig
    rig.close()


KEY = asset_key("demo", "bbb")
HERE = partition_for(KEY, PARTITIONS)
ELSEWHERE = next(n for n in range(99) if partition_for(asset_key("demo", f"a{n}"), PARTITIONS) != HERE)


def run_of(*events, start: int = 0, headers=(), partition: int = HERE) -> Run:
    """A run of events, or of raw values, at consecutive offsets."""
    records = [
        RawRecord(
            ASSETS,
            partition,
            offset,
            NOW,
            1,
            asset_key("demo", event.asset) if isinstance(event, msgspec.Struct) else KEY,
            encode(event) if isinstance(event, msgspec.Struct) else event,
            tuple(headers),
        )
        for offset, event in enumerate(events, start)
    ]
    return Run(ASSETS, partition, 1, 1, start, start + len(records), records, 1)


def handle(rig: Rig, *runs: Run) -> None:
    async def all_of_them() -> None:
        for run in runs:
            await rig.provisioner.handle(run)

    bounded(all_of_them())


def test_dead_letters_then_key_records_then_the_asset_record(rig: Rig) -> None:
    """Letters are acknowledged before anything else is sent; an asset record stands behind the keys it names."""
    handle(rig, run_of(ingest("SD"), b"junk", rotate(2)))
    letters, records = rig.publisher.batches
    assert [DEAD_LETTERS] == [letter.topic for letter in letters]
    assert [f"{ASSETS}/{HERE}/1"] == [letter.record_key.decode() for letter in letters]
    assert [True, True, False] == [is_key_set(record.record_key) for record in records]
    assert KEY == records[-1].record_key
    assert {HERE} == {record.partition for record in letters + records}
    assert 1 == decode(letters[0].value, DeadLetter).offset
    assert 2 == decode(records[-1].value, AssetRecord).applied.offset


def test_unacknowledged_letters_hold_the_records_back(rig: Rig) -> None:
    """A run whose letters may be lost is not half done."""
    rig.publisher.fail_at = 0
    with pytest.raises(Unavailable):
        handle(rig, run_of(ingest("SD"), b"junk"))
    assert [] == rig.sent()


def test_a_run_of_letters_alone_sends_no_empty_batch(rig: Rig) -> None:
    """And one that calls for nothing sends nothing at all."""
    handle(rig, run_of(b"junk"))
    assert 1 == len(rig.publisher.batches)
    handle(rig, run_of(ingest("SD"), start=1))
    rig.follow()
    sent = len(rig.publisher.batches)
    handle(rig, run_of(ingest("SD"), start=1))
    assert sent == len(rig.publisher.batches)


def test_the_request_id_travels_with_the_records(rig: Rig) -> None:
    """From the event's header to each record's; none is made up."""
    handle(rig, run_of(ingest("SD"), headers=[(REQUEST_ID_HEADER, b"r-1")]), run_of(rotate(2), start=1))
    assert [((REQUEST_ID_HEADER, b"r-1"),)] * 2 + [()] * 2 == [record.headers for record in rig.sent()]


def test_a_view_that_lacks_the_run_before_is_made_up_for(rig: Rig) -> None:
    """The follower has read nothing back: the second run builds on what the first one wrote, and repeats no key."""
    handle(rig, run_of(ingest("SD")), run_of(ingest("HD"), start=1), run_of(ingest("SD"), start=2))
    keys = [record.record_key for record in rig.sent() if is_key_set(record.record_key)]
    assert 2 == len(keys) == len(set(keys))
    last = decode(rig.sent()[-1].value, AssetRecord)
    assert (2, 2) == (last.applied.offset, len(last.versions[0].key_sets))


def test_what_is_read_back_is_taken_from_the_view(rig: Rig) -> None:
    """After the view has passed them the same bytes are known from there, and the memory is free."""
    handle(rig, run_of(ingest("SD")))
    assert 2 == len(rig.provisioner.owner.overlay)
    rig.follow(1)
    handle(rig, run_of(ingest("SD"), start=0))
    assert 1 == len(rig.provisioner.owner.overlay)
    rig.follow()
    handle(rig, run_of(ingest("SD"), start=0))
    assert (0, 1) == (len(rig.provisioner.owner.overlay), len(rig.publisher.batches))


def test_another_owners_records_are_found_in_the_view(rig: Rig) -> None:
    """A worker that comes later sends nothing again."""
    handle(rig, run_of(ingest("SD"), rotate(2)))
    rig.follow()
    rig.provisioner = rig.fresh()
    handle(rig, run_of(ingest("SD"), rotate(2)))
    assert 1 == len(rig.publisher.batches)


def test_a_failed_publish_is_not_remembered(rig: Rig) -> None:
    """After an error any part may be written: the next attempt sends all of it again, byte for byte."""
    rig.publisher.fail_at = 0
    with pytest.raises(Unavailable):
        handle(rig, run_of(ingest("SD")))
    assert 0 == len(rig.provisioner.owner.overlay)
    handle(rig, run_of(ingest("SD")))
    first, second = rig.publisher.batches
    assert first == second


def test_a_failed_publish_forgets_what_was_acknowledged_before(rig: Rig) -> None:
    """Its records are looked for in the view again, which may lack them: a repeat is harmless, a gap is not."""
    handle(rig, run_of(ingest("SD")))
    rig.publisher.fail_at = 1
    with pytest.raises(Unavailable):
        handle(rig, run_of(rotate(2), start=1))
    assert 0 == len(rig.provisioner.owner.overlay)
    assert not rig.provisioner._known.has(rig.publisher.batches[0][0].record_key)


def test_a_cancelled_publish_is_not_remembered(rig: Rig) -> None:
    """Revocation or shutdown in the middle of it."""

    async def hang() -> None:
        await asyncio.sleep(3600)

    async def cancelled() -> None:
        rig.publisher.before_ack = hang
        async with under_way(rig.provisioner.handle(run_of(ingest("HD"), start=1))) as task:
            assert 2 == len(rig.publisher.batches)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

    handle(rig, run_of(ingest("SD")))
    bounded(cancelled())
    assert 0 == len(rig.provisioner.owner.overlay)


@pytest.mark.parametrize("change", ["assigned", "revoked"])
def test_a_new_generation_trusts_nothing_of_the_former(rig: Rig, change: str) -> None:
    """The overlay is empty, and every partition's end is asked for again."""
    handle(rig, run_of(ingest("SD")))
    owner = rig.provisioner.owner
    owner.assigned([(ASSETS, HERE)]) if change == "assigned" else owner.revoked()
    assert 0 == len(rig.provisioner.owner.overlay)
    rig.follow()
    handle(rig, run_of(rotate(2), start=1), run_of(rotate(3), start=2))
    assert [HERE, HERE] == rig.ends_asked


def test_the_first_run_waits_for_what_a_former_owner_wrote(rig: Rig) -> None:
    """Nothing is decided before the view has passed the partition's end; other partitions do not wait for it."""
    former = rig.fresh()
    bounded(former.handle(run_of(ingest("SD"), rotate(2))))

    async def late() -> None:
        async with under_way(rig.provisioner.handle(run_of(assign(4), start=2))) as task:
            assert (1, False) == (len(rig.publisher.batches), task.done())
            other = asset_key("demo", f"a{ELSEWHERE}")
            partition = partition_for(other, PARTITIONS)
            await rig.provisioner.handle(run_of(ingest("SD", asset=f"a{ELSEWHERE}"), partition=partition))
            assert (2, False) == (len(rig.publisher.batches), task.done())
            rig.follow(rig.publisher.end(KEYS, HERE) - 1)
            await asyncio.sleep(0.05)
            assert not task.done()
            rig.follow()
            await task

    bounded(late())
    last = decode(rig.sent()[-1].value, AssetRecord)
    assert (2, 4, 2) == (last.applied.offset, last.policy_id, len(last.versions))


def test_a_run_that_its_partition_leaves_is_given_up(rig: Rig) -> None:
    """What was written and not read back is forgotten with the partition; a fold over less would lose it for ever."""
    handle(rig, run_of(ingest("SD"), assign(4)))

    async def leaving() -> None:
        task = asyncio.ensure_future(rig.provisioner.handle(run_of(*([rotate(2)] * 200), start=2)))
        while not rig.provisioner.owner.lock.locked():
            await asyncio.sleep(0)
        rig.provisioner.owner.revoked()
        with pytest.raises(NotReady, match="left"):
            await task

    bounded(leaving())
    assert 1 == len(rig.publisher.batches)


def test_a_view_that_has_stopped_is_not_waited_for(rig: Rig) -> None:
    """The reason is told; the run is neither handled nor lost."""
    rig.ends[HERE] = 5
    rig.beat(error="the topic was created anew")
    with pytest.raises(NotReady, match="created anew"):
        handle(rig, run_of(ingest("SD")))
    assert [] == rig.publisher.batches


def test_a_wait_that_a_new_assignment_outlives_proves_nothing(rig: Rig) -> None:
    """The partition came back meanwhile, with another owner's records: its end is asked for again."""
    rig.ends[HERE] = 3

    async def waiting() -> None:
        async with under_way(rig.provisioner.handle(run_of(ingest("SD")))) as task:
            rig.provisioner.owner.revoked()
            rig.provisioner.owner.assigned([(ASSETS, HERE)])
            rig.writer.apply([], {KEYS: {HERE: Slot(3)}})
            with pytest.raises(NotReady):
                await task
            rig.ends[HERE] = 3
            await rig.provisioner.handle(run_of(ingest("SD")))

    bounded(waiting())
    assert [HERE, HERE] == rig.ends_asked


def superseded(rig: Rig) -> tuple[bytes, AssetRecord]:
    """Publish and follow an asset record and then a zombie's older one; returns the right one."""
    own(rig, HERE)
    handle(rig, run_of(ingest("SD"), assign(4)))
    right = rig.sent()[-1]
    rig.forge(folded(ingest("SD")))
    rig.follow()
    assert 1 == len(rig.reader.regressions())
    assert right.value is not None
    return right.value, decode(right.value, AssetRecord)


def own(rig: Rig, *partitions: int) -> None:
    rig.provisioner.owner.assigned([(ASSETS, partition) for partition in partitions])


def repair(rig: Rig) -> None:
    bounded(rig.provisioner.owner.repair())


def test_a_repair_writes_the_held_record_again(rig: Rig) -> None:
    """Once: until the view has read it back, and when it has."""
    value, _ = superseded(rig)
    for _ in range(2):
        repair(rig)
        assert [KEY] == [record.record_key for record in rig.publisher.batches[-1]]
        assert (2, value, HERE) == (len(rig.publisher.batches), rig.sent()[-1].value, rig.sent()[-1].partition)
        assert rig.provisioner.owner.overlay.holds(HERE, KEY) == bool(rig.reader.regressions())
        rig.follow()
    assert [] == rig.reader.regressions()


def test_a_second_regression_is_repaired_too(rig: Rig) -> None:
    """On a partition without any run."""
    superseded(rig)
    for number in range(2, 4):
        repair(rig)
        assert number == len(rig.publisher.batches)
        rig.follow()
        rig.forge(folded(ingest("SD")))
        rig.follow()


def test_only_the_owner_repairs(rig: Rig) -> None:
    """Another worker, or none, leaves it alone."""
    superseded(rig)
    own(rig, *({*range(PARTITIONS)} - {HERE}))
    repair(rig)
    own(rig)
    repair(rig)
    assert 1 == len(rig.publisher.batches)


def test_a_repair_waits_for_what_a_former_owner_wrote(rig: Rig) -> None:
    """A new owner's view may hold a record that was right when the zombie wrote, and is old by now."""
    superseded(rig)
    former, rig.provisioner = rig.provisioner, rig.fresh()
    own(rig, HERE)
    bounded(former.handle(run_of(assign(9), start=2)))  # supersedes the zombie's record; not yet in the view
    for _ in range(2):
        repair(rig)
        assert 2 == len(rig.publisher.batches)
        rig.follow()


def test_a_repair_ends_with_the_ownership(rig: Rig) -> None:
    """A partition that leaves in the middle takes the right to repair along."""
    own(rig, HERE)
    assets = [f"b{n}" for n in range(60) if partition_for(asset_key("demo", f"b{n}"), PARTITIONS) == HERE][:3]
    handle(
        rig,
        run_of(
            *(ingest("SD", asset=asset) for asset in assets),
            *(msgspec.structs.replace(assign(4), asset=a) for a in assets),
        ),
    )
    for asset in assets:
        rig.forge(folded(ingest("SD", asset=asset)))
    rig.follow()
    assert 3 == len(rig.reader.regressions())

    async def leave() -> None:
        rig.provisioner.owner.revoked()

    rig.publisher.before_ack = leave
    repair(rig)
    assert 2 == len(rig.publisher.batches)


def test_a_failed_repair_is_not_remembered(rig: Rig) -> None:
    """The next look tries again."""
    superseded(rig)
    rig.publisher.fail_at = 1
    with pytest.raises(Unavailable):
        repair(rig)
    repair(rig)
    assert rig.publisher.batches[1] == rig.publisher.batches[2]


def test_runs_and_repairs_take_turns(rig: Rig) -> None:
    """What a run is publishing cannot be superseded by a repair of what it replaces."""
    superseded(rig)

    async def at_once() -> None:
        started = asyncio.Event()

        async def slow() -> None:
            started.set()
            await asyncio.sleep(0.05)

        rig.publisher.before_ack = slow
        run = asyncio.ensure_future(rig.provisioner.handle(run_of(assign(9), start=2)))
        await started.wait()
        await asyncio.gather(run, rig.provisioner.owner.repair())

    bounded(at_once())
    assert 2 == len(rig.publisher.batches)
    assert 9 == decode(rig.sent()[-1].value, AssetRecord).policy_id


def test_other_work_goes_on_during_a_long_run(rig: Rig) -> None:
    """Health checks and heartbeats get their turn every few milliseconds."""
    ticks = 0

    async def ticking() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async def both() -> None:
        async with under_way(ticking()):
            nonlocal ticks
            rig.provisioner.owner._caught_up.add(HERE)
            ticks = 0
            await rig.provisioner.handle(run_of(*([assign(1)] * 640)))

    bounded(both())
    assert ticks >= 10


def test_owned_partitions_are_those_of_the_asset_topic(rig: Rig) -> None:
    """Other topics' assignments say nothing about the key topic."""
    rig.provisioner.owner.assigned([(ASSETS, 1), (KEYS, 2), (ASSETS, 3)])
    assert frozenset({1, 3}) == rig.provisioner.owner._owned


KID = b"k" * 16
CHOSEN = ingest(tracks=(TrackWish(label="SD", kid=KID), TrackWish(label="HD")))


def test_claims_are_read_back_before_anything_else_is_sent(rig: Rig) -> None:
    """A run that names KIDs claims them first; while the claims are not in the view, nothing follows them."""

    async def scenario() -> None:
        async with under_way(rig.provisioner.handle(run_of(CHOSEN, b"junk"))) as task:
            assert [[CLAIMS]] == [[record.topic for record in batch] for batch in rig.publisher.batches]
            rig.follow()
            await task
        assert [CLAIMS, DEAD_LETTERS, KEYS, KEYS] == [each.topic for batch in rig.publisher.batches for each in batch]

    bounded(scenario())


def test_the_first_claim_wins_whoever_made_it(rig: Rig) -> None:
    """Another processor's claim, not in the view yet, stands at a lower offset: this run's event is refused."""
    theirs = msgspec.structs.replace(claim_of(CHOSEN), asset="theirs", event=LogPosition(generation=0, offset=77))
    bounded(rig.publisher.publish([Outgoing(topic=CLAIMS, record_key=claim_key("demo", KID), value=encode(theirs))]))
    rig.follow_until(rig.provisioner.handle(run_of(CHOSEN)))
    (letter,) = [decode(record.value, DeadLetter) for record in rig.sent(DEAD_LETTERS)]
    assert "kid_taken" == letter.reason
    assert "offset 77" in letter.message
    assert [] == rig.sent(KEYS)


def test_a_zombies_claim_for_the_same_event_is_as_good(rig: Rig, tmp_path: Path) -> None:
    """Two processors with one partition claim twice; both write the same records."""
    rig.follow_until(rig.provisioner.handle(run_of(CHOSEN)))
    other = Rig(tmp_path / "zombie")
    try:
        bounded(other.publisher.publish(rig.sent(CLAIMS)))
        other.follow_until(other.provisioner.handle(run_of(CHOSEN)))
        assert 2 == len(other.sent(CLAIMS))
        assert [record.value for record in rig.sent(KEYS)] == [record.value for record in other.sent(KEYS)]
    finally:
        other.close()


def test_a_claim_waits_for_the_keys_that_were_there(rig: Rig) -> None:
    """A derived KID of another asset that the view has not read yet is refused all the same."""
    other = ingest("SD", asset="other")
    bounded(rig.provisioner.handle(run_of(other, partition=partition_for(asset_key("demo", "other"), PARTITIONS))))
    own = decode(rig.sent(KEYS)[0].value, KeyRecord).tracks[0].kid

    async def scenario() -> None:
        named = ingest(tracks=(TrackWish(label="SD", kid=own),))
        async with under_way(rig.provisioner.handle(run_of(named))) as task:
            rig.follow(limit=0)
            await asyncio.sleep(0.05)
            assert not task.done()
            rig.follow()
            await task

    bounded(scenario())
    (letter,) = [decode(record.value, DeadLetter) for record in rig.sent(DEAD_LETTERS)]
    assert "kid_taken" == letter.reason
    assert "asset other" in letter.message


def claim_of(event) -> Claim:
    """What an event's first KID is claimed by."""
    asset = folded(event)
    return claims_of(event, asset, asset.applied)[KID]
