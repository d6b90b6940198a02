"""How a running connector is getting on: written by its loop, read by whoever asks (/readyz, reports, metrics)."""

import time
from collections.abc import Callable, Mapping
from typing import Final

from keymill import telemetry
from keymill.kafka.positions import Slot
from keymill.kafka.reporting import Observation
from keymill.snapshot.observed import progress_of

LATE_S: Final = 60.0
"""A source's item that waits for so long is late: a relay that hangs has lost its locks by then."""


class Pulse:
    """Each member is replaced whole, so that another thread reads one that was true a moment ago."""

    def __init__(self) -> None:
        self._well_at = time.monotonic()
        self._trouble: str | None = None
        self._begun = False
        self._kept: dict[str, dict[int, int]] = {}
        self._behind = 0
        self._caught_up = True
        self._notice: str | None = None
        self._oldest_s: Callable[[], float] = lambda: 0.0
        telemetry.CONNECT_STALLED.set(0)

    def works(self) -> None:
        """What there was to move was moved."""
        self._well_at, self._trouble, self._begun = time.monotonic(), None, True
        telemetry.CONNECT_STALLED.set(0)

    def hindered(self, reason: str) -> None:
        """It has to try again."""
        self._trouble = reason
        telemetry.CONNECT_STALLED.set(time.monotonic() - self._well_at)

    def kept(
        self, slots: Mapping[str, Mapping[int, Slot]], *, behind: int, caught_up: bool, notice: str | None
    ) -> None:
        """A sink has everything below *slots*; *behind* records come after that. *notice*: what hinders reading."""
        self._kept = {name: {part: slot.offset for part, slot in parts.items()} for name, parts in slots.items()}
        self._behind, self._caught_up, self._notice = behind, caught_up, notice
        telemetry.CONNECT_BEHIND.set(behind)

    def watches(self, oldest_s: Callable[[], float]) -> None:
        """A source has an oldest row that waits, for *oldest_s* seconds; asked from any thread."""
        self._oldest_s = oldest_s
        telemetry.OUTBOX_OLDEST.set_function(oldest_s)

    def reason(self) -> str | None:
        """Why it is not ready; None when it keeps up."""
        if trouble := self._trouble or self._notice:
            return f"it cannot go on and tries again: {trouble}"
        if not self._begun:
            return "the connector is starting"
        if (waited_s := self._oldest_s()) > LATE_S:
            return f"it is late: the oldest row of the outbox has waited for {waited_s:.0f} s"
        return None if self._caught_up else f"it catches up: {self._behind} records are to be kept yet"

    def observe(self, waits_for: str | None) -> Observation:
        """For a report; where a sink stands is told by topic, so that others see how far it is behind."""
        return Observation(waits_for=waits_for, behind=self._behind, progress=progress_of(self._kept))
