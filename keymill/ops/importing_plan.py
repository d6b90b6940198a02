"""
What an import has to send: one event per asset, with the keys that are not there yet. Pure.

Every key of a library is a key of version 1 of its asset. The keys are wrapped before anything else is done with them.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from keymill.core.derive import imported_iv
from keymill.core.envelope import ClearKey, wrap_imported
from keymill.core.identity import Part, canonical
from keymill.ops.importing import Problem, Row
from keymill.secret import Secret
from schemas import topics
from schemas.events import AssetEvent, AssetIngested, ImportedKey, TrackWish
from schemas.records import Claim, KeyRecord
from schemas.values import CLEAR_LABEL, MAX_TRACKS, Record, Scheme

VERSION: Final = 1
Name = tuple[str, str, Scheme]
"""Asset, track label, scheme."""


class Sealed(Record, frozen=True, kw_only=True):
    """A row whose key is wrapped under the intake KEK."""

    row: Row
    imported: ImportedKey


class Intake(NamedTuple):
    """What keys of an organization are wrapped with."""

    organization: str
    k_fp: Secret
    kek: Secret
    epoch: int

    def seal(self, row: Row) -> Sealed:
        """Wrap a row's key; an IV that lacks follows from the key."""
        key = ClearKey(cek=row.cek, iv=row.iv or imported_iv(row.cek, self.organization, row.kid))
        imported = wrap_imported(
            self.kek, self.k_fp, organization=self.organization, kid=row.kid, key=key, intake_epoch=self.epoch
        )
        return Sealed(row=row, imported=imported)


class Library:
    """
    The rows of all files, against each other.

    `assets` keeps the order of the files.
    """

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.assets: dict[str, list[Sealed]] = {}
        self.problems: list[Problem] = []
        self.rows = self.repeated = 0
        self._tracks: dict[Name, Sealed] = {}
        self._kids: dict[bytes, Sealed] = {}

    def add(self, row: Row) -> None:
        """Take a row, unless it repeats one or contradicts one."""
        self.rows += 1
        sealed = self.intake.seal(row)
        before = self._tracks.setdefault((row.asset, row.track, row.scheme), sealed)
        of_kid = self._kids.setdefault(row.kid, sealed)
        if before is not sealed:
            if before.row.kid == row.kid and before.imported == sealed.imported:
                self.repeated += 1
            else:
                self.refuse(row, "track", "duplicate", f"the track has another key at {_place(before.row)}")
        elif of_kid is not sealed and of_kid.row.asset != row.asset:
            self.refuse(row, "kid", "kid_taken", f"the KID is asset {of_kid.row.asset}'s at {_place(of_kid.row)}")
        elif of_kid is not sealed and of_kid.imported != sealed.imported:
            self.refuse(row, "key", "kid_taken", f"the KID has another key or IV at {_place(of_kid.row)}")
        elif of_kid is not sealed and (CLEAR_LABEL in {row.track, of_kid.row.track}) and row.track != of_kid.row.track:
            self.refuse(row, "kid", "clear_key_shared", f"{CLEAR_LABEL} shares its KID with {_place(of_kid.row)}")
        else:
            self.assets.setdefault(row.asset, []).append(sealed)
            if len(self.assets[row.asset]) == MAX_TRACKS + 1:
                self.refuse(row, "asset", "too_many_tracks", f"an asset has at most {MAX_TRACKS} keys")

    def refuse(self, row: Row, field: str, code: str, message: str) -> None:
        """Note a problem of a row; its asset is left out."""
        self.problems.append(
            Problem(file=row.file, line=row.line, asset=row.asset, field=field, code=code, message=message)
        )

    @property
    def spoilt(self) -> set[str]:
        """The assets that have a problem."""
        return {each.asset for each in self.problems if each.asset}

    def may_be_sent(self, partial: bool) -> bool:
        """Whether every asset that is sent is whole: a row that names no asset may be of any of them."""
        return not self.problems or (partial and all(each.asset is not None for each in self.problems))


