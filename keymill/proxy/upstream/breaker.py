"""
A circuit breaker as a value: whether a license server is asked, decided from its last answers.

Closed, it is asked. After `FAILURES` failures in a row it opens: nobody asks for a while, so that players hear at once
what they would have waited a deadline for. Then one request probes; its success closes, its failure opens for longer.
What was asked before a change of state says nothing about the state after it.
"""

from typing import Final

from schemas.values import Record

FAILURES: Final = 5
"""In a row; a single lost connection or slow answer happens to every server."""
PAUSES_S: Final = (1.0, 2.0, 5.0, 10.0)
"""How long it stays open, the first time and each time a probe fails; the last one for all that follow."""
_ERAS: Final = 2**32


class Breaker(Record, frozen=True, kw_only=True):
    """
    The state of one license server. Times are monotonic seconds of the caller.

    Args:
        failures: in a row, while closed.
        held_until: before this moment nobody is admitted; None is closed, thus everybody.
        opened: how many times in a row it opened, at most the number of pauses.
        era: of the current state; answers of another era are not counted.
    """

    failures: int = 0
    held_until: float | None = None
    opened: int = 0
    era: int = 0

    @property
    def closed(self) -> bool:
        """Whether everybody is admitted."""
        return self.held_until is None


CLOSED: Final = Breaker()


def admit(breaker: Breaker, now_s: float, probe_s: float) -> tuple[Breaker, int | None]:
    """
    The next state, and the era of the request if it may be sent; None if not.

    Args:
        probe_s: after so long nothing more will be heard of a probe, and another one may go.
    """
    if breaker.held_until is None:
        return breaker, breaker.era
    if now_s < breaker.held_until:
        return breaker, None
    probing = Breaker(held_until=now_s + probe_s, opened=breaker.opened, era=_next(breaker.era))
    return probing, probing.era


def answered(breaker: Breaker, era: int) -> Breaker:
    """The server answered a request of that era, with a license or a refusal."""
    return Breaker(era=era) if era == breaker.era else breaker


def failed(breaker: Breaker, era: int, now_s: float) -> Breaker:
    """A request of that era had no answer."""
    if era != breaker.era:
        return breaker
    failures = breaker.failures + 1
    if breaker.closed and failures < FAILURES:
        return Breaker(failures=failures, era=era)
    pause_s = PAUSES_S[min(breaker.opened, len(PAUSES_S) - 1)]
    return Breaker(held_until=now_s + pause_s, opened=min(breaker.opened + 1, len(PAUSES_S)), era=_next(era))


def _next(era: int) -> int:
    return (era + 1) % _ERAS
