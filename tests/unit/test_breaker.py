"""The circuit breaker: when a license server is asked, whatever its answers and their order."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keymill.proxy.upstream import breaker as circuit
from keymill.proxy.upstream.breaker import CLOSED, FAILURES, PAUSES_S, Breaker

PROBE_S = 5.0


def failing(breaker: Breaker, times: int, now_s: float = 0.0) -> Breaker:
    """So many requests, one after the other, that had no answer."""
    for _ in range(times):
        breaker, era = circuit.admit(breaker, now_s, PROBE_S)
        assert era is not None
        breaker = circuit.failed(breaker, era, now_s)
    return breaker


def test_a_few_failures_change_nothing() -> None:
    """Everybody is admitted, and one answer makes all forgotten."""
    held = failing(CLOSED, FAILURES - 1)
    assert held.closed
    assert CLOSED == circuit.answered(held, held.era)
    assert failing(circuit.answered(held, held.era), FAILURES - 1).closed


def test_failures_in_a_row_open_it() -> None:
    """Nobody is admitted for the first pause, then exactly one."""
    held = failing(CLOSED, FAILURES, now_s=100.0)
    assert (held, None) == circuit.admit(held, 100.0 + PAUSES_S[0] - 0.001, PROBE_S)
    probing, era = circuit.admit(held, 100.0 + PAUSES_S[0], PROBE_S)
    assert era is not None
    assert (probing, None) == circuit.admit(probing, 100.0 + PAUSES_S[0], PROBE_S)


def test_a_probe_that_is_answered_closes_it() -> None:
    """And the next time it opens, the pause is the first one again."""
    held = failing(CLOSED, FAILURES)
    probing, era = circuit.admit(held, 10.0, PROBE_S)
    assert era is not None
    closed = circuit.answered(probing, era)
    assert closed.closed
    assert 10.0 + PAUSES_S[0] == failing(closed, FAILURES, now_s=10.0).held_until


def test_a_probe_that_fails_opens_it_for_longer() -> None:
    """Up to the last pause, at which it stays."""
    held, now_s = failing(CLOSED, FAILURES), 0.0
    for pause_s in (*PAUSES_S[1:], PAUSES_S[-1], PAUSES_S[-1]):
        assert held.held_until is not None
        now_s = held.held_until
        held = failing(held, 1, now_s)
        assert now_s + pause_s == held.held_until


def test_a_probe_that_is_never_heard_of_is_followed_by_another() -> None:
    """Its player may have gone, and the request with it."""
    held = failing(CLOSED, FAILURES)
    probing, _ = circuit.admit(held, 10.0, PROBE_S)
    assert circuit.admit(probing, 10.0 + PROBE_S - 0.001, PROBE_S)[1] is None
    assert circuit.admit(probing, 10.0 + PROBE_S, PROBE_S)[1] is not None


def test_what_was_asked_before_says_nothing_about_what_is_now() -> None:
    """Sixty slow requests that end together open it once, and a late answer does not close it."""
    held = failing(CLOSED, FAILURES)
    assert held == circuit.failed(held, CLOSED.era, 0.5) == circuit.answered(held, CLOSED.era)


class BreakerMachine(RuleBasedStateMachine):
    """Requests that begin, end or are lost in any order, while time passes; a model that only counts watches."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = CLOSED
        self.now_s = 0.0
        self.in_flight: list[int] = []
        self.row = 0
        self.opened_at: float | None = None
        self.probes: list[float] = []

    @initialize(now_s=st.floats(0, 1e6))
    def begin(self, now_s: float) -> None:
        """Clocks start anywhere."""
        self.now_s = now_s

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now_s += seconds

    @rule()
    def ask(self) -> None:
        """A request: admitted while closed; while open, once a pause."""
        before = self.breaker
        self.breaker, era = circuit.admit(before, self.now_s, PROBE_S)
        assert before.closed == (self.opened_at is None)
        if before.closed:
            assert era == before.era
        elif era is not None:
            assert self.opened_at is not None and self.now_s - self.opened_at >= PAUSES_S[0]
            assert all(self.now_s - probe >= min(PROBE_S, PAUSES_S[0]) for probe in self.probes[-1:])
            self.probes.append(self.now_s)
        if era is not None:
            self.in_flight.append(era)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), well=st.booleans())
    def end(self, data: st.DataObject, well: bool) -> None:
        """Any of the requests in flight is answered, or is not."""
        era = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        counts, before = era == self.breaker.era, self.breaker
        self.breaker = circuit.answered(before, era) if well else circuit.failed(before, era, self.now_s)
        if not counts:
            assert before == self.breaker
        elif well:
            self.row, self.opened_at = 0, None
        else:
            self.row += 1
            if self.row >= FAILURES or not before.closed:
                self.row, self.opened_at = 0, self.now_s

    @precondition(lambda self: self.in_flight)
    @rule()
    def lose(self) -> None:
        """A request ends without a word: its player went away."""
        self.in_flight.pop()

    @invariant()
    def it_stays_small(self) -> None:
        """Whatever happens."""
        assert 0 <= self.breaker.failures < FAILURES
        assert 0 <= self.breaker.opened <= len(PAUSES_S)
        assert self.breaker.closed == (self.opened_at is None)

    @invariant()
    def it_never_holds_back_for_ever(self) -> None:
        """After the longest pause, or a probe's time, somebody is admitted."""
        later_s = self.now_s + max(PROBE_S, *PAUSES_S)
        assert circuit.admit(self.breaker, later_s, PROBE_S)[1] is not None


TestBreaker = BreakerMachine.TestCase
