"""Replay in verify mode, the policies: what the policy topic lacks, holds wrongly or holds too much."""

import msgspec
import pytest

from keymill.core.policy_changes import Policies
from keymill.kms.keyring import Keyring
from keymill.ops.replaying_policies import HeldPolicies, compare_policies
from keymill.ops.report import Report
from schemas import topics
from schemas.codec import decode, encode
from schemas.events import PolicyChange
from schemas.partition import partition_for
from schemas.policy import Policy
from schemas.records import PolicyRecord
from streams.policies import Decider
from streams.runs import RawRecord, Run
from tests.authentic import authentic
from tests.builders import NOW, create_policy, delete_policy, update_policy
from tests.fakes import MemoryKms

PARTITIONS = 4
HERE = partition_for(b"demo", PARTITIONS)
OTHER = next(name for n in range(99) if partition_for((name := f"other-{n}").encode(), PARTITIONS) == HERE)


class World:
    """One partition: the log of changes, and the policy topic as the processors have written it."""

    def __init__(self, *changes: PolicyChange | bytes, names: tuple[str, ...] = ("demo", OTHER)) -> None:
        self.changes: list[RawRecord] = []
        self.topic: list[tuple[bytes, bytes | None]] = []
        self.refused: set[int] = set()
        self.held: list[PolicyRecord] = []
        self.add(*changes)
        run = Run(topics.POLICY_CHANGES.name, HERE, 0, 0, 0, len(changes), self.changes, 0)
        decider = self.decider(names)
        decided = decider.begin(run)
        for record in self.changes:
            decider.record(record, decided, self)
        self.topic += [(due.record_key, due.value) for due in decided.records]
        self.refused |= {letter.offset for letter in decided.dead_letters}

    def add(self, *changes: PolicyChange | bytes) -> None:
        """Changes that nobody has processed."""
        for change in changes:
            name, value = (b"demo", change) if isinstance(change, bytes) else (_key(change), encode(change))
            offset = len(self.changes)
            self.changes.append(authentic(RawRecord(topics.POLICY_CHANGES.name, HERE, offset, NOW, 1, name, value, ())))

    @staticmethod
    def decider(names: tuple[str, ...] = ("demo", OTHER)) -> Decider:
        return Decider(Keyring(MemoryKms(names=names)), partitions=PARTITIONS, generation=0)

    def folded(self, _organization: str) -> Policies:
        return Policies()

    def replay(self, *, done: int = 0, only: frozenset[bytes] | None = None) -> Report:
        report, held = Report(), HeldPolicies()
        for key, value in self.topic:
            if only is None or key in only:
                held.add(key, value, report)
            else:
                held.pass_by(value)
        compare_policies(self.changes, held, self.decider(), 0, report, frozenset(self.refused), done=done, only=only)
        return report


def _key(change: PolicyChange) -> bytes:
    return change.organization.encode()


def counts(report: Report) -> dict[str, int]:
    """What is not zero, apart from the number of changes."""
    names = ("identical", "missing", "different", "unexpected", "refused", "pending")
    return {name: number for name in names if (number := getattr(report, name))}


def usual() -> World:
    """Three policies of two organizations, and a refused change."""
    return World(create_policy(), update_policy(1), create_policy(OTHER), update_policy(9), update_policy(0))


def test_what_the_changes_call_for_is_identical() -> None:
    """Also after compaction: only the last record of a policy counts."""
    world = usual()
    assert counts(world.replay()) == {"identical": 3, "refused": 1}
    world.topic = list(dict(world.topic).items())
    report = world.replay()
    assert counts(report) == {"identical": 3, "refused": 1}
    assert (report.events, report.clean()) == (5, True)


def test_nothing_is_clean() -> None:
    """An empty log over an empty topic."""
    assert World().replay().clean()


@pytest.mark.parametrize("key", [b"demo/1", f"{OTHER}/1".encode()])
def test_a_lost_policy_is_missing(key: bytes) -> None:
    """It is named, and the others are judged as ever."""
    world = usual()
    world.topic = [entry for entry in world.topic if entry[0] != key]
    report = world.replay()
    assert counts(report) == {"identical": 2, "refused": 1, "missing": 1}
    assert [(each.record_key, each.detail) for each in report.differences] == [(key.decode(), "policy record")]


