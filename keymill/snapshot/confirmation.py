"""Whether what a view lacks does not exist: only a follower that lives and hears from the brokers can know."""

import asyncio
import time
from typing import Final

from keymill.snapshot.reader import SnapshotReader

CONFIRM_S: Final = 0.5
"""A follower that lives beats five times a second."""
LOOK_EVERY_S: Final = 0.02


class Confirmation:
    """
    Waits for the next sign of life of a view's follower; one look at it serves everybody who waits.

    A heartbeat stays fresh for a while after the follower's death, so only one of after a request's beginning counts.
    """

    def __init__(self, reader: SnapshotReader) -> None:
        self._reader = reader
        self._next: asyncio.Task[None] | None = None

    async def since(self, moment: float) -> bool:
        """Tell whether the follower says that the view is live, and has said so after *moment* (monotonic)."""
        until = time.monotonic() + CONFIRM_S
        while not (state := self._reader.state()).seen_since(moment):
            if time.monotonic() >= until or not state.live:
                return False
            if self._next is None or self._next.done():
                self._next = asyncio.create_task(self._beat(time.monotonic()))
            await asyncio.wait((self._next,))
        return True

    async def _beat(self, moment: float) -> None:
        until = moment + CONFIRM_S
        while time.monotonic() < until and (state := self._reader.state()).live and not state.seen_since(moment):
            await asyncio.sleep(LOOK_EVERY_S)
