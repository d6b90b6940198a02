"""
The status topic, read whole: adoptions of topics, the last report of every program, the last audit.

It is compacted within minutes (schemas.topics), since every program reads it at its start.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from confluent_kafka import Consumer, KafkaError, TopicPartition

from keymill.errors import InvalidRecord, Unavailable
from keymill.kafka.cluster import end_offsets
from schemas.codec import decode
from schemas.operations import AuditSummary, ProgramReport
from schemas.records import TopicAdopted
from schemas.topics import STATUS

ADOPTED: Final = b"topic/"
"""Begins the record keys of adoptions."""
AUDITED: Final = b"audit/last"
STALL_S: Final = 10.0
READ_AT_ONCE: Final = 10_000


@dataclass(frozen=True, slots=True)
class Status:
    """
    What the status topic says.

    Args:
        adoptions: by topic name; of several for one name the highest generation counts.
        reports: the last of every program, by record key (`program/instance`).
        unreadable: record keys of reports that a newer release wrote, and this one cannot read.
    """

    adoptions: Mapping[str, TopicAdopted]
    reports: Mapping[str, ProgramReport]
    audit: AuditSummary | None
    unreadable: tuple[str, ...]


def read_status(bootstrap: str) -> Status:
    """
    Read the topic from its beginning to its end.

    Raises:
        Unavailable: no broker answers, or reading makes no progress for 10 s.
        Misconfigured: there is no status topic.
        InvalidRecord: an adoption that no released schema can read.
    """
    adoptions: dict[str, TopicAdopted] = {}
    last: dict[bytes, bytes] = {}
    for record_key, value in _records(bootstrap, end_offsets(bootstrap, STATUS.name)):
        if record_key.startswith(ADOPTED):
            adopted = decode(value, TopicAdopted)
            known = adoptions.get(adopted.topic)
            if known is None or adopted.generation >= known.generation:
                adoptions[adopted.topic] = adopted
        else:
            last[record_key] = value
    return _status(adoptions, last)


def _status(adoptions: Mapping[str, TopicAdopted], last: Mapping[bytes, bytes]) -> Status:
    audit: AuditSummary | None = None
    reports: dict[str, ProgramReport] = {}
    unreadable = []
    for record_key, value in sorted(last.items()):
        name = record_key.decode("ascii", "backslashreplace")
        try:
            if record_key == AUDITED:
                audit = decode(value, AuditSummary)
            else:
                reports[name] = decode(value, ProgramReport)
        except InvalidRecord:
            unreadable.append(name)
    return Status(adoptions, reports, audit, tuple(unreadable))


def _records(bootstrap: str, ends: Mapping[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """Every record of the status topic up to *ends* at least; tombstones are left out."""
    unread = {partition for partition, end in ends.items() if end}
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "keymill-status",  # librdkafka wants one; nothing joins or commits
            "enable.auto.commit": "false",
            "auto.offset.reset": "earliest",
            "enable.partition.eof": "true",  # compaction leaves holes, so the end is where the broker says it is
            "fetch.wait.max.ms": 10,
        }
    )
    try:
        # Offset 0 and not OFFSET_BEGINNING: looking that up costs librdkafka half a second at every start.
        consumer.assign([TopicPartition(STATUS.name, partition, 0) for partition in unread])
        deadline = time.monotonic() + STALL_S
        while unread:
            for message in consumer.consume(READ_AT_ONCE, 0.05):
                deadline = time.monotonic() + STALL_S
                error = message.error()
                if error is None:
                    if (value := message.value()) is not None:
                        yield message.key() or b"", value
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(message.partition() or 0)
                else:
                    raise Unavailable(f"reading {STATUS.name} at {bootstrap}: {error.str()}")
            if time.monotonic() > deadline:
                raise Unavailable(f"reading {STATUS.name} at {bootstrap} makes no progress for {STALL_S:.0f} s")
    finally:
        consumer.close()
