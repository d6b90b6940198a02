"""From a record to its rows: what it was, and the columns that its value gives. Pure."""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Table

from keymill.archive import tables
from keymill.errors import Reject
from keymill.kafka.positions import Whole
from keymill.sql import NUL
from schemas import events, records, topics
from schemas.codec import decode
from schemas.framing import decode_event
from schemas.ids import is_key_set

Row = dict[str, Any]
_EMPTY: Final = {
    table: dict.fromkeys(column.name for column in table.columns) for table in tables.METADATA.sorted_tables
}


def rows_of(record: Whole, generation: int) -> Iterator[tuple[Table, Row]]:
    """The record's row, then one per track of a key record; every row of a table has all its columns."""
    table, read = _reading(record)
    place = {
        "topic": record.topic,
        "generation": generation,
        "partition": record.partition,
        "record_offset": record.offset,
    }
    own = {
        "record_time": record.timestamp,
        "record_key": record.key,
        "value": record.value,
        "headers": headers_text(record.headers),
    }
    tracks: list[Row] = []
    try:
        columns, tracks = read(record)
    except Reject as error:
        columns = {"problem": str(error)[:500]}
    yield table, _EMPTY[table] | place | own | _clean(columns)
    for number, track in enumerate(tracks):
        yield tables.KEY_TRACKS, place | {"track": number} | _clean(track)


def headers_text(headers: tuple[tuple[str, bytes], ...]) -> str | None:
    """Headers as JSON: pairs of name and base64; None when there are none."""
    if not headers:
        return None
    return json.dumps([[name, base64.b64encode(value).decode("ascii")] for name, value in headers])


def headers_of_text(text: str | None) -> tuple[tuple[str, bytes], ...]:
    """The inverse of `headers_text`."""
    return tuple((name, base64.b64decode(value)) for name, value in json.loads(text)) if text else ()


def _clean(columns: Row) -> Row:
    if not any(type(value) is str and NUL in value for value in columns.values()):
        return columns
    return {name: value.replace(NUL, "\ufffd") if isinstance(value, str) else value for name, value in columns.items()}


Columns = tuple[Row, list[Row]]


def _reading(record: Whole) -> tuple[Table, Callable[[Whole], Columns]]:
    if record.topic == topics.KEYS.name:
        if is_key_set(record.key or b""):
            return tables.KEY_RECORDS, _key_record
        return tables.ASSET_RECORDS, _asset_record
    return _READERS[record.topic]


def _asset_event(record: Whole) -> Columns:
    organization, _, asset = (record.key or b"").decode("ascii", "replace").partition("/")
    named = {"organization": organization or None, "asset": asset or None}
    try:
        event = decode_event(record.value or b"", record.headers)
    except Reject as error:
        return {"problem": str(error)[:500], **named}, []
    body = event.body
    return {
        "organization": event.organization,
        "asset": event.asset,
        "event_id": event.event_id,
        "event_type": type(body).__name__,
        "event_time": event.event_time,
        "key_version": getattr(body, "to_version", None) or getattr(body, "key_version", None),
        "policy_id": getattr(body, "policy_id", None),
    }, []


def _asset_record(record: Whole) -> Columns:
    asset = decode(record.value or b"", records.AssetRecord)
    return {
        "organization": asset.organization,
        "asset": asset.asset,
        "state": asset.state.value,
        "product_id": asset.product_id,
        "policy_id": asset.policy_id,
        "key_version": max((version.key_version for version in asset.versions), default=None),
        "available_from": asset.available_from,
        "available_until": asset.available_until,
        "applied_generation": asset.applied.generation,
        "applied_offset": asset.applied.offset,
    }, []


def _key_record(record: Whole) -> Columns:
    keys = decode(record.value or b"", records.KeyRecord)
    shared = {
        "organization": keys.organization,
        "asset": keys.asset,
        "key_version": keys.key_version,
        "kek_epoch": keys.kek_epoch,
        "period_index": keys.period.index if keys.period else None,
    }
    tracks = [
        shared | {
            "kid": str(UUID(bytes=track.kid)),
            "label": track.label,
            "scheme": track.scheme.value,
            "origin": track.origin.value,
            "fp": track.fp.hex(),
        }
        for track in keys.tracks
    ]  # fmt: skip
    event = {"event_generation": keys.event.generation, "event_offset": keys.event.offset}
    return shared | event | {"root_version": keys.root_version}, tracks


def _claim(record: Whole) -> Columns:
    claim = decode(record.value or b"", records.Claim)
    return {
        "organization": claim.organization,
        "kid": str(UUID(bytes=claim.kid)),
        "asset": claim.asset,
        "label": claim.label,
        "scheme": claim.scheme.value,
        "fp": claim.fp.hex() if claim.fp is not None else None,
        "key_version": claim.key_version,
        "root_version": claim.root_version,
        "event_generation": claim.event.generation,
        "event_offset": claim.event.offset,
    }, []


def _policy(record: Whole) -> Columns:
    policy = decode(record.value or b"", records.PolicyRecord)
    return {
        "organization": policy.organization,
        "name": policy.name,
        "state": policy.state.value,
        "policy_id": policy.policy_id,
        "version": policy.version,
        "created": policy.created,
        "changed": policy.changed,
        "applied_generation": policy.applied.generation,
        "applied_offset": policy.applied.offset,
    }, []


def _policy_change(record: Whole) -> Columns:
    change = decode(record.value or b"", events.PolicyChange)
    return {
        "organization": change.organization,
        "request_id": change.request_id,
        "change_type": type(change.body).__name__,
        "name": getattr(change.body, "name", None),
        "policy_id": getattr(change.body, "policy_id", None),
        "event_time": change.event_time,
    }, []


def _dead_letter(record: Whole) -> Columns:
    letter = decode(record.value or b"", records.DeadLetter)
    names = ("reason", "field", "message", "organization", "asset", "event_id", "request_id")
    return {name: getattr(letter, name) for name in names} | {
        "source_topic": letter.topic,
        "source_partition": letter.partition,
        "source_generation": letter.generation,
        "source_offset": letter.offset,
        "source_time": letter.timestamp,
    }, []


_READERS: Final[dict[str, tuple[Table, Callable[[Whole], Columns]]]] = {
    topics.ASSETS.name: (tables.ASSET_EVENTS, _asset_event),
    topics.CLAIMS.name: (tables.CLAIMS, _claim),
    topics.POLICY_CHANGES.name: (tables.POLICY_CHANGES, _policy_change),
    topics.POLICIES.name: (tables.POLICIES, _policy),
    topics.DEAD_LETTERS.name: (tables.DEAD_LETTERS, _dead_letter),
}
