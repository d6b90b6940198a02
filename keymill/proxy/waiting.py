"""Waiting for what the view is just about to learn: one look at the view serves everybody who waits."""

import asyncio
import time
from typing import Final

from keymill.snapshot.confirmation import Confirmation
from keymill.snapshot.reader import SnapshotReader

MAX_WAITING: Final = 256
"""Requests that may wait at once; each looks again at every change of the view, which others must not pay for."""


class Waiting:
    """Waits for a change of the view, at most *missing_wait_ms* per request."""

    def __init__(self, reader: SnapshotReader, missing_wait_ms: int) -> None:
        self._reader = reader
        self.confirmed = Confirmation(reader).since
        self._wait_s = missing_wait_ms / 1000
        self._change: asyncio.Task[bool] | None = None
        self._waiting = 0

    def deadline(self) -> float:
        """When a request that begins to wait now has waited enough."""
        return time.monotonic() + self._wait_s

    async def changed(self, since_txn: int, deadline: float) -> bool:
        """Whether the view is another than at *since_txn* before the deadline; False at once when too many wait."""
        left = deadline - time.monotonic()
        if left <= 0 or self._waiting >= MAX_WAITING:
            return False
        if self._reader.txn_id() != since_txn:
            return True
        if self._change is None or self._change.done():
            self._change = asyncio.create_task(self._reader.wait_change(since_txn, self._wait_s))
        self._waiting += 1
        try:
            await asyncio.wait((self._change,), timeout=left)
        finally:
            self._waiting -= 1
        return self._reader.txn_id() != since_txn
