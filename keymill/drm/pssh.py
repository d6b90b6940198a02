"""
PSSH boxes, both directions.

    size (4) 'pssh' version (1) flags (3) system id (16) [KID count (4) KIDs (16 each), version 1] data size (4) data

All numbers are big-endian. Source: ISO/IEC 23001-7, 8.1; W3C "cenc" Initialization Data Format.
"""

import struct
from typing import Final

from keymill.drm import systems
from keymill.errors import InvalidRecord
from schemas.values import KID_SIZE, Record

_HEADER: Final = struct.Struct(">I4sB3x16s")
_COUNT: Final = struct.Struct(">I")
MAX_SIZE: Final = 1_048_576
"""Bytes; real boxes have hundreds. Bounds what a reader is made to look at."""


class Pssh(Record, frozen=True, kw_only=True):
    """One box. With KIDs it is of version 1; a version 1 box without KIDs is written as version 0."""

    system_id: bytes
    kids: tuple[bytes, ...] = ()
    data: bytes = b""


def build(box: Pssh) -> bytes:
    """The bytes of a box."""
    body = b"".join((_COUNT.pack(len(box.kids)), *box.kids)) if box.kids else b""
    body += _COUNT.pack(len(box.data)) + box.data
    return _HEADER.pack(_HEADER.size + len(body), b"pssh", 1 if box.kids else 0, box.system_id) + body


def common(kids: tuple[bytes, ...]) -> bytes:
    """The box that makes media playable with ClearKey: the common system, version 1."""
    return build(Pssh(system_id=systems.COMMON, kids=kids))


def parse(data: bytes) -> tuple[Pssh, ...]:
    """
    The boxes in *data*, which may be several in a row, as initialization data is.

    Raises:
        InvalidRecord: sizes that do not fit, another box type, an unknown version, bytes left over.
    """
    if len(data) > MAX_SIZE:
        raise _broken(f"has {len(data)} bytes, at most {MAX_SIZE} are read")
    boxes = []
    while data:
        size = _COUNT.unpack_from(data)[0] if len(data) >= _COUNT.size else 0
        if not _HEADER.size <= size <= len(data):
            raise _broken("has a size that does not fit")
        boxes.append(_box(data[:size]))
        data = data[size:]
    return tuple(boxes)


def _box(data: bytes) -> Pssh:
    _, kind, version, system_id = _HEADER.unpack_from(data)
    if kind != b"pssh" or version > 1:
        raise _broken("is no pssh box of version 0 or 1")
    rest = data[_HEADER.size :]
    kids: tuple[bytes, ...] = ()
    if version == 1:
        listed, rest = _counted(rest, KID_SIZE)
        kids = tuple(listed[at : at + KID_SIZE] for at in range(0, len(listed), KID_SIZE))
    payload, rest = _counted(rest, 1)
    if rest:
        raise _broken(f"has {len(rest)} bytes after its data")
    return Pssh(system_id=system_id, kids=kids, data=payload)


def _counted(data: bytes, unit: int) -> tuple[bytes, bytes]:
    """Split off a counted list of *unit*-sized entries."""
    if len(data) < _COUNT.size:
        raise _broken("ends before a count")
    end = _COUNT.size + _COUNT.unpack_from(data)[0] * unit
    if end > len(data):
        raise _broken("counts more than it holds")
    return data[_COUNT.size : end], data[end:]


def _broken(what: str) -> InvalidRecord:
    return InvalidRecord(f"pssh {what}", field="pssh")
