"""
Replay in verify mode, the policies: fold the policy changes again, and compare with what the policy topic holds.

Pure over the records it is given; `keymill.ops.replay` reads them. An organization's changes and policies stand on
partitions of one number, so one partition at a time is complete in itself.
"""

from collections.abc import Callable, Iterable

from keymill.errors import InvalidRecord
from keymill.ops.replaying import Lacking, pass_over
from keymill.ops.report import Report
from schemas import topics
from schemas.codec import decode, encode
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
        self.wrong.discard(record_key)
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


class _Recomputed:
    """What replaying the changes of one partition gives; also the `Lookup` of its `Decider`."""

    def __init__(self) -> None:
        self.records: dict[bytes, PolicyRecord] = {}

    def policies(self, organization: str) -> list[PolicyRecord]:
        """See `streams.policies.Lookup`."""
        return [record for record in self.records.values() if record.organization == organization]


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
) -> None:
    """
    Replay one partition's *changes* and add what differs from *held* to the report.

    Changes are published one after the other, so those beyond the newest `applied` are pending, and no others.

    Args:
        refused: offsets with a dead letter. What was refused once stays refused (ADR 0007).
        lacking, refuse: are given what is missing, policies in the order of their last changes.
        all_due: nothing is pending: what is held may be lost, and nobody else is at work.
    """
    again = _Recomputed()
    for change in changes:
        report.events += 1
        if change.offset in refused:
            report.refused += 1
            continue
        if not all_due and LogPosition(generation=generation, offset=change.offset) > held.newest:
            report.pending += 1
            continue
        decided = decider.begin(run_of(change, generation))
        decider.record(change, decided, again)
        for letter in decided.dead_letters:
            report.note("missing", change.key or b"", f"dead letter of offset {change.offset}: {letter.message}")
            refuse(letter)
        again.records |= {due.record_key: due.record for due in decided.records if due.record is not None}
    _judge(again, held, report, lacking, older_is_missing=all_due)


def _judge(again: _Recomputed, held: HeldPolicies, report: Report, lacking: Lacking, *, older_is_missing: bool) -> None:
    for record_key, expected in sorted(again.records.items(), key=lambda item: item[1].applied):
        if record_key in held.wrong:
            continue
        found = held.records.get(record_key)
        if found is None or (older_is_missing and found.applied < expected.applied):
            report.note("missing", record_key, "policy record" if found is None else "policy record of a later change")
            lacking(record_key, encode(expected))
        elif found != expected:
            report.note("different", record_key, "policy record is not the fold of its changes")
        else:
            report.identical += 1
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
