"""
What a comparison derives: KIDs and fingerprints without wrapping, and when two key records are the same.

A key record is compared by its bytes where it has the usual shape; what is rarer is decoded.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from keymill.core.provisioning import GivenKey, Keys, Needed, name_keys, unwrapped
from keymill.core.view import identity_of
from keymill.snapshot import peek
from schemas.codec import HEADER_SIZE, decode, encode
from schemas.events import AssetEvent
from schemas.records import AssetRecord, KeyOrigin, KeyRecord, TrackIdentity, TrackKey
from schemas.values import FINGERPRINT_SIZE, KID_SIZE, LogPosition
from schemas.writing import zigzag
from streams.decide import Decider

_EPOCH_AT: Final = HEADER_SIZE
_TRACKS_AT: Final = _EPOCH_AT + 1
"""Behind an epoch of one byte: their number, then KID, fingerprint and the rest of each, then the end of the array."""
_UNWRAPPED: Final = 0
"""The epoch of a key record that was made to be compared: no KEK has it."""


class Verifier(Decider):
    """Decides as the processors do; derived key records have no keys in them, and which KEK wraps does not count."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._known: dict[tuple[str, int], Keys] = {}

    def _keys(self, event: AssetEvent, root_version: int) -> Keys:
        at = event.organization, root_version
        keys = self._known.get(at)
        if keys is None:
            keys = self._known[at] = super()._keys(event, root_version)
        return keys

    def _made(self, asset: AssetRecord, need: Needed, keys: Keys, given: Mapping[bytes, GivenKey]) -> bytes:
        if given:
            return super()._made(asset, need, keys, given)
        frame, ends = encode(unwrapped(asset, need, (), _UNWRAPPED)), _ends(need.tracks)
        tracks = [kid + fp + end for (kid, fp), end in zip(name_keys(asset, need, keys), ends, strict=True)]
        return b"".join((frame[:_TRACKS_AT], zigzag(len(tracks)), *tracks, frame[_TRACKS_AT:]))


@lru_cache(maxsize=256)
def _ends(tracks: tuple[TrackIdentity, ...]) -> tuple[bytes, ...]:
    """What stands behind KID and fingerprint of each of these tracks: the same in most records."""
    return tuple(map(_end, tracks))


def _end(track: TrackIdentity) -> bytes:
    blank = TrackKey(
        kid=bytes(KID_SIZE),
        fp=bytes(FINGERPRINT_SIZE),
        label=track.label,
        scheme=track.scheme,
        origin=KeyOrigin.DERIVED,
    )
    empty = KeyRecord(
        kek_epoch=_UNWRAPPED, tracks=(), wrapped=b"", organization="", asset="", key_version=0, root_version=0,
        event=LogPosition(generation=0, offset=0),
    )  # fmt: skip
    full = encode(msgspec.structs.replace(empty, tracks=(blank,)))
    return full[_TRACKS_AT + 1 + KID_SIZE + FINGERPRINT_SIZE : _TRACKS_AT - len(encode(empty))]


def same_keys(held: bytes, expected: bytes) -> bool:
    """
    Whether two key records are of the same keys; the wrapping does not count.

    Raises:
        InvalidRecord: *held* cannot be read.
    """
    if held == expected:
        return True
    if (found := peek.key_identity(held)) is not None:
        bare = expected[_EPOCH_AT] == _UNWRAPPED
        if found == (expected[_TRACKS_AT:] if bare else peek.key_identity(expected)):
            return True
    return identity_of(decode(held, KeyRecord)) == identity_of(decode(expected, KeyRecord))
