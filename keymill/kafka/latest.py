"""
Small compacted topics, read whole at a start: every record up to the end of this moment, and what cannot be taken.

Many programs may write there. Whatever one of them has written, the others go on: a record that cannot be read is
passed over and named.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaError, TopicPartition

from keymill.errors import Unavailable
from keymill.kafka.authentication import refusal_of
from keymill.kafka.batch import Detour, is_impassable
from keymill.kafka.cluster import end_offsets
from keymill.telemetry import client_log
from schemas.codec import HEADER_SIZE, MARKER, readable
from schemas.topics import Topic, partition_of

STALL_S: Final = 10.0
READ_AT_ONCE: Final = 10_000
NAME_LENGTH: Final = 120
"""Of a record key that somebody else chose, this much is shown."""


_SETTINGS: Final[dict[str, str | int]] = {
    "group.id": "keymill-status",  # librdkafka wants one; nothing joins or commits
    "enable.auto.commit": "false",
    "auto.offset.reset": "earliest",
    "enable.partition.eof": "true",  # compaction leaves holes, so the end is where the broker says it is
    "fetch.wait.max.ms": 10,
}


class Read(NamedTuple):
    """
    A record with its place.

    Args:
        value: None for a tombstone.
        refusal: why it is not to be trusted.
        appended: when the broker took it, epoch ms; 0 where the topic keeps the writers' times.
    """

    partition: int
    offset: int
    record_key: bytes
    value: bytes | None
    refusal: str = ""
    appended: int = 0


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that nothing is made of: the last of its record key. `newer`: its schema may be of a later release."""

    topic: str
    partition: int
    offset: int
    record_key: str
    reason: str
    newer: bool = False

    def __str__(self) -> str:
        return f"{self.record_key or 'no record key'} ({self.topic}-{self.partition} offset {self.offset})"


def unreadable(topic: Topic, read: Read, reason: str) -> Unreadable:
    """Name a record."""
    value = read.value or b""
    newer = value.startswith(MARKER) and not any(value[:HEADER_SIZE] in readable(kind) for kind in topic.records)
    return Unreadable(topic.name, read.partition, read.offset, shown(read.record_key), reason, newer)


def shown(record_key: bytes) -> str:
    """A record key that anybody may have chosen, for a terminal: printable ASCII, the rest escaped, bounded."""
    return printable(record_key[:NAME_LENGTH].decode("ascii", "backslashreplace"))


def printable(text: str) -> str:
    """Text that anybody may have written, for a terminal: what would steer it is escaped."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def misplaced(topic: Topic, read: Read, partitions: int) -> str | None:
    """Why a record does not belong where it stands: there another one may be the last of its record key."""
    right = partition_of(topic, read.record_key, partitions)
    return None if read.partition == right else f"stands on partition {read.partition}, belongs on {right}"


class Whole(NamedTuple):
    """A topic's records in the order of their partitions, and how many partitions it has."""

    partitions: int
    records: tuple[Read, ...]


def read_whole(bootstrap: str, topic: Topic) -> Whole:
    """
    Read a topic from its beginning to its end.

    Raises:
        Unavailable: no broker answers, or reading makes no progress for 10 s.
        Misconfigured: there is no such topic.
    """
    ends = end_offsets(bootstrap, topic.name)
    return Whole(len(ends), tuple(_records(bootstrap, topic.name, {part for part, end in ends.items() if end})))


def _records(bootstrap: str, topic: str, unread: set[int]) -> Iterator[Read]:
    if not unread:
        return
    consumer = Consumer({**_SETTINGS, "bootstrap.servers": bootstrap}, logger=client_log())
    detour = Detour(bootstrap, consumer)
    try:
        # Offset 0 and not OFFSET_BEGINNING: looking that up costs librdkafka half a second at every start.
        consumer.assign([TopicPartition(topic, partition, 0) for partition in unread])
        deadline = time.monotonic() + STALL_S
        while unread:
            for message in consumer.consume(READ_AT_ONCE, 0.05):
                deadline = time.monotonic() + STALL_S
                error, partition = message.error(), message.partition() or 0
                if error is None:
                    place = (partition, message.offset() or 0)
                    kind, stamp = message.timestamp()
                    appended = stamp if kind == TIMESTAMP_LOG_APPEND_TIME else 0
                    yield Read(*place, message.key() or b"", message.value(), refusal_of(message, topic), appended)
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(partition)
                elif is_impassable(message):
                    detour.past(message)
                else:
                    raise Unavailable(f"reading {topic} at {bootstrap}: {error.str()}")
            if time.monotonic() > deadline:
                raise Unavailable(f"reading {topic} at {bootstrap} makes no progress for {STALL_S:.0f} s")
    finally:
        consumer.close()
