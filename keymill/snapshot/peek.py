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
_KEY_BYTES: Final = 32
"""A CEK and an IV in `wrapped`, beside the 16 bytes of AES-SIV's tag."""

# Avro writes numbers zigzag in 7-bit groups; the last byte is below 0x80. Four groups fit an int, eight a long.
_INT: Final = rb"[\x80-\xff]{0,3}+[\x00-\x7f]"
_LONG: Final = rb"[\x80-\xff]{0,7}+[\x00-\x7f]"
_POSITION: Final = _INT + _LONG
_BOOLEAN: Final = rb"[\x00\x01]"
_MORE: Final = 0x80
"""Set in every group of a number but its last."""
_NO_SIZE: Final = _MORE | 1
"""Bits that no usual size or generation has: it is negative, or does not end."""
_LONG_BITS: Final = 64
_SCHEME: Final = rb"[\x00\x02\x04\x06]"


def _size(count: int) -> bytes:
    """A length or count as Avro writes it."""
    zigzag, out = count << 1, bytearray()
    while zigzag > 0x7F:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    return bytes([*out, zigzag])


_SIZES: Final = tuple(_size(count) for count in range(1024))


def text(value: bytes) -> bytes:
    """A string of less than 1 KiB as Avro writes it."""
    return _SIZES[len(value)] + value


def _one_of(*patterns: bytes) -> bytes:
    return b"(?:" + b"|".join(patterns) + b")"


def _optional(pattern: bytes) -> bytes:
    return _one_of(rb"\x00", rb"\x02" + pattern)


def _array(item: bytes, counts: range) -> bytes:
    return _one_of(*(re.escape(_size(count)) + b"(?:" + item + b"){%d}" % count + rb"\x00" for count in counts))


_LABEL: Final = _one_of(*(re.escape(text(label.encode())) for label in sorted(LABELS)))
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

_WRAPPED: Final = _one_of(
    *(re.escape(_size(16 + _KEY_BYTES * n)) + b".{%d}" % (16 + _KEY_BYTES * n) for n in _USUAL_TRACKS)
)
_KEY_HEAD: Final = re.compile(
    re.escape(schema_of(KeyRecord).header) + _INT + b"(" + _array(_TRACK_KEY, _USUAL_TRACKS) + b")" + _WRAPPED,
    re.DOTALL,
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
_HEADER_SIZE: Final = len(_ASSET_HEADER)


class AssetPeek(NamedTuple):
    """`applied`, and the versions' bytes: equal bytes are equal versions."""

    applied: tuple[int, int]
    versions: bytes


def key_tracks(value: bytes, names: bytes) -> list[tuple[bytes, bytes]] | None:
    """
    The (KID, fingerprint) pairs of a usual key record, in order; None for anything else.

    Args:
        names: organization and asset of its record key, each as `text`; a record of another asset is None too.
    """
    head = _KEY_HEAD.match(value)
    if head is None:
        return None
    at = head.end()
    if not value.startswith(names, at) or not _KEY_TAIL.match(value, at + len(names)):
        return None
    start, end = head.span(1)
    return _ONE_TRACK.findall(value, start + 1, end - 1)


def key_identity(value: bytes) -> bytes | None:
    """
    A usual key record's bytes without epoch and wrapped keys, for comparison; None for anything else.

    Equal ones are of the same tracks, identity and event, names included.
    """
    head = _KEY_HEAD.match(value)
    if head is None:
        return None
    return head.group(1) + b"\x00" + value[head.end() :]


def is_usual_asset(value: bytes, names: bytes) -> bool:
    """Whether it is a usual record of that asset; *names* as for `key_tracks`."""
    return value.startswith(_ASSET_HEADER + names) and bool(_ASSET_TAIL.match(value, _HEADER_SIZE + len(names)))


def asset_peek(value: bytes, names: bytes) -> AssetPeek | None:
    """What decides about a usual record of that asset; None for anything else."""
    start = _ASSET_HEADER + names
    found = _ASSET_TAIL.match(value, len(start)) if value.startswith(start) else None
    if found is None:
        return None
    generation, offset, versions = found.groups()
    return AssetPeek((_number(generation), _number(offset)), versions)


def applied(value: bytes) -> tuple[int, int] | None:
    """`applied` of an asset record of which no more is read than that; None where it does not begin as usual."""
    if not value.startswith(_ASSET_HEADER):
        return None
    try:
        asset_at = _HEADER_SIZE + 1 + (value[_HEADER_SIZE] >> 1)
        at = asset_at + 2 + (value[asset_at] >> 1)
        generation = value[at]
        if (value[_HEADER_SIZE] | value[asset_at] | generation) & _NO_SIZE:
            return None
        zigzag = shift = 0
        while (group := value[at := at + 1]) >= _MORE:
            zigzag |= (group ^ _MORE) << shift
            shift += 7
        zigzag |= group << shift
    except IndexError:
        return None
    return None if zigzag & 1 or zigzag >> _LONG_BITS else (generation >> 1, zigzag >> 1)


def _number(groups: bytes) -> int:
    zigzag = 0
    for group in reversed(groups):
        zigzag = zigzag << 7 | group & 0x7F
    return zigzag >> 1 ^ -(zigzag & 1)
