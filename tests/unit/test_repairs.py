"""Repairs that name a source's partition: lost dead letters and policies come back, nothing else changes."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from keymill.kms.keyring import Keyring
from schemas import topics
from schemas.codec import decode, encode
from schemas.events import PolicyChange
from schemas.ids import asset_key
from schemas.operations import RepairRequest
from schemas.partition import partition_for
from schemas.records import DeadLetter, PolicyRecord
from streams import policies, policy_repairs
from streams.policies import PolicyKeeper
from streams.requests import PolicyRequester
from streams.runs import RawRecord, Run
from tests.agent_rig import PARTITIONS, AgentRig, bounded
from tests.authentic import authentic
from tests.builders import NOW, assign, create_policy, delete_policy, ingest, rotate, update_policy
from tests.fakes import MemoryKms
from tests.unit.test_requests import ASSETS, HERE, KEY, KEYS, LETTERS, REQUESTS, Rig

CHANGES = topics.POLICY_CHANGES.name
THERE = partition_for(b"demo", PARTITIONS)


def repair(accepted=(), refused=(), *, topic: str = ASSETS, partition: int = HERE, generation: int = 0) -> RawRecord:
    """A request to decide those again."""
    request = RepairRequest(
        topic=topic, partition=partition, generation=generation, offsets=accepted, refused=refused,
        request_id="r-1", requested=NOW,
    )  # fmt: skip
    return authentic(RawRecord(REQUESTS, partition, 0, NOW, 1, f"{topic}/{partition}".encode(), encode(request), ()))


def run_of(*requests: RawRecord) -> Run:
    """A run of requests."""
    records = [msgspec.structs.replace(each, offset=offset) for offset, each in enumerate(requests)]
    return Run(REQUESTS, records[0].partition, 1, 1, 0, len(records), records, 1)


class AssetRig(Rig):
    """A worker whose dead letters of asset events may be lost."""

    def execute(self, *asked: RawRecord) -> list[DeadLetter]:
        """Handle requests; the dead letters that it gave."""
        before = len(self.sent(LETTERS))
        bounded(self.requester.handle(run_of(*asked)))
        return letters(self)[before:]


def letters(rig: AgentRig) -> list[DeadLetter]:
    """Every dead letter that was sent."""
    return [decode(each.value or b"", DeadLetter) for each in rig.sent(LETTERS)]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[AssetRig]:
    """An asset with a refused rotation between two events, and a record that is no event."""
    made = AssetRig(tmp_path / "view")
    made.provision(ingest("SD"), rotate(4), assign(3))
    made.events.append(RawRecord(ASSETS, HERE, 3, NOW, 1, b"nobody", b"no event", ()))
    made.events.append(RawRecord(ASSETS, HERE, 4, NOW, 1, None, b"no event", ()))
    bounded(made.provisioner.handle(Run(ASSETS, HERE, 1, 1, 3, 5, made.events[3:], 1)))
    assert [1, 3, 4] == [each.offset for each in letters(made)]
    yield made
    made.close()


def test_a_lost_dead_letter_is_written_again(rig: AssetRig) -> None:
    """As it was, also that of a record that no asset has; no record that is there is written."""
    before, written = letters(rig), len(rig.sent(KEYS))
    again = rig.execute(repair((0, 2), (1,)), repair((), (3,)), repair((), (4,)), repair((0, 2), (1,)))
    assert before == again
    assert written == len(rig.sent(KEYS))


def test_records_come_back_with_their_dead_letters(rig: AssetRig, tmp_path: Path) -> None:
    """One request names both; the dead letter is durable before any record."""
    lost = AssetRig(tmp_path / "lost")
    lost.events = rig.events
    assert [1] == [each.offset for each in lost.execute(repair((0, 2), (1,)))]
    assert {each.record_key: each.value for each in rig.sent(KEYS)} == {e.record_key: e.value for e in lost.sent(KEYS)}
    assert LETTERS == lost.publisher.batches[0][0].topic
    lost.close()


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (repair((0,), (2,)), "repair_contradicted"),
        (repair((), (1,)), "repair_contradicted"),
        (repair((0,), (1,)), "repair_contradicted"),
        (repair((0, 1, 2)), "repair_contradicted"),
        (repair((), (3, 4)), "event_of_another_asset"),
        (repair((), (9,)), "event_missing"),
        (repair(), "invalid_record"),
        (repair((0, 1), (1,)), "invalid_record"),
        (repair((0, 2), (1,), generation=1), "wrong_generation"),
        (msgspec.structs.replace(repair((0, 2), (1,)), key=f"{ASSETS}/{HERE + 1}".encode()), "wrong_partition"),
    ],
)
def test_what_was_not_refused_gets_no_dead_letter(rig: AssetRig, asked: RawRecord, code: str) -> None:
    """A letter makes an event refused for ever: all that is held must be what the events named lead to."""
    written = len(rig.sent())
    (letter,) = rig.execute(asked)
    assert (REQUESTS, code) == (letter.topic, letter.reason)
    assert written == len(rig.sent())


def test_an_asset_that_has_moved_on_gets_no_dead_letter(rig: AssetRig) -> None:
    """The fold must lead to what is held; the next repair names the newer event."""
    rig.provision(assign(5))
    (letter,) = rig.execute(repair((0, 2), (1,)))
    assert "repair_contradicted" == letter.reason


def test_requests_of_another_release_cost_only_themselves(rig: AssetRig) -> None:
    """A kind that is not known, for an asset or a partition of a source, is refused; the run's others are executed."""
    unknown = b"\xc3\x01" + bytes(8)
    strange = [
        msgspec.structs.replace(repair((), (3,)), value=unknown),
        authentic(RawRecord(REQUESTS, HERE, 0, NOW, 1, KEY, unknown, ())),
        authentic(RawRecord(REQUESTS, HERE, 0, NOW, 1, b"drm.later.v1/0", encode(_later()), ())),
    ]
    given = rig.execute(*strange, repair((0, 2), (1,)))
    assert [(ASSETS, 1), (REQUESTS, 0), (REQUESTS, 1), (REQUESTS, 2)] == [(each.topic, each.offset) for each in given]


