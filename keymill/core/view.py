"""
The guard of every view: what becomes of a record read from a topic, given what is held.

Pure: the stores (`keymill.snapshot`, the processor's overlay, tests) look up what is held and act on the verdict.
The first fingerprint of a KID wins; a record that contradicts it is quarantined and the old key served on.
"""

from enum import StrEnum
from typing import Final

from schemas.records import AssetRecord, KeyRecord, PolicyRecord
from schemas.values import Record


class Fate(StrEnum):
    """What a view does with a record."""

    APPLIED = "applied"
    SAME = "same"
    STALE = "stale"
    QUARANTINED = "quarantined"


class Verdict(Record, kw_only=True):
    """A fate; `reason` is a stable code for a stale or quarantined record."""

    fate: Fate
    reason: str = ""


class KidOwner(Record, kw_only=True):
    """Who a KID of an organization belongs to, as the view knows it."""

    asset: str
    fp: bytes


APPLIED: Final = Verdict(fate=Fate.APPLIED)
SAME: Final = Verdict(fate=Fate.SAME)


def quarantined(reason: str) -> Verdict:
    """The record contradicts what is known: count it, page, keep what is held."""
    return Verdict(fate=Fate.QUARANTINED, reason=reason)


def stale(reason: str) -> Verdict:
    """The record is older than what is held: a zombie's late write. The partition's owner writes the right one again."""
    return Verdict(fate=Fate.STALE, reason=reason)


def judge_key_record(new: KeyRecord, held: KeyRecord | None, owners: dict[bytes, KidOwner]) -> Verdict:
    """
    Judge a key record against the one held under its record key.

    Args:
        owners: for each KID of *new* that the view knows in this organization, its owner.
    """
    for track in new.tracks:
        owner = owners.get(track.kid)
        if owner is not None and owner.fp != track.fp:
            return quarantined("key_changed")
        if owner is not None and owner.asset != new.asset:
            return quarantined("kid_of_another_asset")
    if held is None:
        return APPLIED
    if identity_of(new) != identity_of(held):
        return quarantined("key_record_changed")
    if new.kek_epoch < held.kek_epoch:
        return stale("older_kek_epoch")
    if new.kek_epoch > held.kek_epoch:
        return APPLIED
    return SAME if new.wrapped == held.wrapped else quarantined("wrapping_changed")


def identity_of(record: KeyRecord) -> tuple[object, ...]:
    """What makes two key records logically equal: everything but wrapping, epoch and the event's place."""
    return (record.organization, record.asset, record.key_version, record.root_version, record.period, record.tracks)


def judge_asset_record(new: AssetRecord, held: AssetRecord | None) -> Verdict:
    """Judge an asset record: `applied` only goes up, and versions are never lost."""
    if held is None:
        return APPLIED
    if new.applied < held.applied:
        return stale("older_applied")
    if new.applied == held.applied:
        return SAME if new == held else quarantined("asset_record_changed")
    if len(new.versions) < len(held.versions):
        return quarantined("key_version_lost")
    return APPLIED


def judge_policy_record(new: PolicyRecord, held: PolicyRecord | None) -> Verdict:
    """Judge a policy record: `applied` and `version` only go up."""
    if held is None:
        return APPLIED
    if new.applied < held.applied:
        return stale("older_applied")
    if new.applied == held.applied:
        return SAME if new == held else quarantined("policy_record_changed")
    return APPLIED if new.version >= held.version else quarantined("policy_version_lost")
