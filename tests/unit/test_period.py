"""Crypto periods: index to interval and back."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from keymill.core.period import MAX_SPANS, index_at, is_licensable, period_at, spans, with_periods
from keymill.errors import Reject
from schemas.events import PeriodRange
from schemas.records import CryptoPeriod, LivePeriods
from schemas.values import MAX_PERIODS, LogPosition

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


ASKED = st.lists(
    st.tuples(st.sampled_from((0, 900, 1_005, 4_000, 29_934_953)), st.integers(0, 2_100), st.integers(1, 12)),
    min_size=1,
    max_size=60,
)


@given(asked=ASKED)
def test_every_period_that_was_asked_for_stays(asked):
    """Whatever jumps: spans stay apart and few, hold all that was asked for, and fill no gap above the bound."""
    live, wanted = None, set()
    for base, offset, count in asked:
        request = PeriodRange(first_index=base + offset, count=count, period_s=60)
        indexes = range(request.first_index, request.first_index + count)
        if live is None:
            live = LivePeriods(
                period_s=60, from_index=indexes[0], through_index=indexes[-1],
                at=LogPosition(generation=0, offset=0), tracks=(),
            )  # fmt: skip
        else:
            before = live
            try:
                live = with_periods(live, request)
            except Reject:
                assert len(spans(live)) == MAX_SPANS + 1
                continue
            assert live is before or indexes[0] in spans(live)[-1]
            assert with_periods(live, request) is live
        wanted.update(indexes)
    held = sorted(spans(live), key=lambda span: span.start)
    assert all(one.stop < other.start for one, other in pairwise(held))
    assert wanted <= {index for span in held for index in span}
    for span in held:
        there = [index for index in sorted(wanted) if index in span]
        assert (there[0], there[-1]) == (span[0], span[-1])
        assert all(after - before <= MAX_PERIODS for before, after in pairwise(there))
