"""
The guard of every view: what becomes of a record read from a topic, given what is held (ARCHITECTURE.md, step 6).

Pure: the stores (`keymill.snapshot`, the processor's overlay, tests) look up what is held and act on the verdict.
The first fingerprint of a KID wins; a record that contradicts it is quarantined and the old key served on.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from schemas.access import Credential, Entitlement, Service
from schemas.ids import asset_key, key_set_key, scoped_key
from schemas.records import AssetRecord, KeyRecord, KeyVersion, PolicyRecord
from schemas.values import DIGEST_SIZE, Record


class Fate(StrEnum):
    """What a view does with a record."""

    APPLIED = "applied"
    SAME = "same"
    STALE = "stale"
    QUARANTINED = "quarantined"


class Verdict(Record, frozen=True, kw_only=True):
    """A fate; `reason` is a stable code for a stale or quarantined record."""

    fate: Fate
    reason: str = ""


Sequenced = Credential | Service | Entitlement
NO_SEQUENCE: Final = 0
"""Of records from before there were sequences, whose order is the log's. No such record is authenticated."""


class KidOwner(Record, frozen=True, kw_only=True):
    """Who a KID of an organization belongs to, as the view knows it."""

    asset: str
    fp: bytes


APPLIED: Final = Verdict(fate=Fate.APPLIED)
SAME: Final = Verdict(fate=Fate.SAME)


def quarantined(reason: str) -> Verdict:
    """The record contradicts what is known: count it, page, keep what is held."""
    return Verdict(fate=Fate.QUARANTINED, reason=reason)


def stale(reason: str) -> Verdict:
    """The record is older than what is held, a zombie's late write: the partition's owner writes the right one."""
    return Verdict(fate=Fate.STALE, reason=reason)


def misplaced(record_key: bytes, record: AssetRecord | KeyRecord | PolicyRecord) -> Verdict | None:
    """A quarantine when *record* names another record key than the one it stands under."""
    match record:
        case AssetRecord():
            fits = record_key == asset_key(record.organization, record.asset)
        case KeyRecord():
            prefix = key_set_key(record.organization, record.asset, b"")
            fits = record_key.startswith(prefix) and len(record_key) == len(prefix) + 2 * DIGEST_SIZE
        case PolicyRecord():
            fits = record_key == scoped_key(record.organization, str(record.policy_id))
    return None if fits else quarantined("record_key_of_another")


def judge_key_record(new: KeyRecord, held: KeyRecord | None, owners: Mapping[bytes, KidOwner]) -> Verdict:
    """
    Judge a key record against the one held under its record key.

    Args:
        owners: for each KID of *new* that the view knows in this organization, its owner.
    """
    if reason := _contradiction(new, owners):
        return quarantined(reason)
    if held is None:
        return APPLIED
    if identity_of(new) != identity_of(held):
        return quarantined("key_record_changed")
    if new.kek_epoch != held.kek_epoch:
        return APPLIED if new.kek_epoch > held.kek_epoch else stale("older_kek_epoch")
    if new.event != held.event:
        return stale("key_record_written_before")
    return SAME if new.wrapped == held.wrapped else quarantined("wrapping_changed")


def _contradiction(new: KeyRecord, owners: Mapping[bytes, KidOwner]) -> str:
    first: dict[bytes, bytes] = {}
    for track in new.tracks:
        owner = owners.get(track.kid)
        known = owner.fp if owner is not None else first.setdefault(track.kid, track.fp)
        if known != track.fp:
            return "key_changed"
        if owner is not None and owner.asset != new.asset:
            return "kid_of_another_asset"
    return ""


def identity_of(record: KeyRecord) -> tuple[object, ...]:
    """What makes two key records logically equal: everything but wrapping, epoch and the event's place."""
    return (record.organization, record.asset, record.key_version, record.root_version, record.period, record.tracks)


def judge_asset_record(new: AssetRecord, held: AssetRecord | None) -> Verdict:
    """Judge an asset record: `applied` only goes up, versions are never lost and keep their choices."""
    if held is None:
        return APPLIED
    if new.applied < held.applied:
        return stale("older_applied")
    if new.applied == held.applied:
        return SAME if new == held else quarantined("asset_record_changed")
    if len(new.versions) < len(held.versions):
        return quarantined("key_version_lost")
    pairs = zip(new.versions, held.versions, strict=False)
    return APPLIED if all(a is b or _keeps(a, b) for a, b in pairs) else quarantined("key_version_changed")


def _keeps(new: KeyVersion, held: KeyVersion) -> bool:
    """Whether the choices of *held* stand and its key sets are the first of *new*'s; places in the log may differ."""
    if _choices(new) != _choices(held):
        return False
    digests = [key_set.digest for key_set in held.key_sets]
    if digests != [key_set.digest for key_set in new.key_sets[: len(digests)]]:
        return False
    return held.live is None or (new.live is not None and new.live.tracks == held.live.tracks)


def _choices(version: KeyVersion) -> tuple[object, ...]:
    return (version.key_version, version.root_version, version.salt, version.single_key, version.schemes)


def judge_sequenced(new: Sequenced, held: Sequenced | None) -> Verdict:
    """Judge a credential, service or entitlement: `sequence` only goes up; of equal ones the first stays."""
    if held is None or follows(new, held):
        return APPLIED
    return SAME if new == held else stale("older_sequence")


def follows(new: Sequenced, held: Sequenced) -> bool:
    """Tell whether *new* takes the place of *held*, which stands before it in the log."""
    return new.sequence > held.sequence or (new.sequence == held.sequence == NO_SEQUENCE and new != held)


def judge_policy_record(new: PolicyRecord, held: PolicyRecord | None) -> Verdict:
    """Judge a policy record: `applied` and `version` only go up."""
    if held is None:
        return APPLIED
    if new.applied < held.applied:
        return stale("older_applied")
    if new.applied == held.applied:
        return SAME if new == held else quarantined("policy_record_changed")
    return APPLIED if new.version >= held.version else quarantined("policy_version_lost")
