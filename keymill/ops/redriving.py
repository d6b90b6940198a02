"""Sending refused events again: decided from their letters and from what came after; plan and application are one."""

import time
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from confluent_kafka import Message

from keymill.kafka.outgoing import Outgoing
from keymill.kafka.scan import headers_of
from keymill.ops.changes import Changes
from keymill.ops.letter_log import LetterLog
from keymill.ops.letters import REDRIVE_OF, Aftermath, Letter, redriven
from keymill.ops.moment import shown
from schemas import topics
from schemas.values import Record

POLL_S: Final = 0.5
SENT_AGAIN: Final = "refused events sent again"


Decided = tuple["Redrive", Letter, Message | None]


class Redrive(Record, frozen=True, kw_only=True):
    """
    What is done about one letter.

    Args:
        send: whether its event is sent again.
        note: why not, or what to know beforehand.
        at, outcome: where it was sent to and what became of it, when it has been.
    """

    coordinates: str
    refused: str
    reason: str
    organization: str | None
    asset: str | None
    event_id: str | None
    send: bool
    note: str
    partition: int | None = None
    at: str | None = None
    outcome: str | None = None
    outcome_reason: str | None = None


def decide(log: LetterLog, letters: Sequence[Letter], *, again: bool) -> Iterator[Decided]:
    """
    What to do about each letter, in log order.

    Args:
        again: also what was accepted already, or waits to be decided.
    """
    for letter, after in zip(letters, log.aftermaths(letters), strict=True):
        message, trouble = log.source(letter)
        if message is not None and trouble is None:
            trouble = _unsendable(message)
        settled = after.settled_at or next((each.at for each in after.attempts if each.outcome == "pending"), None)
        send = trouble is None and (again or settled is None)
        partition = None
        if message is not None and send:
            count = log.adopted[letter.about.topic].partitions
            partition = topics.partition_of(topics.BY_NAME[letter.about.topic], message.key() or b"", count)
        note = trouble or _note(after, letter, partition)
        yield _redrive(letter, send=send, note=note, partition=partition), letter, message


def apply(decided: Sequence[Decided], changes: Changes) -> None:
    """Send what is to be sent: the same key, value and headers, and where it was refused."""
    for redrive, letter, message in decided:
        if redrive.send and message is not None:
            kept = tuple(pair for pair in headers_of(message) if pair[0] != REDRIVE_OF)
            record = Outgoing(
                topic=letter.about.topic,
                record_key=message.key() or b"",
                value=message.value(),
                headers=(*kept, (REDRIVE_OF, str(letter.source).encode())),
            )
            changes.make(record, SENT_AGAIN)
    changes.finish()


def await_outcomes(log: LetterLog, decided: Sequence[Decided], wait_s: float) -> list[Redrive]:
    """Each with what became of its event; pending when the processors have not come to it in time."""
    letters = [letter for redrive, letter, _ in decided if redrive.send]
    deadline = time.monotonic() + wait_s
    while True:
        told = dict(zip((str(letter.source) for letter in letters), log.aftermaths(letters), strict=True))
        undecided = any(_last_outcome(after) == "pending" for after in told.values())
        if not undecided or time.monotonic() >= deadline:
            return [_after(redrive, told.get(redrive.coordinates)) for redrive, _, _ in decided]
        time.sleep(POLL_S)


def _unsendable(message: Message) -> str | None:
    if message.topic() == topics.REQUESTS.name:
        return "a request is made anew by its command: `keymill rotate-kek`, `keymill replay --repair`"
    if message.key() is None:
        return "it has no record key: its sender must send it with one"
    return "it has no value: its sender must send an event" if message.value() is None else None


def _note(after: Aftermath, letter: Letter, partition: int | None) -> str:
    notes = []
    if told := redriven(after):
        notes.append(told)
    if after.settled_at and letter.about.event_id:
        notes.append("sent again it changes nothing: its event id is known")
    if partition is not None and partition != letter.about.partition:
        notes.append(f"goes to partition {partition}, where its key belongs")
    if after.overtaken_by and not after.settled_at:
        notes.append(f"takes effect after {after.overtaken_by} newer events")
    return "; ".join(notes)


def _redrive(letter: Letter, *, send: bool, note: str, partition: int | None) -> Redrive:
    about = letter.about
    return Redrive(
        coordinates=str(letter.source),
        refused=shown(letter.recorded),
        reason=about.reason,
        organization=about.organization,
        asset=about.asset,
        event_id=about.event_id,
        send=send,
        note=note,
        partition=partition,
    )


def _last_outcome(after: Aftermath) -> str:
    return after.attempts[-1].outcome if after.attempts else "pending"


def _after(redrive: Redrive, after: Aftermath | None) -> Redrive:
    if not redrive.send or after is None or not after.attempts:
        return redrive
    *before, last = after.attempts
    repeat = last.outcome == "accepted" and (after.repeated or any(each.outcome == "accepted" for each in before))
    return msgspec.structs.replace(
        redrive,
        at=last.at,
        outcome="accepted, a repeat that changes nothing" if repeat else last.outcome,
        outcome_reason=last.reason,
    )
