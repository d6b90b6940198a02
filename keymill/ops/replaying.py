"""
Replay: derive again what the asset events call for, and compare with what the key topic holds.

Pure over the records it is given; `keymill.ops.source` reads them. Asset and key partitions are equal, so one
partition at a time is complete in itself.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from itertools import islice
from typing import Final, NamedTuple

from keymill.errors import InvalidRecord
from keymill.ops.held import Held
from keymill.ops.recomputed import NOBODY, Recomputed, Winners
from keymill.ops.report import Report
from keymill.ops.verifying import same_keys
from schemas import topics
from schemas.codec import encode
from schemas.ids import is_key_set, partition_key
from schemas.records import AssetRecord, DeadLetter
from streams.decide import Decider
from streams.runs import RawRecord, Run

Lacking = Callable[[bytes, bytes], None]
"""Is told every record that is not there: record key and value, key records before asset records."""

_AT_ONCE: Final = 1024
"""Events that are read, then decided, then compared: to do all that with one after the other is a sixth slower."""


def pass_over(_record_key: bytes, _value: bytes) -> None:
    """The `Lacking` of who only counts."""


_EVERY: Final = Run(topic=topics.ASSETS.name, partition=0, generation=0, epoch=0, start=0, end=0, records=(), size=0)
"""A replay is one run without end; nobody commits it."""


class Scope(NamedTuple):
    """
    What is replayed.

    Args:
        assets: their record keys; None for all.
        later: the events do not begin with the log's: the state before them is taken from the records that are held.
    """

    assets: Set[bytes] | None = None
    later: bool = False

    def has(self, record_key: bytes) -> bool:
        """Whether a record of the asset or key topic belongs to it."""
        return self.assets is None or partition_key(record_key) in self.assets


WHOLE: Final = Scope()


def compare(
    events: Iterable[RawRecord],
    held: Held,
    decider: Decider,
    generation: int,
    report: Report,
    refused: Set[int] = frozenset(),
    *,
    lacking: Lacking = pass_over,
    refuse: Callable[[DeadLetter], None] = lambda _letter: None,
    unclaimed: Callable[[RawRecord], None] = lambda _event: None,
    all_due: bool = False,
    winners: Winners = NOBODY,
    scope: Scope = WHOLE,
    done: int = 0,
) -> None:
    """
    Replay one partition's *events* and add what differs from *held* to the report.

    Args:
        refused: offsets with a dead letter. What was refused once stays refused, whatever would be decided now: an
            organization that got its roots later must not give a version another first event (ADR 0007).
        lacking, refuse: are given what is missing; *unclaimed* events whose claims are.
        all_due: nothing is pending: what is held may be lost, and nobody else is at work.
        winners: of all claims. An event without them was never decided: it and its asset's later ones are pending.
            What a pending event calls for may be half published: its asset's key records are not unexpected.
        scope: of the events and of *held*, which holds no others.
        done: the events below that offset are decided, whatever became of their records: none is pending.
    """
    again = Recomputed(decider.begin(_EVERY), winners, held.values if scope.later else {})
    waiting: set[bytes] = set()
    due = _due(events, held, None if all_due else generation, report, refused, scope, done, waiting)
    while batch := list(islice(due, _AT_ONCE)):
        for event, read in zip(batch, [decider.read(event) for event in batch], strict=True):
            if event.key in again.unclaimed:
                report.pending += 1
            elif scope.later and not _is_held(event, held, report, again, lacking):
                continue
            elif not again.take(event, read, decider):
                _note_claims(event, held, report, again)
                unclaimed(event)
            for letter in again.new_letters():
                report.note("missing", event.key or b"", f"dead letter of offset {event.offset}: {letter.message}")
                refuse(letter)
        _judge_key_records(again.new_key_records(), held, report, lacking)
    for record_key, asset in again.decided.assets.items():
        if record_key not in held.wrong:
            _judge_asset(record_key, asset, held, report, lacking)
    _judge_others(again, held, report, None if scope.later else waiting)


def _due(
    events: Iterable[RawRecord],
    held: Held,
    generation: int | None,
    report: Report,
    refused: Set[int],
    scope: Scope,
    done: int,
    waiting: set[bytes],
) -> Iterator[RawRecord]:
    """What is to be decided; *generation* None says that nothing is pending. *waiting* are assets with what is."""
    for event in events:
        if not scope.has(event.key or b""):
            continue
        report.events += 1
        if event.offset in refused:
            report.refused += 1
        elif generation is not None and event.offset >= done and _is_pending(event, held, generation):
            report.pending += 1
            waiting.add(event.key or b"")
        else:
            yield event


def _is_held(event: RawRecord, held: Held, report: Report, again: Recomputed, lacking: Lacking) -> bool:
    """Whether the state before an event is known; an asset record that is missing, or not to be read, is told once."""
    record_key = event.key or b""
    if record_key not in again.met:
        again.met.add(record_key)
        if record_key in held.values:
            report.identical += held.can_be_read(record_key, report)
        elif record_key not in held.wrong:
            report.note("missing", record_key, "asset record")
            lacking(record_key, b"")
    return record_key in held.values


def _note_claims(event: RawRecord, held: Held, report: Report, again: Recomputed) -> None:
    record_key = event.key or b""
    report.pending += 1
    for claim in again.lacking_claims if record_key in held.applied else ():
        report.note("missing", claim, f"claim of the event at offset {event.offset}")


def _is_pending(event: RawRecord, held: Held, generation: int) -> bool:
    at, record_key = (generation, event.offset), event.key or b""
    reached = held.applied.get(record_key)
    if reached is None:
        return record_key not in held.wrong and at > held.newest
    return at > reached


def _judge_asset(record_key: bytes, expected: AssetRecord, held: Held, report: Report, lacking: Lacking) -> None:
    encoded = encode(expected)
    value = held.values.get(record_key)
    if value == encoded:
        report.identical += 1
    elif value is None:
        report.note("missing", record_key, "asset record")
        lacking(record_key, encoded)
    elif (there := held.asset(record_key, report)) is None:
        return
    elif there.applied < expected.applied:
        report.note("missing", record_key, "asset record is of an earlier event")
        lacking(record_key, encoded)
    elif there != expected:
        report.note("different", record_key, "asset record is not the fold of its events")
    else:
        report.identical += 1


def _judge_others(again: Recomputed, held: Held, report: Report, waiting: Set[bytes] | None) -> None:
    """What no event called for is unexpected, unless *waiting* is None; asset records are read all the same."""
    for record_key in held.values.keys() - again.decided.assets.keys() - again.made - again.met:
        if is_key_set(record_key):
            settled = waiting is None or partition_key(record_key) in waiting
        else:
            settled = not held.can_be_read(record_key, report) or waiting is None
        if not settled:
            report.note("unexpected", record_key, f"no event of {topics.ASSETS.name} calls for it")


def _judge_key_records(made: Mapping[bytes, bytes], held: Held, report: Report, lacking: Lacking) -> None:
    for record_key, expected in made.items():
        if record_key not in held.wrong:
            _judge_key_record(record_key, expected, held.values.get(record_key), report, lacking)


def _judge_key_record(
    record_key: bytes, expected: bytes, value: bytes | None, report: Report, lacking: Lacking
) -> None:
    if value is None:
        report.note("missing", record_key, "key record")
        lacking(record_key, expected)
        return
    try:
        same = same_keys(value, expected)
    except InvalidRecord as error:
        report.note("different", record_key, str(error))
        return
    if same:
        report.identical += 1
    else:
        report.note("different", record_key, "KIDs, fingerprints or identity differ")
