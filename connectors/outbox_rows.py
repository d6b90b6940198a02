"""
From an outbox row to the asset event that it says. Pure.

    event     body
    ingest    as of POST …/assets, without asset_id
    rotate    as of POST …/rotate; to_version must be named
    policy, revoke, restore    as of the endpoints of these names
    native    the `body` of an asset event in its JSON form (docs/ingest.md), imported keys among what it can say

The event id is made of all that the row says, its id and time among it, so sending a row again has no second effect.
"""

import hashlib
import time
from typing import Final
from uuid import UUID

import msgspec

from connectors.contract import Name
from keymill.core.bodies import (
    Body,
    IngestBody,
    PolicyBody,
    RestoreBody,
    RevokeBody,
    RotateBody,
    event_body_of,
    event_time_of,
    read_body,
    read_json,
    request_hash,
)
from keymill.core.identity import canonical
from keymill.errors import InvalidRecord
from keymill.kafka.outgoing import Outgoing
from schemas import ids, topics
from schemas.codec import decode_json, encode
from schemas.events import AssetEvent, AssetEventBody

MAX_BODY: Final = 1_000_000
"""Bytes, as at the gateway."""
NATIVE: Final = "native"
KINDS: Final[dict[str, type[Body]]] = {
    "ingest": IngestBody,
    "rotate": RotateBody,
    "policy": PolicyBody,
    "revoke": RevokeBody,
    "restore": RestoreBody,
}


class OutboxRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row as the ingest system wrote it, every column as text; null is empty."""

    id: Name
    organization: str
    asset_id: str
    event: str
    body: str
    created: str


def record_of(row: OutboxRow, partitions: int) -> Outgoing:
    """The record that a row calls for; raises `InvalidRecord` naming the column, or the member of its body."""
    ids.check_organization(row.organization)
    ids.check_asset(row.asset_id, "asset_id")
    if len(row.body.encode()) > MAX_BODY:
        raise InvalidRecord(f"the body has more than {MAX_BODY} bytes", field="body", code="too_large")
    now_ms = time.time_ns() // 1_000_000
    body, event_time, digest = _native(row, now_ms) if row.event == NATIVE else _asked(row, now_ms)
    event = AssetEvent(
        organization=row.organization,
        asset=row.asset_id,
        event_id=event_id_of(row),
        request_hash=digest,
        event_time=event_time,
        body=body,
    )
    key = ids.asset_key(row.organization, row.asset_id)
    partition = topics.partition_of(topics.ASSETS, key, partitions)
    return Outgoing(topic=topics.ASSETS.name, record_key=key, value=encode(event), partition=partition)


def event_id_of(row: OutboxRow) -> str:
    """The same for the same row, for ever; another for any other row, also of an outbox that was emptied meanwhile."""
    said = (row.organization, row.asset_id, row.event, row.body, row.created)
    name = str(row.id) if isinstance(row.id, UUID) or (isinstance(row.id, int) and row.id < 0) else row.id
    digest = hashlib.sha256(canonical("keymill/outbox/v1", name, *said))
    return f"o-{digest.hexdigest()[:40]}"


def _asked(row: OutboxRow, now_ms: int) -> tuple[AssetEventBody, int, bytes]:
    kind = KINDS.get(row.event)
    if kind is None:
        raise InvalidRecord(f"event must be one of {', '.join(KINDS)} or {NATIVE}", field="event")
    body = read_body(_with_asset(row) if kind is IngestBody else row.body.encode(), kind)
    if isinstance(body, RotateBody) and body.to_version is None:
        raise InvalidRecord(
            "to_version must name the key version that begins: sent twice, a row without it would rotate twice",
            field="to_version",
        )
    digest = request_hash(row.event, row.organization, row.asset_id, body)
    return event_body_of(body, lambda: 1), event_time_of(body, now_ms), digest


def _with_asset(row: OutboxRow) -> bytes:
    """The body with the column's asset id; a body that names another is refused."""
    column = msgspec.Raw(msgspec.json.encode(row.asset_id))
    try:
        members = msgspec.json.decode(row.body or "{}", type=dict[str, msgspec.Raw])
        same = msgspec.json.decode(members.setdefault("asset_id", column)) == row.asset_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return row.body.encode()  # read_body says what is wrong with it
    if not same:
        raise InvalidRecord("the body's asset_id is not the column's", field="asset_id")
    return msgspec.json.encode(members)


def _native(row: OutboxRow, now_ms: int) -> tuple[AssetEventBody, int, bytes]:
    body = read_json((row.body or "{}").encode(), msgspec.Raw)
    shell = {"organization": row.organization, "asset": row.asset_id, "event_time": now_ms, "body": body}
    event = decode_json(msgspec.json.encode(shell), AssetEvent)
    digest = hashlib.sha256(canonical("keymill/request/v1", NATIVE, row.organization, row.asset_id, row.body.encode()))
    return event.body, now_ms, digest.digest()
