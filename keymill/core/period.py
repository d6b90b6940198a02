"""Crypto periods (CPIX: content key periods): index to interval and back."""

from collections.abc import Sequence
from typing import Final

import msgspec

from keymill.errors import Reject
from schemas.events import PeriodRange
from schemas.records import CryptoPeriod, LivePeriods, PeriodSpan
from schemas.values import MAX_PERIODS

MAX_SPANS: Final = 32
"""Jumps of its clock that a key version takes: they bound the asset record, to 600 bytes a version."""


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


def spans(live: LivePeriods) -> list[range]:
    """Return the indexes of all periods of a version as disjoint spans, the one that was asked for last at the end."""
    every = [*live.earlier, PeriodSpan(from_index=live.from_index, through_index=live.through_index)]
    return [range(each.from_index, each.through_index + 1) for each in every]


def with_periods(live: LivePeriods, wanted: PeriodRange) -> LivePeriods:
    """
    Return the periods with those that an event asks for.

    They widen the span that they touch, or that is not further than `MAX_PERIODS` away; beyond that the content's
    clock has jumped (off air, a counter that wrapped) and a new span begins. Spans that meet become one.

    Raises:
        Reject: the clock has jumped more often than a version can tell.
    """
    asked, held = range(wanted.first_index, wanted.first_index + wanted.count), spans(live)
    if any(asked[0] in span and asked[-1] in span for span in held):
        return live
    widened = _widened(held, asked)
    if len(widened) > MAX_SPANS + 1:
        message = (
            f"the clock of these periods has jumped {MAX_SPANS} times: send the next key_version, which begins anew"
            " (POST .../rotate does so for an encoder that cannot)"
        )
        raise Reject(message, field="periods.first_index", code="period_gap")
    *earlier, (first, last) = [(span[0], span[-1]) for span in widened]
    left = tuple(PeriodSpan(from_index=start, through_index=end) for start, end in earlier)
    return msgspec.structs.replace(live, from_index=first, through_index=last, earlier=left)


def _widened(held: Sequence[range], asked: range) -> list[range]:
    """Join what is asked for to the latest span that is near it, then to all that it now meets."""
    near = next((span for span in reversed(held) if _apart(span, asked) <= MAX_PERIODS), asked)
    joined = range(min(near.start, asked.start), max(near.stop, asked.stop))
    apart = [span for span in held if _apart(span, joined) > 1]
    met = [span for span in held if _apart(span, joined) <= 1]
    start, stop = min(each.start for each in (joined, *met)), max(each.stop for each in (joined, *met))
    return [*apart, range(start, stop)]


def _apart(one: range, other: range) -> int:
    """Return how far the nearest indexes of two spans are from each other; 0 or less if they share one."""
    return max(other.start - (one.stop - 1), one.start - (other.stop - 1))
