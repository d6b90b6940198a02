"""
Read your writes: wait until the gateway's own view, or a dead letter, shows what became of an event.

One watcher serves every waiting request: it looks at the view's transaction number, and wakes them when it rises.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, TypeVar

from keymill.errors import KeymillError, NotReady
from keymill.gateway.deadletters import DeadLetters
from keymill.snapshot.reader import CHANGE_POLL_S, SnapshotReader
from schemas import topics
from schemas.records import AssetRecord, DeadLetter
from schemas.values import MAX_RECENT, LogPosition, Record

T = TypeVar("T")

IDLE_S: Final = 0.25
"""A waiting request looks again after this long whatever happens: a lost wake costs no more."""
LOOK_S: Final = 1e-4
"""Pause per waiting request between two rounds of looks: five times what a look takes."""
RETRY_S: Final = 2


class Published(Record, frozen=True, kw_only=True):
    """An event that the broker has; `asset` is empty, and `event_id` the request id, where it is a policy change."""

    organization: str
    asset: str = ""
    event_id: str | None
    topic: str = topics.ASSETS.name
    partition: int
    position: LogPosition


class Settled(Record, frozen=True, kw_only=True):
    """The event's postcondition holds; `at` is where the first event of its id stands."""

    asset: AssetRecord
    at: LogPosition


class Waiter:
    """
    Waits of one event loop. `wake` may be called from any thread, all else from the loop's.

    The more wait, the more rarely they look: together they take at most a fifth of the loop's time, so that those who
    do not wait are answered at once.

    Args:
        most: that wait at once; `require_room` refuses more, before anything is published.
    """

    def __init__(self, reader: SnapshotReader, most: int = 512) -> None:
        self._reader = reader
        self._most = most
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sleepers: set[asyncio.Future[None]] = set()
        self._watcher: asyncio.Task[None] | None = None
        self._stopped = False

    def start(self) -> None:
        """Take the running loop; before this nothing is woken."""
        self._loop = asyncio.get_running_loop()

    def require_room(self) -> None:
        """
        Refuse to begin what would have to wait.

        Raises:
            NotReady: as many wait as may.
        """
        if len(self._sleepers) >= self._most:
            raise NotReady(f"{self._most} requests wait for their records already", retry_after_s=RETRY_S)

    async def until(self, look: Callable[[], T | None], deadline: float) -> T | None:
        """What *look* finds, as soon as it finds it; None at the deadline (`time.monotonic`) or when stopped."""
        while True:
            txn = self._txn()
            if (found := look()) is not None:
                return found
            left = deadline - time.monotonic()
            if left <= 0 or self._stopped:
                return None
            if self._txn() == txn:
                await self._sleep(txn, min(left, max(IDLE_S, LOOK_S * len(self._sleepers))))

    async def outcome(
        self, event: Published, letters: DeadLetters, deadline: float, effect: Callable[[], T | None]
    ) -> T | DeadLetter | None:
        """What became of an event: what *effect* finds, its dead letter, or None when neither came in time."""

        def look() -> T | DeadLetter | None:
            return letters.find(event.topic, event.partition, event.position.offset) or effect()

        return await self.until(look, deadline)

    def wake(self) -> None:
        """Let every waiting request look again."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake_all)

    def stop(self) -> None:
        """End every wait now, as if its deadline had come."""
        self._stopped = True
        self._wake_all()

    async def _sleep(self, txn: int, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        sleeper: asyncio.Future[None] = loop.create_future()
        self._sleepers.add(sleeper)
        if self._watcher is None or self._watcher.done():
            self._watcher = loop.create_task(self._watch(txn))
        try:
            await asyncio.wait([sleeper], timeout=timeout_s)
        finally:
            self._sleepers.discard(sleeper)

    async def _watch(self, seen: int) -> None:
        while self._sleepers:
            await asyncio.sleep(max(CHANGE_POLL_S, LOOK_S * len(self._sleepers)))
            if (now := self._txn()) != seen:
                seen = now
                self._wake_all()

    def _wake_all(self) -> None:
        for sleeper in self._sleepers:
            if not sleeper.done():
                sleeper.set_result(None)

    def _txn(self) -> int:
        try:
            return self._reader.txn_id()
        except KeymillError:
            return -1


def settled(event: Published, asset: AssetRecord | None) -> Settled | None:
    """
    Whether an asset record holds an event.

    `applied` at or above the event's position is not enough where the event has an id: a later event may have been
    applied while this one went to the dead letters, whose tail may be behind. Then its id is missing.
    """
    if asset is None or asset.applied < event.position:
        return None
    if event.event_id is None:
        return Settled(asset=asset, at=event.position)
    for accepted in asset.recent:
        if accepted.event_id == event.event_id:
            return Settled(asset=asset, at=accepted.at)
    forgotten = len(asset.recent) == MAX_RECENT and asset.recent[0].at > event.position
    return Settled(asset=asset, at=event.position) if forgotten else None
