"""What makes a key *that* key: the canonical preimage of its KID."""

import hashlib
from functools import lru_cache
from typing import Final

from schemas.records import TrackIdentity
from schemas.values import DIGEST_SIZE, Record, Scheme

ALL_TRACKS: Final = "*"
"""The label in the identity of a key that serves every track."""

Part = bytes | str | int | None


def canonical(*parts: Part) -> bytes:
    """
    One byte string per list of parts, injective: each part is its length (4 bytes, big-endian) and its bytes.
    So lists may be encoded in pieces and joined.

    Text is UTF-8, a number 8 bytes big-endian, None empty.
    """
    return b"".join([framed(part) if isinstance(part, bytes) else _prepared(part) for part in parts])


@lru_cache(maxsize=4096)
def _prepared(part: str | int | None) -> bytes:
    """Names, labels and versions come again and again: an asset's own in every one of its records."""
    if isinstance(part, int):
        return framed(part.to_bytes(8, "big"))
    return framed(part.encode() if part else b"")


def framed(data: bytes) -> bytes:
    """`canonical` of one part that is bytes."""
    return len(data).to_bytes(4, "big") + data


@lru_cache(maxsize=1024)
def recurring(*parts: Part) -> bytes:
    """`canonical` of parts of which there are few: labels with schemes, versions."""
    return canonical(*parts)


def canonical_name(organization: str, asset: str) -> bytes:
    """`canonical` of an asset's name; of organizations there are few."""
    return recurring(organization) + framed(asset.encode())


_KEY_SET: Final = canonical("keymill/key-set/v1")


class KeyIdentity(Record, frozen=True, kw_only=True):
    """Everything that influences a derived CEK; `label` is `ALL_TRACKS` where one key serves all tracks."""

    organization: str
    asset: str
    key_version: int
    period: int | None
    scheme: Scheme
    label: str
    root_version: int
    salt: bytes | None

    def preimage(self) -> bytes:
        """The canonical bytes that KID, CEK and IV are derived from."""
        return canonical(
            self.organization,
            self.asset,
            self.key_version,
            self.period,
            self.scheme,
            self.label,
            self.root_version,
            self.salt,
        )


def key_set_digest(
    *,
    organization: str,
    asset: str,
    key_version: int,
    root_version: int,
    salt: bytes | None,
    period: int | None,
    tracks: tuple[TrackIdentity, ...],
) -> bytes:
    """Name of the key record that holds these tracks in this order, 16 bytes."""
    chosen = recurring(key_version, root_version, salt, period)
    name = canonical_name(organization, asset)
    return hashlib.sha256(_KEY_SET + name + chosen + _named(tracks)).digest()[:DIGEST_SIZE]


@lru_cache(maxsize=256)
def _named(tracks: tuple[TrackIdentity, ...]) -> bytes:
    return canonical(*(part for track in tracks for part in (track.label, track.scheme, track.kid)))
