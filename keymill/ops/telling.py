"""From records to the parts of a lineage. Pure."""

import uuid
from collections.abc import Sequence
from typing import Final

from keymill.core.folding import DEFAULT_POLICY
from keymill.ops.lineage import Answered, ClaimTold, EventTold, KeyTold, Place, PolicyTold
from keymill.ops.moment import shown
from keymill.snapshot import layout
from schemas import topics
from schemas.audit import AuditEvent
from schemas.records import AssetRecord, Claim, KeyRecord, PolicyRecord, TrackKey
from schemas.values import LogPosition

BUILT_IN: Final = "built-in default"


def spelt(kid: bytes) -> str:
    """A KID as people write it."""
    return str(uuid.UUID(bytes=kid))


def place_of(topic: topics.Topic, place: layout.Place | None, record_key: bytes | None = None) -> Place | None:
    """A place of a view as it is told."""
    if place is None:
        return None
    name = record_key.decode("ascii", "replace") if record_key else None
    return Place(topic=topic.name, partition=place.partition, offset=place.offset, record_key=name)


def policy_told(policy_id: int, stored: PolicyRecord | None, place: Place | None) -> PolicyTold:
    """A policy; *stored* is its record, None when nobody stored one."""
    if stored is None:
        missing = policy_id != DEFAULT_POLICY
        return PolicyTold(id=policy_id, version=None if missing else 0, name="missing" if missing else BUILT_IN)
    return PolicyTold(
        id=policy_id,
        version=stored.version,
        name=stored.name,
        changed=shown(stored.changed),
        place=place,
        change=stored.applied,
    )


def event_told(at: LogPosition, partition: int | None) -> EventTold:
    """An asset event of which only the place is known. Partitions of assets and keys are the same (design 2)."""
    return EventTold(topic=topics.ASSETS.name, generation=at.generation, partition=partition, offset=at.offset)


def claim_told(claim: Claim, place: Place, recorded_ms: int) -> ClaimTold:
    """A claim as it is told."""
    return ClaimTold(
        asset=claim.asset,
        key_version=claim.key_version,
        track=f"{claim.label}/{claim.scheme.value}",
        imported=claim.fp is not None,
        recorded=shown(recorded_ms),
        place=place,
    )


def answered(event: AuditEvent, place: Place) -> Answered:
    """An audit event as it is told."""
    return Answered(
        at=shown(event.at),
        what=event.what,
        outcome="granted" if event.granted else "refused",
        reason=event.reason,
        request_id=event.request_id,
        user=event.user,
        caller=event.caller,
        client=event.client,
        drm_system=event.drm_system,
        organization=event.organization,
        asset=event.asset,
        kids=tuple(map(spelt, event.kids)),
        key_versions=event.key_versions,
        policy_id=event.policy_id,
        policy_version=event.policy_version,
        writer=f"{event.program}/{event.instance}",
        sequence=event.sequence,
        audit=place,
        event=event.event,
    )


def keys_told(records: Sequence[tuple[KeyRecord, Place]]) -> tuple[KeyTold, ...]:
    """Every key of an asset, by version and crypto period, tracks in their order."""
    ordered = sorted(records, key=lambda each: (each[0].key_version, each[0].period.index if each[0].period else -1))
    return tuple(_key_told(record, track, place) for record, place in ordered for track in record.tracks)


def _key_told(record: KeyRecord, track: TrackKey, place: Place) -> KeyTold:
    return KeyTold(
        key_version=record.key_version,
        kid=spelt(track.kid),
        track=f"{track.label}/{track.scheme.value}",
        origin=track.origin.value,
        period=record.period.index if record.period else None,
        root_version=record.root_version,
        kek_epoch=record.kek_epoch,
        fingerprint=track.fp.hex(),
        event_offset=record.event.offset,
        key_record=place,
    )


def positions_of(asset: AssetRecord) -> list[LogPosition]:
    """Every event that an asset's record remembers, oldest first."""
    found = {asset.applied}
    for version in asset.versions:
        found |= {version.created, *(key_set.at for key_set in version.key_sets)}
        found |= {version.live.at} if version.live else set()
    found |= {accepted.at for accepted in asset.recent}
    return sorted(found)
