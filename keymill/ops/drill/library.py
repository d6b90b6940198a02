"""What the drill ingests: a library of titles with derived, chosen and imported keys. A function of its size."""

import base64
import csv
import hashlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

DERIVED_TRACKS: Final = ("SD", "HD", "AUDIO")
CHOSEN_TRACK: Final = "HD"
IMPORTED_TRACK: Final = "UHD1"
SCHEME: Final = "cbcs"
POLICIES: Final = 3
"""Policies that titles are given, beside the organization's default."""
_NAMES: Final = uuid.UUID("8d6a1a4e-55ad-4a53-9a4c-0f7b3d0c5e11")


class Title(msgspec.Struct, frozen=True, kw_only=True):
    """One title: `chosen` is the KID that its packager chose for `CHOSEN_TRACK`, `imported` that of an existing key."""

    asset: str
    policy_id: int
    chosen: uuid.UUID | None
    imported: uuid.UUID | None

    def body(self) -> dict[str, Any]:
        """What the ingest system says of it, as `POST …/assets` takes it."""
        tracks = [{"track_type": label} for label in DERIVED_TRACKS]
        if self.chosen:
            tracks[DERIVED_TRACKS.index(CHOSEN_TRACK)]["kid"] = str(self.chosen)
        return {"asset_id": self.asset, "tracks": tracks, "schemes": [SCHEME], "policy_id": self.policy_id}


def titles(count: int) -> Iterator[Title]:
    """*count* titles: every tenth with a chosen KID, every twentieth with an imported key."""
    for number in range(count):
        asset = f"title-{number:06}"
        yield Title(
            asset=asset,
            policy_id=number % (POLICIES + 1),
            chosen=uuid.uuid5(_NAMES, f"chosen/{asset}") if number % 10 == 3 else None,
            imported=uuid.uuid5(_NAMES, f"imported/{asset}") if number % 20 == 7 else None,
        )


def write_keys(path: Path, library: list[Title]) -> int:
    """
    Write the keys to import as the CSV that `keymill import csv` reads; returns how many.

    They belong to nobody's content, so that each is a hash of its KID and the file can be made again.
    """
    imported = [title for title in library if title.imported]
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("asset", "track", "kid", "key", "iv", "scheme"))
        for title in imported:
            assert title.imported is not None
            digest = hashlib.sha256(title.imported.bytes).digest()
            key, iv = digest[:16].hex(), digest[16:].hex()
            rows.writerow((title.asset, IMPORTED_TRACK, str(title.imported), key, iv, SCHEME))
    return len(imported)


def imported_key(kid: uuid.UUID) -> str:
    """The key that stands in the CSV under *kid*, as a ClearKey license spells it."""
    return base64.urlsafe_b64encode(hashlib.sha256(kid.bytes).digest()[:16]).rstrip(b"=").decode()
