"""Crypto periods (CPIX: content key periods): index to interval and back."""

from schemas.records import CryptoPeriod


def period_at(index: int, *, period_s: int, start: int | None) -> CryptoPeriod:
    """The period of that index; [start, end) in epoch ms when the content has a clock (*start* is period 0's begin)."""
    if start is None:
        return CryptoPeriod(index=index)
    length = period_s * 1000
    return CryptoPeriod(index=index, start=start + index * length, end=start + (index + 1) * length)


def index_at(now_ms: int, *, period_s: int, start: int) -> int:
    """The index of the period that holds *now_ms*; negative before the content starts."""
    return (now_ms - start) // (period_s * 1000)


def is_licensable(period: CryptoPeriod, now_ms: int) -> bool:
    """Whether a license given now holds this period's keys: the current period, the next, and all without a clock."""
    if period.start is None or period.end is None:
        return True
    return period.start - (period.end - period.start) <= now_ms < period.end
