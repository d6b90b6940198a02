"""
The fence: which run may be handled, which is durable, which must never be committed.

One per worker, used from the event loop's thread only. It knows neither Faust nor Kafka; the transport
feeds it and obeys it.
"""

import asyncio
from collections.abc import Awaitable, Callable

from keymill.errors import Retry, Stop
from keymill.telemetry import logger
from streams.runs import Commit, Ledger, Run, TopicPartition

Handler = Callable[[Run], Awaitable[None]]
"""Processes a run and returns only when everything it calls for is durable. May be cancelled at any await."""

PartitionsCallback = Callable[[frozenset[TopicPartition]], None]
"""Called between two generations of the group; must return quickly. If it raises the worker ends."""

CANCEL_GRACE_S = 0.5
"""How long a cancelled handler may take to unwind; after that it is abandoned, its run is foreign anyway."""

log = logger("streams.fence")


def _ignore(_tps: frozenset[TopicPartition]) -> None:
    return None


class HandlerEnded(Stop):
    """A handler or an agent ended by itself although nobody asked it to stop."""


class Fence:
    """
    Owns the ledger and the handlers in flight.

    After `halt` nothing is delivered, marked or committed any more: what is not committed is read again by the
    next worker, and redelivery changes nothing.
    """

    def __init__(self, *, on_assigned: PartitionsCallback = _ignore, on_revoked: PartitionsCallback = _ignore) -> None:
        self.ledger = Ledger()
        self.failure: BaseException | None = None
        self.draining = False
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._in_flight: dict[asyncio.Future[None], Run] = {}
        self._changed: Callable[[], None] = lambda: None
        self._halted: Callable[[], None] = lambda: None

    def bind(self, changed: Callable[[], None]) -> None:
        """Have *changed* called whenever room for further runs may have appeared or the fence has closed."""
        self._changed = changed

    def bind_halt(self, halted: Callable[[], None]) -> None:
        """Have *halted* called once, at the first failure."""
        self._halted = halted

    def current_generation(self, tp: TopicPartition) -> int | None:
        """The group's generation under which this worker owns *tp*; None if it does not."""
        stamp = self.ledger.stamp(tp)
        return stamp.generation if stamp else None

    def is_current(self, run: Run) -> bool:
        """True while what a handler does for *run* may still be marked done."""
        return self.failure is None and self.ledger.is_current(run)

    def mark_done(self, run: Run) -> bool:
        """Mark a run as durable; the only way to move a committed offset. False if the run is foreign by now."""
        if self.failure is not None:
            return False
        marked = self.ledger.mark_done(run)
        self._changed()
        return marked

    def committable(self) -> list[Commit]:
        """What may be committed now: nothing at all once the fence has halted."""
        return [] if self.failure is not None else self.ledger.committable()

    def halt(self, failure: BaseException) -> None:
        """Close for good. The first failure is kept."""
        if self.failure is None:
            self.failure = failure
            log.error("fence_halted", message="nothing more is committed", error=repr(failure))
            self._halted()
        self._changed()

    async def process(self, run: Run, handler: Handler) -> None:
        """
        Run *handler*, then mark the run done.

        Returns without marking if the run was abandoned: the partition was revoked, the worker drains, or the
        handler gave up with an error of fate retry after that. Every other error halts the fence and is raised.
        """
        if self.draining or not self.is_current(run):
            return
        task = asyncio.ensure_future(handler(run))
        self._in_flight[task] = run
        try:
            await asyncio.wait({task})
        finally:
            del self._in_flight[task]
            task.cancel()
        abandoned = self.draining or not self.is_current(run)
        failure = HandlerEnded(f"the handler of {run!r} cancelled itself") if task.cancelled() else task.exception()
        if failure is None:
            self.mark_done(run)
        elif abandoned and (task.cancelled() or isinstance(failure, Retry)):
            log.info("run_abandoned", run=repr(run))
        else:
            self.halt(failure)
            raise failure

    def assigned(self, tps: frozenset[TopicPartition]) -> None:
        """A new generation gave this worker *tps*; runs follow."""
        self.draining = False
        self._call(self._on_assigned, tps)

    def revoking(self, tps: frozenset[TopicPartition]) -> None:
        """*tps* are about to leave: no further run is started; handlers in flight should finish or give up."""
        self.draining = True
        if tps:
            self._call(self._on_revoked, tps)
        self._changed()

    def _call(self, callback: PartitionsCallback, tps: frozenset[TopicPartition]) -> None:
        try:
            callback(tps)
        except Exception as error:  # noqa: BLE001 aiokafka would log it and leave the worker without records
            self.halt(error)

    async def drain(self, timeout_s: float) -> None:
        """Give the handlers in flight *timeout_s* to finish, then cancel them. Returns at once after `halt`."""
        tasks = set(self._in_flight)
        if not tasks:
            return
        _, pending = await asyncio.wait(tasks, timeout=0 if self.failure else timeout_s)
        for task in pending:
            log.warning("run_abandoned", run=repr(self._in_flight.get(task)), after_s=timeout_s)
            task.cancel()
        if pending:
            await asyncio.wait(pending, timeout=CANCEL_GRACE_S)