def _later() -> RepairRequest:
    return RepairRequest(
        topic="drm.later.v1", partition=0, generation=0, offsets=(1,), refused=(), request_id="r", requested=NOW
    )


class PolicyRig(AgentRig):
    """A policy keeper and the agent for repairs, which share an owner."""

    def __init__(self, folder: Path, changes: list[RawRecord]) -> None:
        super().__init__(folder, topics.POLICIES)
        self.changes = changes
        owner = self.owner_by(topics.POLICY_CHANGES)
        decider = policies.Decider(Keyring(MemoryKms()), partitions=PARTITIONS, generation=0)
        self.keeper = PolicyKeeper(decider=decider, owner=owner, partitions=PARTITIONS)
        self.requester = PolicyRequester(
            decider=policy_repairs.Decider(decider, generation=0, change_generation=0),
            owner=owner,
            partitions=PARTITIONS,
            read=lambda _, offsets: {offset: changes[offset] for offset in offsets if offset < len(changes)},
        )
        owner.assigned([(CHANGES, partition) for partition in range(PARTITIONS)])

    def keep(self, *changes: PolicyChange) -> None:
        """Append changes, and have them handled and read."""
        start = len(self.changes)
        for offset, change in enumerate(changes, start):
            self.changes.append(authentic(RawRecord(CHANGES, THERE, offset, NOW, 1, b"demo", encode(change), ())))
        run = Run(CHANGES, THERE, 1, 1, start, len(self.changes), self.changes[start:], 1)
        bounded(self.keeper.handle(run))
        self.follow()

    def execute(self, *asked: RawRecord) -> list[DeadLetter]:
        """Handle requests; the dead letters that it gave."""
        before = len(letters(self))
        bounded(self.requester.handle(run_of(*asked)))
        self.follow()
        return letters(self)[before:]

    def newest(self) -> dict[bytes, bytes | None]:
        """The last record of every policy that was sent."""
        return {each.record_key: each.value for each in self.sent()}


def again(accepted, refused=()) -> RawRecord:
    """A request to decide those changes again."""
    return repair(accepted, refused, topic=CHANGES, partition=THERE)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[PolicyRig]:
    """Three policies; the change at offset 3 was refused."""
    made = PolicyRig(tmp_path / "kept", [])
    made.keep(create_policy(), create_policy(), update_policy(1), update_policy(9), create_policy(), delete_policy(2))
    assert [3] == [each.offset for each in letters(made)]
    yield made
    made.close()


@pytest.fixture
def lost(tmp_path: Path, kept: PolicyRig) -> Iterator[PolicyRig]:
    """The same changes under an empty view."""
    made = PolicyRig(tmp_path / "lost", kept.changes)
    yield made
    made.close()


ACCEPTED = (0, 1, 2, 4, 5)


