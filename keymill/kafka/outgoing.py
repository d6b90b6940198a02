"""What is to be published: one value, checked against the topic catalogue before anything is sent."""

from collections.abc import Mapping
from typing import Final

import msgspec

from keymill.core.record_authentication import HEAD_SIZE, HEADER, SIGNATURE_SIZE
from keymill.errors import InvalidRecord, Misconfigured
from schemas import topics

RECORD_OVERHEAD: Final = 128
"""Bytes; a batch of one record takes 61 for itself and at most 36 for the record (Kafka's record format v2)."""
HEADER_OVERHEAD: Final = 10
"""Bytes that one header takes beside its name and value."""
AUTHENTICATOR_OVERHEAD: Final = HEADER_OVERHEAD + len(HEADER) + HEAD_SIZE + SIGNATURE_SIZE
"""Bytes of the header that shows who wrote a record, at most."""

Headers = tuple[tuple[str, bytes], ...]


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """
    A record to publish.

    Args:
        topic: a name of the catalogue.
        value: of a tombstone it would be None, and none is ever written.
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
        ValueError: a tombstone, or a dead letter without its partition.
    """
    topic = topics.entry_of(record.topic)
    _check_size(record, topic)
    if record.value is None:
        raise ValueError(f"{name_of(record)}: nothing is tombstoned")
    count = partitions.get(record.topic, 0)
    if record.partition is None and count:
        return topics.partition_of(topic, record.record_key, count)
    if record.partition is None or not 0 <= record.partition < count:
        raise Misconfigured(f"{name_of(record)}: partition {record.partition} of {count} adopted ones")
    return record.partition


def _check_size(record: Outgoing, topic: topics.Topic) -> None:
    size = RECORD_OVERHEAD + len(record.record_key) + len(record.value or b"")
    if topic.authentication is not topics.Authentication.NONE:
        size += AUTHENTICATOR_OVERHEAD
    for name, value in record.headers:
        size += HEADER_OVERHEAD + len(name) + len(value)
    if size > topic.max_message_bytes:
        limit = f"with its framing it has {size} bytes, {topic.name} takes {topic.max_message_bytes}"
        raise InvalidRecord(f"{name_of(record)} is too large: {limit}", field="value", code="too_large")
