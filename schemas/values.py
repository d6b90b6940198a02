"""What the records are made of: their base class, shared enumerations, and the checks of sizes and ranges."""

from enum import StrEnum
from typing import Final

import msgspec

from keymill.errors import InvalidRecord

KID_SIZE: Final = 16
DIGEST_SIZE: Final = 16
FINGERPRINT_SIZE: Final = 16
SALT_SIZES: Final = range(16, 65)
DEFAULT_LABELS: Final = ("SD", "HD", "UHD1", "UHD2", "AUDIO")
"""The labels of an asset whose event names none: what Shaka Packager asks for."""
LABELS: Final = frozenset(DEFAULT_LABELS) | {
    "ALL",
    "VIDEO",
    "HD1",
    "HD2",
    "UHD",
    "STEREO_AUDIO",
    "MULTICHANNEL_AUDIO",
    "MULTICHANNEL_AUDIO_3_6",
    "MULTICHANNEL_AUDIO_7",
    "HLS_AES128",
}
"""Every track label: Widevine's five, SPEKE 2's intendedTrackType values, and clear-key HLS."""
MAX_TRACKS: Final = 64
"""Labels times schemes of one key record: bounds a key record to about 6 KiB of its topic's 64."""
MAX_PERIODS: Final = 1000
"""Crypto periods that one event may ask for; Shaka Packager asks for 10."""
MAX_RECENT: Final = 32
"""Idempotency ids kept per asset (design 2)."""

class Record(msgspec.Struct, frozen=True):
    """Base of every value that is written down."""


class Scheme(StrEnum):
    """Protection scheme of ISO/IEC 23001-7."""

    CBCS = "cbcs"
    CENC = "cenc"
    CENS = "cens"
    CBC1 = "cbc1"


class DrmSystem(StrEnum):
    """A license server's kind."""

    CLEARKEY = "clearkey"
    WIDEVINE = "widevine"
    PLAYREADY = "playready"
    FAIRPLAY = "fairplay"


class LogPosition(Record, kw_only=True, order=True):
    """A place in an append-only topic. Ordered by generation, then offset; only comparable within one record key."""

    generation: int
    offset: int


def check_size(value: bytes | None, size: int, field: str) -> None:
    """Refuse bytes of another length."""
    if value is not None and len(value) != size:
        raise InvalidRecord(f"{field} must have {size} bytes, not {len(value)}", field=field)


def check_least(value: int | None, least: int, field: str) -> None:
    """Refuse a number below *least*."""
    if value is not None and value < least:
        raise InvalidRecord(f"{field} must be {least} or more, not {value}", field=field)


def check_label(label: str, field: str = "tracks.label") -> str:
    """Return a known track label, or several joined by `+` (SPEKE 2), else raise `InvalidRecord`."""
    parts = label.split("+")
    if not set(parts) <= LABELS or len(set(parts)) != len(parts) or ("ALL" in parts and len(parts) > 1):
        known = ", ".join(sorted(LABELS))
        raise InvalidRecord(f"{field} {label[:64]!r} is not one of {known}, nor several of them joined by +", field=field)
    return label


def check_salt(salt: bytes | None) -> None:
    """Refuse a salt shorter than 16 or longer than 64 bytes."""
    if salt is not None and len(salt) not in SALT_SIZES:
        raise InvalidRecord("salt must have 16 to 64 bytes", field="salt")


def check_window(start: int | None, end: int | None) -> None:
    """Refuse an availability window (epoch ms) that is negative or ends before it starts."""
    check_least(start, 0, "available_from")
    check_least(end, 0, "available_until")
    if start is not None and end is not None and end <= start:
        raise InvalidRecord("available_until must be after available_from", field="available_until")