def test_lost_policies_are_written_again(kept: PolicyRig, lost: PolicyRig) -> None:
    """As they stood, one by one in the order of their changes; a repeat writes nothing."""
    assert [] == lost.execute(again(ACCEPTED), again(ACCEPTED))
    assert [b"demo/1", b"demo/3", b"demo/2"] == [each.record_key for each in lost.sent()]
    assert kept.newest() == lost.newest()
    assert [1, 1, 1] == [len(batch) for batch in lost.publisher.batches]
    assert [] == lost.execute(again(ACCEPTED))
    assert 3 == len(lost.sent())


def test_only_what_is_missing_is_written(kept: PolicyRig, lost: PolicyRig) -> None:
    """A policy that stands as it did before its last change is brought up to date."""
    for record_key in (b"demo/3", b"demo/1"):
        lost.append(record_key, next(e.value for e in kept.sent() if e.record_key == record_key) or b"", THERE)
    lost.follow()
    assert [] == lost.execute(again(ACCEPTED))
    assert [b"demo/1", b"demo/2"] == [each.record_key for each in lost.sent()]


def test_the_keeper_goes_on_where_a_repair_ended(lost: PolicyRig) -> None:
    """It numbers the next policy after those that came back, and folds no change twice."""
    assert [] == lost.execute(again(ACCEPTED))
    run = Run(CHANGES, THERE, 1, 1, 0, len(lost.changes), list(lost.changes), 1)
    bounded(lost.keeper.handle(run))
    assert 3 == len(lost.sent())
    lost.keep(create_policy())
    assert b"demo/4" == lost.sent()[-1].record_key


def test_a_policy_that_was_changed_meanwhile_is_left(kept: PolicyRig) -> None:
    """What is newer than all that is named stays; a dead letter waits for the next repair."""
    kept.keep(update_policy(3), create_policy())
    written = len(kept.sent())
    assert [] == kept.execute(again(ACCEPTED))
    (letter,) = kept.execute(again(ACCEPTED, (3,)))
    assert ("repair_contradicted", written) == (letter.reason, len(kept.sent()))


def test_a_lost_dead_letter_of_a_change_is_written_again(kept: PolicyRig) -> None:
    """As it was, and no record with it."""
    before, written = letters(kept), len(kept.sent())
    assert before == kept.execute(again(ACCEPTED, (3,)))
    assert written == len(kept.sent())


@pytest.mark.parametrize(
    "asked", [again((0, 1, 2), (3,)), again(ACCEPTED, (5,)), again((1, 2, 4, 5)), again((0, 1, 2, 3))]
)
def test_changes_that_do_not_lead_to_what_is_held_write_nothing(kept: PolicyRig, asked: RawRecord) -> None:
    """Nothing that exists is changed, and no accepted change gets a dead letter."""
    written = len(kept.sent())
    (letter,) = kept.execute(asked)
    assert letter.reason in ("repair_contradicted", "invalid_record")
    assert (REQUESTS, written) == (letter.topic, len(kept.sent()))


def test_a_policy_that_contradicts_its_changes_is_refused(kept: PolicyRig, lost: PolicyRig) -> None:
    """One that is held with another content keeps all of its organization from being written."""
    wrong = decode(kept.newest()[b"demo/1"] or b"", PolicyRecord)
    lost.append(b"demo/1", encode(msgspec.structs.replace(wrong, name="another")), THERE)
    lost.follow()
    (letter,) = lost.execute(again(ACCEPTED))
    assert ("repair_contradicted", []) == (letter.reason, lost.sent())


def test_a_repair_of_policies_is_handed_on(rig: AssetRig) -> None:
    """The agent for requests gives what names policy changes to the policies' owner, and executes the rest."""
    handed: list[Run] = []

    async def take(run: Run) -> None:
        handed.append(run)

    rig.requester._of_policies.handle = take  # type: ignore[method-assign]
    policy = msgspec.structs.replace(again((0,)), partition=HERE)
    assert [1] == [each.offset for each in rig.execute(policy, repair((0, 2), (1,)), policy)]
    assert [[0, 2]] == [[each.offset for each in run.records] for run in handed]


def test_keys_name_assets_or_sources() -> None:
    """No organization's name has a dot, so that one topic holds both."""
    assert (ASSETS, 3) == topics.source_named(b"drm.assets.v1/3")
    assert 3 == topics.partition_of(topics.REQUESTS, b"drm.assets.v1/3", PARTITIONS)
    assert topics.source_named(asset_key("demo", "3")) is None
