"""What the records are made of: their base class, shared enumerations, and the checks of sizes and ranges."""

from enum import StrEnum
from typing import Final

import msgspec

from keymill.errors import InvalidRecord

KID_SIZE: Final = 16
DIGEST_SIZE: Final = 16
FINGERPRINT_SIZE: Final = 16
HASH_SIZE: Final = 32
SALT_SIZES: Final = range(16, 65)
DEFAULT_LABELS: Final = ("SD", "HD", "UHD1", "UHD2", "AUDIO")
"""The labels of an asset whose event names none: what Shaka Packager asks for."""
CLEAR_LABEL: Final = "HLS_AES128"
"""Clear-key HLS: its key is handed out as it is, so it is never the key of a protected track."""
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
    CLEAR_LABEL,
}
"""Every track label: Widevine's five, SPEKE 2's intendedTrackType values, and clear-key HLS."""
TRACK_TYPES: Final = ("SD", "HD", "UHD1", "UHD2")
"""Widevine's video track types, ascending."""
MAX_TRACKS: Final = 64
"""Labels times schemes of one key record: bounds a key record to about 6 KiB of its topic's 64."""
MAX_PERIODS: Final = 1000
"""Crypto periods that one event may ask for; Shaka Packager asks for 10."""
MAX_RECENT: Final = 32
"""Idempotency ids kept per asset (design 2)."""
MAX_INT: Final = 2**31 - 1
"""Avro's int; what is beyond would be written and then refused by every reader."""
MAX_COUNT: Final = 2**53 - 1
"""The largest number that every JSON reader keeps exactly; well inside Avro's long."""
MAX_TIME_MS: Final = 253_402_300_799_999
"""The end of the year 9999: the last time that RFC 3339 can write."""
MAX_TEXT: Final = 512
"""Characters of a name that people read: a policy's, a credential's."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """
    Base of every value that is written down, or passed on whole.

    JSON with a field that nobody knows is refused: mostly a slip. Frozen values cannot form cycles, so the garbage
    collector need not look at them, of which a run makes thousands.
    """


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


class LogPosition(Record, frozen=True, kw_only=True, order=True):
    """A place in an append-only topic. Ordered by generation, then offset; only comparable within one record key."""

    generation: int
    offset: int


def check_size(value: bytes | None, size: int, field: str) -> None:
    """Refuse bytes of another length."""
    if value is not None and len(value) != size:
        raise InvalidRecord(f"{field} must have {size} bytes, not {len(value)}", field=field)


def check_least(value: int | None, least: int, field: str) -> None:
    """Refuse a number below *least*, or beyond Avro's int."""
    check_range(value, least, MAX_INT, field)


def check_range(value: int | None, least: int, most: int, field: str) -> None:
    """Refuse a number outside *least* to *most*, both allowed."""
    if value is not None and not least <= value <= most:
        raise InvalidRecord(f"{field} must be {least} to {most}", field=field)


def check_text(value: str, field: str) -> None:
    """Refuse a name for people that is empty or longer than 512 characters."""
    if not 0 < len(value) <= MAX_TEXT:
        raise InvalidRecord(f"{field} must have 1 to {MAX_TEXT} characters", field=field)


def check_label(label: str, field: str = "tracks.label") -> str:
    """Return a known track label, or several joined by `+` (SPEKE 2), else raise `InvalidRecord`."""
    parts = label.split("+")
    if not set(parts) <= LABELS or len(set(parts)) != len(parts) or ("ALL" in parts and len(parts) > 1):
        known = ", ".join(sorted(LABELS))
        message = f"{field} must be one of {known}, or several of them joined by +"
        raise InvalidRecord(message, field=field)
    return label


def check_labels(labels: tuple[str, ...] | None, field: str) -> None:
    """Refuse more than 64 labels, or an unknown one."""
    if labels is not None and len(labels) > MAX_TRACKS:
        raise InvalidRecord(f"{field} must name at most {MAX_TRACKS}", field=field)
    for label in labels or ():
        check_label(label, field)


def check_salt(salt: bytes | None) -> None:
    """Refuse a salt shorter than 16 or longer than 64 bytes."""
    if salt is not None and len(salt) not in SALT_SIZES:
        raise InvalidRecord("salt must have 16 to 64 bytes", field="salt")


def check_window(start: int | None, end: int | None) -> None:
    """Refuse an availability window (epoch ms) that is negative or ends before it starts."""
    check_range(start, 0, MAX_TIME_MS, "available_from")
    check_range(end, 0, MAX_TIME_MS, "available_until")
    if start is not None and end is not None and end <= start:
        raise InvalidRecord("available_until must be after available_from", field="available_until")