def test_a_policy_of_an_earlier_change_is_missing_the_later() -> None:
    """Its last record is lost where one before it was not compacted away yet."""
    world = usual()
    world.topic = [world.topic[0], *world.topic[2:]]
    report = world.replay()
    assert counts(report) == {"identical": 2, "refused": 1, "missing": 1}
    assert "policy record of a later change" == report.differences[0].detail


@pytest.mark.parametrize("lost", [{b"demo/0"}, {b"demo/0", b"demo/1", f"{OTHER}/1".encode()}])
def test_a_lost_policy_of_a_committed_change_is_missing(lost: set[bytes]) -> None:
    """Also where no newer record tells that its change was decided; what was not committed is pending."""
    world = usual()
    world.topic = [entry for entry in world.topic if entry[0] not in lost]
    assert 0 == world.replay().missing < world.replay().pending
    world.add(create_policy())
    report = world.replay(done=5)
    assert {"missing": len(lost), "pending": 1} == {k: n for k, n in counts(report).items() if k[0] in "mp"}


def test_only_the_policies_that_are_asked_about_are_judged() -> None:
    """Others may be lost, changed, or none that can be read; those of their organization are folded all the same."""
    world = usual()
    world.topic = [entry for entry in world.topic if entry[0] != f"{OTHER}/1".encode()]
    world.topic += [(b"demo/0", None), (b"demo/7", b"junk")]
    report = world.replay(done=5, only=frozenset({b"demo/1"}))
    assert ({"identical": 1, "refused": 1}, 4) == (counts(report), report.events)
    world.topic = [entry for entry in world.topic if entry[0] != b"demo/1"]
    assert {"missing": 1, "refused": 1} == counts(world.replay(done=5, only=frozenset({b"demo/1"})))


def test_a_changed_policy_is_different() -> None:
    """The same place, another content; an earlier place, another content; what cannot be read; a tombstone."""
    for number, entry in enumerate(
        (
            (b"demo/1", _looser(usual().topic[1][1] or b"")),
            (b"demo/1", _looser(usual().topic[0][1] or b"")),
            (b"demo/1", b"junk"),
            (b"demo/1", None),
        )
    ):
        world = usual()
        world.topic.append(entry)
        report = world.replay()
        assert counts(report) == {"identical": 2, "refused": 1, "different": 1}, number
        assert report.differences[0].record_key == "demo/1"
        world.topic += [each for each in usual().topic if each[0] == b"demo/1"]
        assert counts(world.replay()) == {"identical": 3, "refused": 1}, number


def _looser(value: bytes) -> bytes:
    return encode(msgspec.structs.replace(decode(value, PolicyRecord), policy=Policy(can_play=True, can_persist=True)))


def test_a_policy_without_a_change_is_unexpected() -> None:
    """Somebody wrote where only the processor may."""
    world = usual()
    record = msgspec.structs.replace(decode(world.topic[0][1] or b"", PolicyRecord), policy_id=7)
    world.topic.insert(0, (b"demo/7", encode(record)))
    assert counts(world.replay()) == {"identical": 3, "refused": 1, "unexpected": 1}


def test_what_is_not_processed_yet_is_pending() -> None:
    """Of any organization; changes behind it are too, whatever they are."""
    world = usual()
    world.add(create_policy(), b"junk", delete_policy(1, OTHER))
    assert counts(world.replay()) == {"identical": 3, "refused": 1, "pending": 3}


def test_a_refused_change_without_dead_letter_is_missing_one() -> None:
    """Nothing that was accepted may end in nothing."""
    world = usual()
    world.refused.clear()
    report = world.replay()
    assert counts(report) == {"identical": 3, "missing": 1}
    assert "dead letter of offset 3" in report.differences[0].detail


def test_what_was_refused_once_stays_refused() -> None:
    """A create before its organization had roots has no id when the log is replayed."""
    early = World(create_policy(OTHER), create_policy(), names=("demo",))
    assert counts(early.replay()) == {"identical": 1, "refused": 1}
    early.refused.clear()
    assert not early.replay().clean()
