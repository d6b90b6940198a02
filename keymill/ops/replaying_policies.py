"""
Replay in verify mode, the policies: fold the policy changes again, and compare with what the policy topic holds.

Pure over the records it is given; `keymill.ops.replay` reads them. An organization's changes and policies stand on
partitions of one number, so one partition at a time is complete in itself.
"""

from collections.abc import Callable, Iterable, Set
from contextlib import suppress

from keymill.core.policy_changes import Policies
from keymill.errors import InvalidRecord
from keymill.ops.replaying import Lacking, pass_over
from keymill.ops.report import Report
from schemas import topics
from schemas.codec import decode, encode
from schemas.ids import scoped_key
from schemas.records import DeadLetter, PolicyRecord
from schemas.values import LogPosition
from streams.policies import Decider
from streams.runs import RawRecord, Run

_NOTHING = LogPosition(generation=0, offset=-1)


class HeldPolicies:
    """
    The last record of every policy of one partition; `newest` is the highest `applied` of any record.

    `wrong` are the record keys whose last record is a tombstone or cannot be read: reported, and judged no further.
    """

    def __init__(self) -> None:
        self.records: dict[bytes, PolicyRecord] = {}
        self.wrong: set[bytes] = set()
        self.newest = _NOTHING

    def add(self, record_key: bytes, value: bytes | None, report: Report) -> None:
        """Take a record in topic order."""
        if record_key in self.wrong:  # it has been put right, or is wrong in another way
            self.wrong.discard(record_key)
            report.take_back(record_key)
        try:
            if value is None:
                raise InvalidRecord("a tombstone: policies are deleted by a record")
            record = decode(value, PolicyRecord)
        except InvalidRecord as error:
            report.note("different", record_key, str(error))
            self.wrong.add(record_key)
            return
        self.records[record_key] = record
        self.newest = max(self.newest, record.applied)

    def decided(self, generation: int) -> int:
        """The changes of that generation below this offset are decided."""
        return self.newest.offset + 1 if self.newest.generation == generation else 0

    def pass_by(self, value: bytes | None) -> None:
        """See a record that is not asked about, which tells all the same how far the processors have come."""
        with suppress(InvalidRecord):
            self.newest = max(self.newest, decode(value or b"", PolicyRecord).applied)


class _Recomputed:
    """
    What replaying the changes of one partition gives; also the `Lookup` of its `Decider`.

    `passed` is every state that a policy had, the last one too.
    """

    def __init__(self) -> None:
        self.records: dict[bytes, PolicyRecord] = {}
        self._held: dict[str, Policies] = {}
        self.passed: dict[bytes, list[PolicyRecord]] = {}

    def take(self, records: Iterable[PolicyRecord]) -> None:
        """What a change gave, in place of what was there."""
        for record in records:
            record_key = scoped_key(record.organization, str(record.policy_id))
            self.records[record_key] = record
            self.passed.setdefault(record_key, []).append(record)

    def folded(self, organization: str) -> Policies:
        """See `streams.policies.Lookup`: its `Decider` takes into it what it decides."""
        return self._held.setdefault(organization, Policies())


def compare_policies(
    changes: Iterable[RawRecord],
    held: HeldPolicies,
    decider: Decider,
    generation: int,
    report: Report,
    refused: frozenset[int] = frozenset(),
    *,
    lacking: Lacking = pass_over,
    refuse: Callable[[DeadLetter], None] = lambda _letter: None,
    all_due: bool = False,
    done: int = 0,
    only: Set[bytes] | None = None,
) -> None:
    """
    Replay one partition's *changes* and add what differs from *held* to the report.

    Changes are published one after the other, so those beyond the newest `applied` are pending, and no others.

    Args:
        refused: offsets with a dead letter. What was refused once stays refused (ADR 0007).
        lacking, refuse: are given what is missing, policies in the order of their last changes.
        all_due: nothing is pending: what is held may be lost, and nobody else is at work.
        done: the changes below that offset are decided, whatever became of their records: none is pending.
        only: the record keys of policies that are asked about, which are all that *held* holds; None for all.
    """
    again, concerned = _Recomputed(), None if only is None else {key.partition(b"/")[0] for key in only}
    for change in changes:
        if concerned is not None and change.key not in concerned:
            continue
        report.events += 1
        if change.offset in refused:
            report.refused += 1
            continue
        at = LogPosition(generation=generation, offset=change.offset)
        if not all_due and change.offset >= done and at > held.newest:
            report.pending += 1
            continue
        decided = decider.begin(run_of(change, generation))
        decider.record(change, decided, again)
        for letter in decided.dead_letters:
            report.note("missing", change.key or b"", f"dead letter of offset {change.offset}: {letter.message}")
            refuse(letter)
        again.take([due.record for due in decided.records if due.record is not None])
    _judge(again, held, report, lacking, only)


def _judge(again: _Recomputed, held: HeldPolicies, report: Report, lacking: Lacking, only: Set[bytes] | None) -> None:
    for record_key, expected in sorted(again.records.items(), key=lambda item: item[1].applied):
        if record_key in held.wrong or (only is not None and record_key not in only):
            continue
        found = held.records.get(record_key)
        if found == expected:
            report.identical += 1
        elif found is None or found in again.passed[record_key]:
            report.note("missing", record_key, "policy record" if found is None else "policy record of a later change")
            lacking(record_key, encode(expected))
        else:
            report.note("different", record_key, "policy record is not the fold of its changes")
    for record_key in held.records.keys() - again.records.keys():
        report.note("unexpected", record_key, f"no change of {topics.POLICY_CHANGES.name} calls for it")


def run_of(event: RawRecord, generation: int) -> Run:
    """A run of that record alone."""
    return Run(
        topic=event.topic,
        partition=event.partition,
        generation=generation,
        epoch=0,
        start=event.offset,
        end=event.offset + 1,
        records=(event,),
        size=0,
    )
