"""What is to be published: one value, checked against the topic catalogue before anything is sent."""

from collections.abc import Mapping
from typing import Final

import msgspec

from keymill.errors import InvalidRecord, Misconfigured
from schemas import topics

RECORD_OVERHEAD: Final = 128
"""Bytes; a batch of one record takes 61 for itself and at most 36 for the record (Kafka's record format v2)."""
HEADER_OVERHEAD: Final = 10
"""Bytes that one header takes beside its name and value."""

Headers = tuple[tuple[str, bytes], ...]


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """
    A record to publish.

    Args:
        topic: a name of the catalogue.
        value: None is a tombstone, which only entitlements know.
        partition: the source's for dead letters; for others computed from the record key where the caller has not.
    """

    topic: str
    record_key: bytes
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None


def name_of(record: Outgoing) -> str:
    """How messages name a record; record keys hold nothing secret."""
    return f"{record.topic} record {record.record_key.decode('ascii', 'backslashreplace')}"


def place(record: Outgoing, partitions: Mapping[str, int]) -> int:
    """
    Return the partition that *record* goes to.

    Args:
        partitions: partition count by topic, as adopted.

    Raises:
        InvalidRecord: larger than its topic takes; nothing about it can succeed later.
        Misconfigured: the count of the topic was not given, or it has no such partition.
        ValueError: a tombstone where none may be, or a dead letter without its partition.
    """
    topic = topics.entry_of(record.topic)
    _check_size(record, topic)
    if record.value is None and topic is not topics.ENTITLEMENTS:
        raise ValueError(f"{name_of(record)}: only entitlements are tombstoned")
    count = partitions.get(record.topic, 0)
    if record.partition is None and count:
        return topics.partition_of(topic, record.record_key, count)
    if record.partition is None or not 0 <= record.partition < count:
        raise Misconfigured(f"{name_of(record)}: partition {record.partition} of {count} adopted ones")
    return record.partition


def _check_size(record: Outgoing, topic: topics.Topic) -> None:
    size = RECORD_OVERHEAD + len(record.record_key) + len(record.value or b"")
    for name, value in record.headers:
        size += HEADER_OVERHEAD + len(name) + len(value)
    if size > topic.max_message_bytes:
        limit = f"with its framing it has {size} bytes, {topic.name} takes {topic.max_message_bytes}"
        raise InvalidRecord(f"{name_of(record)} is too large: {limit}", field="value", code="too_large")
