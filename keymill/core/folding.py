"""
The fold of an asset's events into its asset record (ARCHITECTURE.md, step 3).

Choices are made once, by the first event in log order; a repeat changes nothing but `applied`.
"""

from typing import Final, assert_never

import msgspec

from keymill.core import versions
from keymill.core.versions import Choice
from keymill.core.wishes import Derived
from keymill.errors import Conflict, InvalidRecord, Reject, UnknownKey
from schemas.codec import encode
from schemas.events import (
    AssetEvent,
    AssetIngested,
    AssetRestored,
    AssetRevoked,
    KeysRotated,
    PolicyAssigned,
)
from schemas.records import AcceptedEvent, AssetRecord, AssetState
from schemas.values import MAX_RECENT, LogPosition, Record, check_window

MAX_AHEAD_MS: Final = 24 * 3_600_000
"""An event time further ahead of its record's timestamp is a unit mistake or a broken clock."""
MAX_ASSET_RECORD: Final = 58_000
"""
Events that add keys may fill the record up to here.

Below the key topic's 64 KiB: 6,000 bytes are left for the idempotency ids of later events, so that a revocation
is never refused for size, and 1,500 for the record key, headers and framing.
"""
SMALL_VERSIONS: Final = 2
"""So many versions always fit: at most 64 static and 64 live tracks each, of 150 bytes with the longest label."""
DEFAULT_POLICY: Final = 0


class Coordinates(Record, frozen=True, kw_only=True):
    """Where an event stands in the log; `timestamp` is the record's (LogAppendTime), epoch ms."""

    partition: int
    position: LogPosition
    timestamp: int


class Folded(Record, frozen=True, kw_only=True):
    """The asset record after an event; `changed` is False when the event stood at or below `applied`."""

    asset: AssetRecord
    changed: bool


def fold(
    event: AssetEvent,
    *,
    at: Coordinates,
    held: AssetRecord | None,
    root_version: int,
    derived: Derived | None = None,
) -> Folded:
    """
    Fold one event into the asset record held so far.

    Args:
        held: the record that the view holds; None for a new asset.
        root_version: the one that the schedule gives for the record's timestamp; pinned by a version's first event.
        derived: tells a track's own KID, so that an event that names it chooses nothing; asked for no other event.

    Raises:
        Reject: the event can never succeed; nothing changes and the message is safe to publish.
    """
    if held is not None and at.position <= held.applied:
        return Folded(asset=held, changed=False)
    check_event_time(event.event_time, at)
    if held is not None and _is_repeat(event, held):
        return Folded(asset=msgspec.structs.replace(held, applied=at.position), changed=True)
    choice = Choice(
        organization=event.organization, asset=event.asset, at=at.position, root_version=root_version, derived=derived
    )
    asset = _apply(event, choice, held)
    asset = msgspec.structs.replace(asset, applied=at.position, recent=_remember(event, at, held))
    if len(asset.versions) > SMALL_VERSIONS and _grows(event) and len(encode(asset)) > MAX_ASSET_RECORD:
        message = f"the asset's record would exceed {MAX_ASSET_RECORD} bytes: too many key versions"
        raise Reject(message, field="asset", code="asset_too_large")
    return Folded(asset=asset, changed=True)


def check_event_time(event_time: int, at: Coordinates) -> None:
    """Refuse an event that claims to happen long after its record was written."""
    if event_time > at.timestamp + MAX_AHEAD_MS:
        message = "event_time is more than 24 h ahead of the record: use epoch milliseconds"
        raise InvalidRecord(message, field="event_time")


def _grows(event: AssetEvent) -> bool:
    return isinstance(event.body, AssetIngested | KeysRotated)


def _is_repeat(event: AssetEvent, held: AssetRecord) -> bool:
    for accepted in held.recent:
        if accepted.event_id == event.event_id:
            if accepted.request_hash != request_hash(event):
                message = f"event_id {event.event_id} was used with another content, at offset {accepted.at.offset}"
                raise Conflict(message, field="event_id", code="idempotency_conflict")
            return True
    return False


def request_hash(event: AssetEvent) -> bytes:
    """What tells two requests with one event id apart, 32 bytes: the request's hash, or the body's own."""
    return event.request_hash or versions.body_hash(event)


def _remember(event: AssetEvent, at: Coordinates, held: AssetRecord | None) -> tuple[AcceptedEvent, ...]:
    recent = held.recent if held else ()
    if event.event_id is None:
        return recent
    accepted = AcceptedEvent(
        event_id=event.event_id, request_hash=request_hash(event), at=at.position, timestamp=at.timestamp
    )
    return (*recent, accepted)[-MAX_RECENT:]


def _apply(event: AssetEvent, choice: Choice, held: AssetRecord | None) -> AssetRecord:
    body = event.body
    if isinstance(body, AssetIngested):
        return _ingest(body, choice, held or _new_asset(event, choice.at))
    if held is None:
        message = f"asset {event.asset} has no ingest event before this one"
        raise UnknownKey(message, field="asset", code="unknown_asset")
    match body:
        case KeysRotated():
            return msgspec.structs.replace(held, versions=versions.rotate(body, choice, held.versions))
        case PolicyAssigned():
            return msgspec.structs.replace(held, policy_id=body.policy_id)
        case AssetRevoked():
            return msgspec.structs.replace(held, state=AssetState.REVOKED)
        case AssetRestored():
            return msgspec.structs.replace(held, state=AssetState.ACTIVE)
        case _:
            assert_never(body)


def _new_asset(event: AssetEvent, at: LogPosition) -> AssetRecord:
    return AssetRecord(
        organization=event.organization,
        asset=event.asset,
        state=AssetState.ACTIVE,
        applied=at,
        policy_id=DEFAULT_POLICY,
        versions=(),
    )


def _ingest(body: AssetIngested, choice: Choice, held: AssetRecord) -> AssetRecord:
    asset = msgspec.structs.replace(
        held,
        versions=versions.ingest(body, choice, held.versions),
        policy_id=held.policy_id if body.policy_id is None else body.policy_id,
        product_id=held.product_id if body.product_id is None else body.product_id,
        available_from=held.available_from if body.available_from is None else body.available_from,
        available_until=held.available_until if body.available_until is None else body.available_until,
    )
    check_window(asset.available_from, asset.available_until)
    return asset
