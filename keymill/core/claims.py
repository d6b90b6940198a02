"""
Who a KID belongs to that a caller chose or brought: the log arbitrates, and the lowest offset wins for ever.

An identity of the caller's cannot hold the key, as a derived KID does, so that two assets, two events or two processors
may ask for one KID. Each asks by a `Claim`; whoever reads the log sees the same winner.
"""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from keymill.core.derive import derive_chosen, fingerprint
from keymill.core.envelope import ClearKey
from keymill.core.provisioning import GivenKey
from keymill.errors import Conflict
from keymill.secret import Secret
from schemas.events import AssetEvent, AssetIngested, TrackWish
from schemas.ids import asset_key, claim_key
from schemas.records import AssetRecord, Claim, KeyOrigin, KeyRecord, TrackIdentity
from schemas.values import LogPosition, Record


def wishes_of(event: AssetEvent) -> dict[bytes, TrackWish]:
    """By KID, a wish of the event that names it; empty for most events."""
    if not isinstance(event.body, AssetIngested) or not event.body.tracks:
        return {}
    return {wish.kid: wish for wish in event.body.tracks if wish.kid is not None}


def claims_of(event: AssetEvent, asset: AssetRecord, at: LogPosition) -> dict[bytes, Claim]:
    """
    By KID, what an ingest event must own: the KIDs that it names and that tracks of its version bear.

    Args:
        asset: after the event.
        at: where the event stands.
    """
    wishes = wishes_of(event)
    if not wishes or not isinstance(event.body, AssetIngested):
        return {}
    version = asset.versions[(event.body.key_version or len(asset.versions)) - 1]
    claims: dict[bytes, Claim] = {}
    for track in (track for key_set in version.key_sets for track in key_set.tracks):
        if track.kid in wishes and track.kid not in claims:
            claims[track.kid] = claim_of(event, track, wishes[track.kid], version, at)
    return claims


class Pinned(Protocol):
    """A key version, or one of its key records before its keys are made."""

    @property
    def key_version(self) -> int:
        """Its number."""
        ...

    @property
    def root_version(self) -> int:
        """What its first event pinned."""
        ...


def claim_of(event: AssetEvent, track: TrackIdentity, wish: TrackWish, version: Pinned, at: LogPosition) -> Claim:
    """The claim of one track's KID, by the event that names it in *wish*."""
    return Claim(
        organization=event.organization,
        kid=wish.kid or b"",
        asset=event.asset,
        key_version=version.key_version,
        label=track.label,
        scheme=track.scheme,
        root_version=version.root_version,
        fp=wish.imported.fp if wish.imported else None,
        event=at,
    )


class Pending(dict[bytes, Claim]):
    """
    By record key, the claims that a run of events calls for and nobody has made: with any, its decision is provisional.

    They are made and read back, and the run is decided afresh. What rests on them, or is refused beside them, may be
    decided otherwise then, so it claims nothing before: an event behind it must not get its KID.
    """

    def __init__(self) -> None:
        super().__init__()
        self._doubtful: set[bytes] = set()

    def ask(self, event: AssetEvent, wanted: Sequence[Claim]) -> None:
        """Take the claims of an event in run order, all or none of them."""
        by_key = {claim_key(claim.organization, claim.kid): claim for claim in wanted}
        new = by_key.keys() - self.keys()
        if len(new) == len(by_key) and self._doubtful.isdisjoint(_names(event)):
            self.update(by_key)
        elif new:
            self.doubt(event)

    def doubt(self, event: AssetEvent) -> None:
        """Let later claims of the event's asset, and of the KIDs that it names, wait while there are others to make."""
        if self:
            self._doubtful |= _names(event)

    def clear(self) -> None:
        """Begin anew."""
        super().clear()
        self._doubtful.clear()


def _names(event: AssetEvent) -> set[bytes]:
    """The record keys of an event's asset and of the claims of the KIDs that it names."""
    kids = {claim_key(event.organization, kid) for kid in wishes_of(event)}
    return kids | {asset_key(event.organization, event.asset)}


def given_key(claim: Claim, prk: Secret, imported: ClearKey | None) -> GivenKey:
    """
    The key of a claimed KID.

    Args:
        prk: of the root version that the claim pins.
        imported: the key that the claim's fingerprint is of; None where the KID came without a key.
    """
    if imported is not None:
        return GivenKey(kid=claim.kid, cek=imported.cek, iv=imported.iv, origin=KeyOrigin.IMPORTED)
    key = derive_chosen(prk, claim.organization, claim.kid)
    return GivenKey(kid=key.kid, cek=key.cek, iv=key.iv, origin=KeyOrigin.CHOSEN)


class Winner(Record, frozen=True, kw_only=True):
    """Whose a KID is: the asset, and the event that brought it there."""

    asset: str
    key_version: int
    event: LogPosition


def winner_against(
    wanted: Claim, held: Claim | None, owner: KeyRecord | None, k_fp: Secret, prk: Secret
) -> Winner | None:
    """
    Who has the KID that *wanted* asks for, when that is somebody else, or it has another key.

    Args:
        held: the claim that won, None where there is none.
        owner: the key record that the KID stands in, None where there is none.
        prk: of the root version that *held* pins, or *wanted* without one.
    """
    if held is not None and (held.asset, held.key_version, held.fp) != (wanted.asset, wanted.key_version, wanted.fp):
        return Winner(asset=held.asset, key_version=held.key_version, event=held.event)
    if owner is None:
        return None
    fp = wanted.fp or fingerprint(k_fp, wanted.kid, derive_chosen(prk, wanted.organization, wanted.kid).cek)
    same_key = any(track.kid == wanted.kid and track.fp == fp for track in owner.tracks)
    if same_key and (owner.asset, owner.key_version) == (wanted.asset, wanted.key_version):
        return None
    return Winner(asset=owner.asset, key_version=owner.key_version, event=owner.event)


def taken(wanted: Claim, winner: Winner, place: str) -> Conflict:
    """The refusal of a KID; *place* are the coordinates of the winner's event."""
    message = (
        f"tracks.kid: KID {UUID(bytes=wanted.kid)} is taken by asset {winner.asset}, key version {winner.key_version}, "
        f"through the event at {place}"
    )
    return Conflict(message, field="tracks.kid", code="kid_taken")
