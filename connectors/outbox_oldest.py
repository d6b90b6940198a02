"""
For how long the oldest row of an outbox has waited, as its relay sees it.

Told from what the relay reads anyway: the rows that it locked and those that another has under way. Only where it can
take nothing does it look at the first row that waits, through the index of its own query and past all locks.
"""

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Final, NamedTuple

from connectors.contract import Name

LOOK_S: Final = 1.0
"""Between two looks of a relay that can take nothing: it asks ten times a second whether it can."""


class WaitingRow(NamedTuple):
    """A row that waits; `created` is the column as text."""

    id: Name
    created: str


class OldestRow:
    """
    The waiting row of the lowest id; it has waited since `created`, by this machine's clock.

    Where `created` is null, no time or yet to come, it has waited since it was first seen here. The relay's loop says
    what it sees, any thread may ask.
    """

    def __init__(self) -> None:
        self._seen: dict[Name, tuple[str, float]] = {}
        self._since: float | None = None
        self._looked = -LOOK_S

    def saw(self, rows: Iterable[WaitingRow]) -> None:
        """These wait, ours among them, and none of a lower id."""
        now = time.monotonic()
        self._seen = {row.id: (row.created, self._seen.get(row.id, ("", now))[1]) for row in rows}
        self._tell()

    def took_none(self, look: Callable[[], Iterable[WaitingRow]]) -> None:
        """Nothing could be taken; *look*, which finds the first row that waits, is called once in `LOOK_S` at most."""
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self._looked = now
            self.saw(look())
        else:
            self._tell()

    def done(self, ids: Iterable[Name]) -> None:
        """These wait no more; which one is the oldest now, the next read tells: a backlog has no moment without one."""
        for number in ids:
            self._seen.pop(number, None)

    def age_s(self) -> float:
        """Seconds, as of the last read; 0 when none waited."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def _tell(self) -> None:
        if not self._seen:
            self._since = None
            return
        created, seen = self._seen[min(self._seen)]
        self._since = min(seen, time.monotonic() - _age_s(created))


def _age_s(created: str) -> float:
    """Seconds since then, a time without a zone being one of UTC; 0 of what is no time."""
    try:
        at = datetime.fromisoformat(created)
    except ValueError:
        return 0.0
    return (datetime.now(UTC) - (at if at.tzinfo else at.replace(tzinfo=UTC))).total_seconds()
