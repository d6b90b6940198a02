"""The policy agent over a real view and an in-memory log: a record per change, one after the other."""

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from keymill.core.policy_changes import MAX_POLICY_RECORD
from keymill.errors import Misconfigured, NotReady, Unavailable
from keymill.kms.keyring import Keyring
from keymill.telemetry import REQUEST_ID_HEADER
from schemas import topics
from schemas.codec import decode, encode
from schemas.events import PolicyChange
from schemas.partition import partition_for
from schemas.policy import Policy, PolicySource
from schemas.records import DeadLetter, PolicyRecord
from streams.policies import Decider, PolicyKeeper
from streams.runs import RawRecord, Run
from tests.agent_rig import PARTITIONS, AgentRig, bounded, under_way
from tests.authentic import authentic
from tests.builders import NOW, create_policy, delete_policy, update_policy
from tests.fakes import MemoryKms

CHANGES, POLICIES, LETTERS = topics.POLICY_CHANGES.name, topics.POLICIES.name, topics.DEAD_LETTERS.name
HERE = partition_for(b"demo", PARTITIONS)
OTHER = next(name for n in range(99) if partition_for((name := f"other-{n}").encode(), PARTITIONS) == HERE)
STRANGER = next(name for n in range(99) if partition_for((name := f"nobody-{n}").encode(), PARTITIONS) == HERE)


class Rig(AgentRig):
    """A policy keeper and its view."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, topics.POLICIES)
        self.keeper = self.fresh()

    def fresh(self, *names: str) -> PolicyKeeper:
        """Another worker with the same view, whose KMS knows these organizations."""
        keyring = Keyring(MemoryKms(names=names or ("demo", OTHER)))
        return PolicyKeeper(
            decider=Decider(keyring, partitions=PARTITIONS, generation=0),
            owner=self.owner_by(topics.POLICY_CHANGES),
            partitions=PARTITIONS,
        )

    def handle(self, *runs: Run) -> None:
        """One run after the other."""

        async def all_of_them() -> None:
            for run in runs:
                await self.keeper.handle(run)

        bounded(all_of_them())

    def written(self) -> list[tuple[int, int, int]]:
        """Of every record that was sent: policy, version, offset of its change."""
        records = [decode(each.value or b"", PolicyRecord) for each in self.sent()]
        return [(record.policy_id, record.version, record.applied.offset) for record in records]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A fresh one."""
    made = Rig(tmp_path / "view")
    yield made
    made.close()


def run_of(*changes: PolicyChange | RawRecord, start: int = 0, request_id: str = "") -> Run:
    """A run of changes, or of raw records, at consecutive offsets."""
    headers = ((REQUEST_ID_HEADER, request_id.encode()),) if request_id else ()
    records = [
        msgspec.structs.replace(change, offset=offset)
        if isinstance(change, RawRecord)
        else authentic(RawRecord(CHANGES, HERE, offset, NOW, 1, change.organization.encode(), encode(change), headers))
        for offset, change in enumerate(changes, start)
    ]
    return Run(CHANGES, HERE, 1, 1, start, start + len(records), records, 1)


def raw(key: bytes | None, value: bytes | None) -> RawRecord:
    """What anybody may write."""
    return authentic(RawRecord(CHANGES, HERE, 0, NOW, 1, key, value, ()))


def test_every_change_is_a_record_of_its_own_in_log_order(rig: Rig) -> None:
    """None is sent before the one before it is acknowledged, and none is left out for a later one of its policy."""
    rig.handle(run_of(create_policy(), update_policy(1), create_policy(), update_policy(1), delete_policy(2)))
    assert rig.written() == [(1, 1, 0), (1, 2, 1), (2, 1, 2), (1, 3, 3), (2, 2, 4)]
    assert [1] * 5 == [len(batch) for batch in rig.publisher.batches]
    assert [b"demo/1", b"demo/1", b"demo/2", b"demo/1", b"demo/2"] == [each.record_key for each in rig.sent()]
    assert {(POLICIES, HERE)} == {(each.topic, each.partition) for each in rig.sent()}


