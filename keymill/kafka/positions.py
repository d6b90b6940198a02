"""Places in topics, and the pure judgement whether a topic is still the one that was read before."""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from keymill.errors import Unavailable
from schemas.values import Record

NO_RECORD: Final = -1
"""Kafka's answer where no record is as young as was asked for (ListOffsets, UNKNOWN_OFFSET)."""


class Incoming(Record, frozen=True, gc=False):
    """A message as the tail hands it over. `value` None is a tombstone; `authenticator` shows who wrote it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    authenticator: bytes | None = None


class Whole(Incoming, frozen=True, gc=False):
    """A message with all that stands with it; `timestamp` is the broker's, epoch ms."""

    timestamp: int = 0
    headers: tuple[tuple[str, bytes], ...] = ()


class Slot(NamedTuple):
    """How far a partition was read: the next offset, and the leader epoch of the record before it (-1 if unknown)."""

    offset: int
    epoch: int = -1


class Described(Record, frozen=True, kw_only=True):
    """A topic as the brokers know it."""

    topic_id: str
    partitions: int


class Checkpoint(Record, frozen=True, kw_only=True):
    """A topic as it was read: what it was then, and how far each partition was read."""

    topic: Described
    slots: dict[int, Slot]


def topic_contradiction(name: str, known: Described, found: Described) -> str:
    """Why the topic is not the one that was read before; empty if it is."""
    if known.topic_id != found.topic_id:
        return (
            f"the topic {name} was created anew (its id was {known.topic_id}, now {found.topic_id}): what was read "
            "from the old one is served on, nothing is read from the new one until it is adopted: `keymill rebuild`, "
            "or `keymill topics adopt` for a topic that was filled otherwise"
        )
    if known.partitions != found.partitions:
        return (
            f"the topic {name} has {found.partitions} partitions, not {known.partitions}: record keys would move "
            "between them; the count is frozen, restore the topic with its old count"
        )
    return ""


def known_offset(topic: str, partition: int, offset: int) -> int:
    """
    Return an offset that the brokers gave.

    Raises:
        Unavailable: it is negative: the client asked and was not answered (-1001, OFFSET_INVALID), which says nothing
            about the log.
    """
    if offset < 0:
        raise Unavailable(f"the Kafka brokers gave no offset of {topic}-{partition} ({offset}): they do not answer now")
    return offset


def first_since(topic: str, partition: int, offset: int) -> int | None:
    """Return the first offset that is not older than what was asked for; None where there is no such record (-1)."""
    return None if offset == NO_RECORD else known_offset(topic, partition, offset)


def truncation(ends: Mapping[tuple[str, int], int], read: Mapping[tuple[str, int], int]) -> str:
    """Which partition ends before what was read of it, or seen in it; empty if none."""
    for (name, partition), offset in sorted(read.items()):
        end = ends.get((name, partition), offset)
        if end < offset:
            return (
                f"the topic {name} was truncated: partition {partition} ends at offset {end}, but {offset} was there "
                "before; records are lost. What was read is served on; restore the topic, or delete the view folder "
                "to accept the loss"
            )
    return ""


def gap(starts: Mapping[tuple[str, int], int], read: Mapping[tuple[str, int], int]) -> str:
    """Which partition begins after what was read of it; empty if none."""
    for (name, partition), offset in sorted(read.items()):
        start = starts.get((name, partition), offset)
        if start > offset:
            return (
                f"the topic {name} has a gap: partition {partition} begins at offset {start}, but {offset} is the next "
                "to read; records were deleted unread. Delete the view folder to read what is left"
            )
    return ""


def backwards(name: str, partition: int, offset: int, expected: int) -> str:
    """That a partition gave an offset below the next one."""
    return (
        f"partition {partition} of the topic {name} gave offset {offset} where {expected} was next: it was created "
        "anew or truncated. What was read is served on; delete the view folder to read the topic again"
    )


def no_longer_there(name: str, partition: int, reason: str) -> str:
    """That what is to be read next cannot be read any more."""
    return (
        f"partition {partition} of the topic {name} no longer holds what is to be read next ({reason}): it was "
        "truncated or records were deleted. What was read is served on; restore the topic, or delete the view folder "
        "to accept the loss"
    )


def slots(
    name: str, topic: Described, known: Checkpoint | None, starts: Mapping[tuple[str, int], int]
) -> dict[int, Slot]:
    """Where reading begins: after what is known, else at the first record that is kept."""
    if known is not None:
        return dict(known.slots)
    return {partition: Slot(starts[name, partition]) for partition in range(topic.partitions)}


def flat(slots: Mapping[str, Mapping[int, Slot]]) -> dict[tuple[str, int], int]:
    """Next offsets by topic and partition."""
    return {(name, partition): slot.offset for name, partition, slot in _each(slots)}


def _each(slots: Mapping[str, Mapping[int, Slot]]) -> Iterator[tuple[str, int, Slot]]:
    for name, parts in slots.items():
        for partition, slot in parts.items():
            yield name, partition, slot
