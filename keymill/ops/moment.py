"""Moments as options name them, and as commands print them."""

import re
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from keymill.errors import InvalidRecord

_UNIT_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_AGO: Final = re.compile(r"([0-9]{1,6})([smhd])")
_EPOCH_MS: Final = re.compile(r"0|[0-9]{9,18}")
"""Eight digits are a date, as 20260131, and fewer a span without its unit."""
FORMS: Final = "90s, 15m, 24h or 7d ago, a time as 2026-01-31T12:00:00Z (UTC where it names no zone), or epoch ms"
"""What every option that names a moment takes, as its help says it."""
Since = Annotated[str | None, typer.Option("--since", help=f"from when on: {FORMS}")]


def epoch_ms_of(text: str, now_ms: int, field: str = "since") -> int:
    """
    The moment, epoch ms, that *text* names: so long before now, an RFC 3339 time, or itself.

    Args:
        field: the option that the text was given to.

    Raises:
        InvalidRecord: it is none of them.
    """
    if ago := _AGO.fullmatch(text):
        return max(0, now_ms - int(ago[1]) * _UNIT_MS[ago[2]])
    if _EPOCH_MS.fullmatch(text):
        return int(text)
    try:
        named = datetime.fromisoformat(text)
        return max(0, round((named if named.tzinfo else named.replace(tzinfo=UTC)).timestamp() * 1000))
    except (ValueError, OverflowError):
        raise InvalidRecord(f"{text[:64]!r} is no moment: give {FORMS}", field=field) from None


def shown(epoch_ms: int) -> str:
    """A moment in UTC with milliseconds; its number where it is no time that a calendar has."""
    try:
        at = datetime.fromtimestamp(epoch_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return str(epoch_ms)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