def test_the_order_is_the_logs_over_all_organizations(rig: Rig) -> None:
    """What is durable of a partition is what its beginning calls for, whoever asked."""
    rig.handle(run_of(create_policy(), create_policy(), create_policy(OTHER), update_policy(1), create_policy(OTHER)))
    keys = [[each.record_key.decode() for each in batch] for batch in rig.publisher.batches]
    assert keys == [["demo/1"], ["demo/2"], [f"{OTHER}/1"], ["demo/1"], [f"{OTHER}/2"]]


def test_dead_letters_come_first(rig: Rig) -> None:
    """They are acknowledged before any record, and name change and request; the run goes on."""
    rig.publisher.fail_at = 0
    run = run_of(create_policy(), update_policy(7, request_id="r-7"), create_policy(), request_id="http-1")
    with pytest.raises(Unavailable):
        rig.handle(run)
    assert [] == rig.sent()
    rig.handle(run)
    assert LETTERS == rig.publisher.batches[1][0].topic
    letter = decode(rig.publisher.batches[1][0].value or b"", DeadLetter)
    told = (letter.topic, letter.partition, letter.offset, letter.organization, letter.event_id, letter.request_id)
    assert told == (CHANGES, HERE, 1, "demo", "r-7", "http-1")
    assert (letter.reason, letter.field, letter.asset) == ("policy_unknown", "policy_id", None)
    assert letter.value_sha256 == hashlib.sha256(run.records[1].value or b"").digest()
    assert rig.written() == [(1, 1, 0), (2, 1, 2)]
    assert {((REQUEST_ID_HEADER, b"http-1"),)} == {each.headers for each in rig.sent()}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (raw(b"demo", b"junk"), "invalid_record"),
        (raw(b"demo", None), "null_value"),
        (raw(None, encode(create_policy())), "null_key"),
        (raw(f"{OTHER}".encode(), encode(create_policy())), "key_mismatch"),
        (
            raw(next(b"x%d" % n for n in range(99) if partition_for(b"x%d" % n, PARTITIONS) != HERE), b""),
            "wrong_partition",
        ),
        (raw(STRANGER.encode(), encode(create_policy(STRANGER))), "unknown_organization"),
        (
            raw(b"demo", encode(create_policy(policy=Policy(source=PolicySource(format="f", document="€" * 21_300))))),
            "policy_too_large",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_poison_is_refused_and_passed(rig: Rig, record: RawRecord, reason: str) -> None:
    """Whatever stands in the log costs itself alone."""
    rig.handle(run_of(create_policy(), record, create_policy()))
    assert [reason] == [decode(each.value or b"", DeadLetter).reason for each in rig.sent(LETTERS)]
    assert rig.written() == [(1, 1, 0), (2, 1, 2)]


def test_the_largest_policy_is_published(rig: Rig) -> None:
    """What the fold takes, the publisher takes."""
    big = create_policy(policy=Policy(source=PolicySource(format="f", document="€" * 21_100)))
    rig.handle(run_of(big))
    assert MAX_POLICY_RECORD - 600 < len(rig.sent()[0].value or b"") < MAX_POLICY_RECORD


def test_a_view_that_lacks_the_run_before_is_made_up_for(rig: Rig) -> None:
    """The follower has read nothing back, or a part: ids and versions go on from what was acknowledged."""
    rig.handle(run_of(create_policy(request_id="r-1"), create_policy()), run_of(create_policy(), start=2))
    rig.follow(1)
    rig.handle(run_of(create_policy(request_id="r-1"), update_policy(2), create_policy(), start=3))
    rig.follow()
    rig.handle(run_of(create_policy(), start=6))
    assert 1 == len(rig.keeper.owner.overlay)
    assert rig.written() == [(1, 1, 0), (2, 1, 1), (3, 1, 2), (1, 1, 3), (2, 2, 4), (4, 1, 5), (5, 1, 6)]


def test_redelivery_sends_only_what_is_not_durable(rig: Rig) -> None:
    """Another worker gets everything again, from the beginning and beyond."""
    changes = [create_policy(), update_policy(1), update_policy(9), create_policy(), delete_policy(1)]
    rig.handle(run_of(*changes[:4]))
    rig.follow()
    rig.keeper = rig.fresh()
    rig.handle(run_of(*changes))
    assert rig.written() == [(1, 1, 0), (1, 2, 1), (2, 1, 3), (1, 3, 4)]
    assert 1 == len(rig.sent(LETTERS))


def test_a_run_that_broke_off_is_gone_on_with(rig: Rig) -> None:
    """A record was written and not acknowledged: nothing behind it was sent; the next worker finds it in the view."""
    run = run_of(*(create_policy(name=str(number)) for number in range(5)))
    rig.publisher.fail_at = 2
    with pytest.raises(Unavailable):
        rig.handle(run)
    assert (3, 0) == (len(rig.written()), len(rig.keeper.owner.overlay))
    rig.follow()
    rig.keeper = rig.fresh()
    rig.handle(run)
    assert rig.written() == [(number + 1, 1, number) for number in range(5)]


def test_the_first_run_waits_for_what_a_former_owner_wrote(rig: Rig) -> None:
    """An id is not given before every create of the former owner is known."""
    former = rig.fresh()
    bounded(former.handle(run_of(create_policy(), create_policy())))

    async def late() -> None:
        async with under_way(rig.keeper.handle(run_of(create_policy(), start=2))) as task:
            rig.follow(1)
            await asyncio.sleep(0.05)
            assert not task.done()
            rig.follow()
            await task

    bounded(late())
    assert rig.written()[-1] == (3, 1, 2)


def test_a_run_that_its_partition_leaves_amid_its_records_is_finished(rig: Rig) -> None:
    """What is sent is what was decided with everything known; the next owner decides the same."""

    async def leave() -> None:
        rig.keeper.owner.revoked()

    rig.handle(run_of(create_policy()))
    rig.publisher.before_ack = leave
    rig.handle(run_of(create_policy(), create_policy(), start=1))
    assert rig.written() == [(1, 1, 0), (2, 1, 1), (3, 1, 2)]


def test_a_run_that_leaves_while_it_is_decided_is_given_up(rig: Rig) -> None:
    """The policies that were written and not read back are forgotten with the partition: no id is given twice."""
    rig.handle(run_of(create_policy()))

    async def leaving() -> None:
        task = asyncio.ensure_future(rig.keeper.handle(run_of(*[create_policy()] * 100, start=1)))
        while not rig.keeper.owner.lock.locked():
            await asyncio.sleep(0)
        rig.keeper.owner.revoked()
        with pytest.raises(NotReady):
            await task

    bounded(leaving())
    assert rig.written() == [(1, 1, 0)]


def test_only_the_owner_repairs_a_policy(rig: Rig) -> None:
    """A late record of an old version is written over by the one that is held, once, by the worker that may."""
    rig.handle(run_of(create_policy(), update_policy(1)))
    old, right = (each.value or b"" for each in rig.sent())
    rig.append(b"demo/1", old, HERE)
    rig.follow()
    rig.keeper.owner.assigned([(topics.ASSETS.name, HERE), (CHANGES, (HERE + 1) % PARTITIONS)])
    bounded(rig.keeper.owner.repair())
    assert 2 == len(rig.sent())
    rig.keeper.owner.assigned([(CHANGES, HERE)])
    for _ in range(2):
        bounded(rig.keeper.owner.repair())
        rig.follow()
    assert [old, right, right] == [each.value for each in rig.sent()]
    assert [] == rig.reader.regressions()


def test_a_command_stops_where_keys_are_lost(rig: Rig) -> None:
    """With an old copy of the keys no replay can say anything of policies that are held."""
    rig.handle(run_of(create_policy()))
    rig.follow()
    rig.keeper = rig.fresh(OTHER)
    with pytest.raises(Misconfigured, match="restore"):
        rig.handle(run_of(create_policy(), start=1))
