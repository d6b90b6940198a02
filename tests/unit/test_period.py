"""Crypto periods: index to interval and back."""

from hypothesis import given
from hypothesis import strategies as st

from keymill.core.period import index_at, is_licensable, period_at
from schemas.records import CryptoPeriod

LENGTHS = st.integers(1, 86_400)
INDICES = st.integers(0, 10**6)
STARTS = st.integers(0, 4_000_000_000_000)


@given(index=INDICES, period_s=LENGTHS, start=STARTS)
def test_a_period_holds_its_own_times(index, period_s, start):
    """Start inclusive, end exclusive, and the next one begins where it ends."""
    period = period_at(index, period_s=period_s, start=start)
    assert index_at(period.start, period_s=period_s, start=start) == index
    assert index_at(period.end - 1, period_s=period_s, start=start) == index
    assert index_at(period.end, period_s=period_s, start=start) == index + 1
    assert period_at(index + 1, period_s=period_s, start=start).start == period.end


@given(now=STARTS, period_s=LENGTHS, start=STARTS)
def test_exactly_the_current_and_the_next_period_are_licensable(now, period_s, start):
    """So that a player can fetch the next keys before it needs them, and no further ones."""
    current = index_at(now, period_s=period_s, start=start)
    licensable = [
        index
        for index in range(current - 3, current + 4)
        if is_licensable(period_at(index, period_s=period_s, start=start), now)
    ]
    assert licensable == [current, current + 1]


def test_periods_without_a_clock_are_always_licensable():
    """Their index means nothing to a clock, so nothing can be withheld."""
    period = period_at(7, period_s=10, start=None)
    assert period == CryptoPeriod(index=7)
    assert is_licensable(period, 0)