def _place(row: Row) -> str:
    return f"{row.file}:{row.line}"


class Present:
    """What an organization's topics hold already."""

    def __init__(self, organization: str, winners: Mapping[tuple[str, bytes], Claim]) -> None:
        self._organization = organization
        self._winners = winners
        self._tracks: dict[Name, tuple[bytes, bytes]] = {}
        self._kids: dict[bytes, KeyRecord] = {}

    def add(self, record: KeyRecord) -> None:
        """Take a key record."""
        if record.organization != self._organization or record.period is not None:
            return
        for track in record.tracks:
            self._kids.setdefault(track.kid, record)
            if record.key_version == VERSION:
                self._tracks[record.asset, track.label, track.scheme] = (track.kid, track.fp)

    def missing(self, library: Library) -> dict[str, list[Sealed]]:
        """The rows, by asset, that are not there; what contradicts what is there becomes the library's problem."""
        lacking: dict[str, list[Sealed]] = {}
        for asset, rows in library.assets.items():
            lacking[asset] = [sealed for sealed in rows if not self._is_there(sealed, library)]
        spoilt = library.spoilt
        return {asset: rows for asset, rows in lacking.items() if rows and asset not in spoilt}

    def _is_there(self, sealed: Sealed, library: Library) -> bool:
        row, fp = sealed.row, sealed.imported.fp
        held = self._tracks.get((row.asset, row.track, row.scheme))
        if held == (row.kid, fp):
            return True
        if held is not None:
            what = "another key" if held[0] == row.kid else f"the KID {held[0].hex()}"
            library.refuse(row, "track", "different", f"the track is there with {what}: a key never changes")
        elif winner := self._other(row.asset, row.kid, fp):
            library.refuse(row, "kid", "kid_taken", f"the KID is taken by asset {winner}")
        return False

    def _other(self, asset: str, kid: bytes, fp: bytes) -> str:
        """Who has the KID, with coordinates, when it is not this asset's version 1 with this key."""
        claim = self._winners.get((self._organization, kid))
        if claim is not None and (claim.asset, claim.key_version, claim.fp) != (asset, VERSION, fp):
            return f"{claim.asset}, key version {claim.key_version}, event at offset {claim.event.offset}"
        record = self._kids.get(kid)
        if record is None or (claim is not None and record.asset == asset):
            return ""
        return f"{record.asset}, key version {record.key_version}, event at offset {record.event.offset}"


def events_of(organization: str, lacking: Mapping[str, list[Sealed]], now_ms: int) -> Iterable[AssetEvent]:
    """One event per asset; its id follows from what it brings, so that it has an effect once."""
    for asset, rows in lacking.items():
        parts: list[Part] = ["keymill/import/v1", organization, asset]
        for sealed in rows:
            parts += (sealed.row.track, sealed.row.scheme, sealed.row.kid, sealed.imported.wrapped)
        wishes = tuple(
            TrackWish(label=each.row.track, scheme=each.row.scheme, kid=each.row.kid, imported=each.imported)
            for each in rows
        )
        yield AssetEvent(
            organization=organization,
            asset=asset,
            event_id=f"k-{hashlib.sha256(canonical(*parts)).hexdigest()[:40]}",
            event_time=now_ms,
            body=AssetIngested(tracks=wishes, key_version=VERSION),
        )


def summary(library: Library, lacking: Mapping[str, list[Sealed]], outcome: Mapping[str, object]) -> dict[str, object]:
    """What is told as JSON."""
    sent, spoilt = sum(map(len, lacking.values())), library.spoilt
    there = sum(len(rows) for asset, rows in library.assets.items() if asset not in spoilt) - sent
    return {
        "organization": library.intake.organization,
        "topic": topics.ASSETS.name,
        "rows": library.rows,
        "repeated": library.repeated,
        "present": there,
        "keys": sent,
        "assets": len(lacking),
        "left_out": len(spoilt),
        "problems": msgspec.to_builtins(library.problems),
        **outcome,
    }
