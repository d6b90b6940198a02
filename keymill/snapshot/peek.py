"""
What a bulk load must know of a record, without decoding it: an exact match of its usual shape, or nothing.

Decoding costs 15 to 25 µs a record, these matches 1 to 3 µs. A match means that `schemas.codec.decode` would take the
value, and gives the same fields; what is rarer than the shapes here is decoded (tests/unit/test_peek.py compares).
"""

import re
from typing import Final, NamedTuple

from schemas.codec import schema_of
from schemas.records import AssetRecord, KeyRecord
from schemas.values import LABELS

_USUAL_TRACKS: Final = range(1, 9)
_USUAL_EVENTS: Final = range(1, 5)
_USUAL_TEXT: Final = 64

# Avro writes numbers zigzag in 7-bit groups; the last byte is below 0x80. Four groups fit an int, eight a long.
_INT: Final = rb"[\x80-\xff]{0,3}+[\x00-\x7f]"
_LONG: Final = rb"[\x80-\xff]{0,7}+[\x00-\x7f]"
_POSITION: Final = _INT + _LONG
_BOOLEAN: Final = rb"[\x00\x01]"
_SCHEME: Final = rb"[\x00\x02\x04\x06]"


def _size(count: int) -> bytes:
    """A length or count as Avro writes it."""
    zigzag, out = count << 1, bytearray()
    while zigzag > 0x7F:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    return bytes([*out, zigzag])


def _text(value: bytes) -> bytes:
    return _size(len(value)) + value


def _one_of(*patterns: bytes) -> bytes:
    return b"(?:" + b"|".join(patterns) + b")"


def _optional(pattern: bytes) -> bytes:
    return _one_of(rb"\x00", rb"\x02" + pattern)


def _array(item: bytes, counts: range) -> bytes:
    return _one_of(*(re.escape(_size(count)) + b"(?:" + item + b"){%d}" % count + rb"\x00" for count in counts))


_LABEL: Final = _one_of(*(re.escape(_text(label.encode())) for label in sorted(LABELS)))
_TEXT: Final = _one_of(*(re.escape(_size(n)) + rb"[\x00-\x7f]{%d}" % n for n in range(_USUAL_TEXT)))
_TRACK_KEY: Final = rb".{32}" + _LABEL + _SCHEME + rb"[\x00\x02\x04]"
_TRACK: Final = _LABEL + _SCHEME + _BOOLEAN + _optional(rb".{16}")
_KEY_SET: Final = rb".{16}" + _POSITION + _array(_TRACK, _USUAL_TRACKS)
_VERSION: Final = (
    _INT
    + _INT
    + rb"\x00"
    + _BOOLEAN
    + _array(_SCHEME, range(1, 5))
    + _POSITION
    + _array(_KEY_SET, range(1, 3))
    + rb"\x00"
)
_EVENT: Final = _TEXT + rb".{32}" + _POSITION + _LONG

_KEY_HEAD: Final = re.compile(
    re.escape(schema_of(KeyRecord).header) + _INT + b"(" + _array(_TRACK_KEY, _USUAL_TRACKS) + b")", re.DOTALL
)
_KEY_TAIL: Final = re.compile(
    _INT + _INT + _optional(_LONG + _optional(_LONG) + _optional(_LONG)) + _POSITION + rb"\Z", re.DOTALL
)
_ONE_TRACK: Final = re.compile(rb"(.{16})(.{16})" + _LABEL + rb"..", re.DOTALL)
_ASSET_TAIL: Final = re.compile(
    rb"[\x00\x02](" + _INT + b")(" + _LONG + b")"  # state, applied
    + _LONG + _optional(_TEXT) + _optional(_LONG) + _optional(_LONG)  # policy, product, availability
    + b"(" + _array(_VERSION, range(1, 4)) + b")"
    + _one_of(rb"\x00", _array(_EVENT, _USUAL_EVENTS)) + rb"\Z",
    re.DOTALL,
)  # fmt: skip
_ASSET_HEADER: Final = schema_of(AssetRecord).header


class AssetPeek(NamedTuple):
    """`applied`, and the versions' bytes: equal bytes are equal versions."""

    applied: tuple[int, int]
    versions: bytes


def key_tracks(value: bytes, organization: bytes, asset: bytes) -> list[tuple[bytes, bytes]] | None:
    """The (KID, fingerprint) pairs of a usual key record of that asset, in order; None for anything else."""
    head = _KEY_HEAD.match(value)
    if head is None:
        return None
    start, at = head.span(1)
    size, at = _read_size(value, head.end())
    at += size
    names = _text(organization) + _text(asset)
    if not value.startswith(names, at) or not _KEY_TAIL.match(value, at + len(names)):
        return None
    return _ONE_TRACK.findall(value, start + 1, head.end() - 1)


def asset_peek(value: bytes, organization: bytes, asset: bytes) -> AssetPeek | None:
    """What decides about a usual record of that asset; None for anything else."""
    names = _ASSET_HEADER + _text(organization) + _text(asset)
    if not value.startswith(names):
        return None
    found = _ASSET_TAIL.match(value, len(names))
    if found is None:
        return None
    generation, offset, versions = found.groups()
    return AssetPeek((_number(generation), _number(offset)), versions)


def _read_size(value: bytes, at: int) -> tuple[int, int]:
    """A length at *at* and where it ends; past the end for what is no length, or one of more than two bytes (8 KiB)."""
    first, second = value[at : at + 2].ljust(2, b"\x80")
    if first & 1 or (first > 0x7F and second > 0x7F):
        return 0, len(value)
    return (first >> 1, at + 1) if first < 0x80 else ((first & 0x7F | second << 7) >> 1, at + 2)


def _number(groups: bytes) -> int:
    zigzag = 0
    for place, group in enumerate(groups):
        zigzag |= (group & 0x7F) << (7 * place)
    return zigzag >> 1 ^ -(zigzag & 1)
