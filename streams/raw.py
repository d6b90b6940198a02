"""What every agent says of a raw record: whether it stands where it belongs, and what its dead letter holds."""

import hashlib
from typing import Final

from confluent_kafka import murmur2

from keymill.core.folding import Coordinates
from keymill.core.record_authentication import HEADER, UNAUTHENTICATED
from keymill.errors import InvalidRecord, Reject
from keymill.kafka.authentication import RecordKeys, is_older
from keymill.telemetry import REQUEST_ID_HEADER
from schemas import ids
from schemas.events import AssetEvent, PolicyChange
from schemas.operations import OwnerRequest, RepairRequest
from schemas.records import DeadLetter
from schemas.topics import BY_NAME
from schemas.values import LogPosition
from streams.runs import UNREADABLE_BATCH_HEADER, RawRecord

UNREADABLE_BATCH: Final = "unreadable_batch"
"""Code of what stood in a batch that was not unpacked; there is no value to hash."""
MAX_MESSAGE: Final = 500
"""Characters of a reason that a dead letter keeps."""
MAX_FIELD: Final = 128
"""Characters of a field's name that it keeps: in JSON the sender chose the name, and may have chosen a megabyte."""


def value_in_place(record: RawRecord, partitions: int) -> bytes:
    """
    The value of a record that has one, and a key that belongs on its partition.

    Raises:
        InvalidRecord: `unreadable_batch`, `null_key`, `wrong_partition` or `null_value`.
    """
    if record.key is None:
        for name, why in record.headers:
            if name == UNREADABLE_BATCH_HEADER:
                message = f"the record is part of a batch that is not read: {(why or b'').decode('ascii', 'replace')}"
                raise InvalidRecord(message, field="value", code=UNREADABLE_BATCH)
        message = f"the record has no key: use {BY_NAME[record.topic].record_key}"
        raise InvalidRecord(message, field="key", code="null_key")
    right = murmur2(record.key, partitions)  # librdkafka's: 20 times as fast as `schemas.partition`, and the same
    if right != record.partition:
        message = f"the record stands on partition {record.partition}, its key belongs on {right}: use murmur2"
        raise InvalidRecord(message, field="partition", code="wrong_partition")
    if record.value is None:
        message = "the record has no value: assets are revoked and policies deleted by an event, never by a tombstone"
        raise InvalidRecord(message, field="value", code="null_value")
    return record.value


def check_key(record: RawRecord, own_key: bytes) -> None:
    """Refuse a record whose key is not the one that its value calls for."""
    if record.key != own_key:
        message = f"the record key is not the {BY_NAME[record.topic].record_key} of its value"
        raise InvalidRecord(message, field="key", code="key_mismatch")


def check_authentic(record: RawRecord, keys: RecordKeys) -> None:
    """
    Refuse a record that nobody with the organization's keys wrote.

    Raises:
        InvalidRecord: `unauthenticated`, `forged` or `no_record_key`.
    """
    authenticator = next((value for name, value in reversed(record.headers) if name == HEADER), None)
    reason = keys.judge(record.topic, record.key or b"", record.value or b"", authenticator)
    if reason and not (reason == UNAUTHENTICATED and is_older(record.topic, record.partition, record.offset)):
        message = "the record's authenticator does not show that a program of this installation wrote it"
        raise InvalidRecord(message, field=HEADER, code=reason)


def coordinates_of(record: RawRecord, generation: int) -> Coordinates:
    """Where a record stands, in that generation of its topic."""
    return Coordinates(
        partition=record.partition,
        position=LogPosition(generation=generation, offset=record.offset),
        timestamp=record.timestamp_ms,
    )


Value = AssetEvent | PolicyChange | OwnerRequest | RepairRequest


def dead_letter(record: RawRecord, error: Reject, value: Value | None, generation: int) -> DeadLetter:
    """Refuse one record, naming where it stands and why; never its content. *value* is it decoded, if it could be."""
    raw = record.value or b""
    organization, asset = _whose(record) if value is None else _said(value)
    request_id = None if value is None or isinstance(value, AssetEvent) else value.request_id
    return DeadLetter(
        topic=record.topic,
        partition=record.partition,
        generation=generation,
        offset=record.offset,
        timestamp=record.timestamp_ms,
        reason=error.code,
        field=error.field[:MAX_FIELD],
        message=str(error)[:MAX_MESSAGE],
        organization=organization,
        asset=asset,
        event_id=value.event_id if isinstance(value, AssetEvent) else request_id,
        request_id=request_id_of(record) or None,
        value_size=len(raw),
        value_sha256=hashlib.sha256(raw).digest(),
    )


def _said(value: Value) -> tuple[str | None, str | None]:
    """Whose organization and asset a value is about."""
    if isinstance(value, RepairRequest):
        return None, None
    return value.organization, value.asset if isinstance(value, AssetEvent | OwnerRequest) else None


def _whose(record: RawRecord) -> tuple[str | None, str | None]:
    """Of a value that cannot be read, what its record key says: whoever looks for the letter knows nothing else."""
    organization, _, asset = (record.key or b"").decode("ascii", "replace").partition("/")
    try:
        ids.check_organization(organization)
        return organization, ids.check_asset(asset) if asset else None
    except InvalidRecord:
        return None, None


def request_id_of(record: RawRecord) -> str:
    """The request id that the record's header carries, at most 128 characters; empty without one."""
    for name, value in record.headers:
        if name == REQUEST_ID_HEADER:
            return (value or b"")[:128].decode("ascii", "replace")
    return ""
