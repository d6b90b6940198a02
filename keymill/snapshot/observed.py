"""What a program with a view reports of it."""

import math
from collections.abc import Mapping
from typing import Final

from keymill.errors import KeymillError
from keymill.kafka.reporting import Observation
from keymill.snapshot.reader import SnapshotReader
from keymill.snapshot.state import ViewState
from schemas.operations import KekEpochs, PartitionPosition, TopicProgress

UNKNOWN_MS: Final = 2**53
"""The staleness of a view that never heard from the brokers."""
Positions = Mapping[str, Mapping[int, int]]


class Observed:
    """Looks at a view for a `Reporter`, with a reader of its own: the program's belongs to the program's thread."""

    def __init__(self, reader: SnapshotReader) -> None:
        self._reader = reader
        self._open = False

    def look(self, waits_for: str | None, keks: tuple[KekEpochs, ...]) -> Observation:
        """The view as it is now; while there is none, that is what it waits for."""
        try:
            state = self._state()
        except KeymillError as error:
            self.close()  # a view that was made anew is opened anew by the next look
            return Observation(waits_for=waits_for or str(error), staleness_ms=UNKNOWN_MS, keks=keks)
        return Observation(
            waits_for=waits_for,
            behind=state.behind,
            staleness_ms=int(state.staleness_s * 1000) if math.isfinite(state.staleness_s) else UNKNOWN_MS,
            progress=progress_of(state.positions),
            keks=keks,
        )

    def _state(self) -> ViewState:
        if not self._open:
            self._reader.open(wait_s=0.0)
            self._open = True
        return self._reader.state()

    def close(self) -> None:
        """Let go; no look may be under way."""
        self._reader.close()
        self._open = False


def progress_of(positions: Positions) -> tuple[TopicProgress, ...]:
    """Positions as a report has them, ascending."""
    return tuple(
        TopicProgress(
            topic=topic,
            positions=tuple(PartitionPosition(partition=number, position=at) for number, at in sorted(places.items())),
        )
        for topic, places in sorted(positions.items())
    )
