"""
A Faust transport whose streams carry one run of records per message (ARCHITECTURE.md, step 2; ADR 0003).

Faust loads it by the URL scheme `keymill+kafka`. It replaces, of Faust's aiokafka consumer, everything that decides
what is delivered and what is committed; joining the group, heartbeats and fetching stay upstream's. This file,
`streams.fetch`, `streams.app` and `streams.worker` are the only ones that know Faust's insides.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from time import monotonic
from typing import Any, ClassVar, cast

from aiokafka.errors import ConsumerStoppedError
from faust.transport import drivers
from faust.transport.drivers import aiokafka as upstream
from faust.types import TP, ConsumerMessage

from keymill.telemetry import logger
from streams.fence import Fence
from streams.fetch import NOTHING, Appetite, RunThread
from streams.runs import Run

SCHEME = "keymill+kafka"

OPEN_RUNS_MAX = 4
"""Runs of a topic that are delivered and not done: one is handled, the next are ready, few are lost on revoke."""

OPEN_BYTES_MAX = 32 * 1024 * 1024
"""Bytes of a topic in open runs at which no further run is taken; the last one taken may exceed it."""

DRAIN_TIMEOUT_S = 5.0
"""What runs in flight get on revoke and SIGTERM; far below the group's rebalance timeout."""

TAKE_TIMEOUT_S = 1.0
"""How long one take waits for records; a changed appetite wakes it earlier."""

log = logger("streams.transport")


class RunConsumer(upstream.Consumer):
    """
    Faust's consumer under a fence.

    Promises: a message is one run that starts where the previous one of its partition ended; commits name only ends of
    done prefixes, of this generation; at most `OPEN_RUNS_MAX` runs per topic are open, and a full topic stops no other.
    """

    _thread: RunThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fence = cast(Fence, self.app.fence)  # type: ignore[attr-defined]
        self.expiring = cast(frozenset[str], self.app.expiring_topics)  # type: ignore[attr-defined]
        self._turns: dict[TP, None] = {}
        self._commit_lock = asyncio.Lock()
        self.fence.bind(self._refresh)

    def _new_consumer_thread(self) -> RunThread:
        return RunThread(self, loop=self.loop, beacon=self.beacon)

    # -- delivery

    async def _drain_messages(self, fetcher: Any) -> None:
        """Hand runs to the conductor until the fetcher stops. Any error closes the fence and crashes the worker."""
        try:
            while not (self._stopped.is_set() or fetcher._stopped.is_set()):
                async for _, message in self.getmany(TAKE_TIMEOUT_S):
                    await self.wait_first(self.callback(message), self.suspend_flow.wait())
                await asyncio.sleep(0)
        except (ConsumerStoppedError, asyncio.CancelledError):
            if not self.app.should_stop:
                raise
        except Exception as error:
            self.fence.halt(error)
            raise

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """Take runs, enter them in the ledger, yield them. Foreign runs are dropped: a seek asks for them again."""
        if not self.flow_active:
            await self.wait(self.can_resume_flow)  # type: ignore[arg-type]
        runs = await self._thread.take_runs(timeout)
        delivered = [run for run in runs if self._deliver(run)]
        self._refresh()
        for run in delivered:
            if run.records and self.flow_active and self.fence.is_current(run):
                yield TP(*run.tp), self._to_message(TP(*run.tp), run)

    def _deliver(self, run: Run) -> bool:
        if run.generation != self.app.consumer_generation_id:
            return False
        self._turns.pop(TP(*run.tp), None)
        self._turns[TP(*run.tp)] = None
        return self.fence.ledger.deliver(run)

    def _to_message(self, tp: TP, record: Run) -> ConsumerMessage:
        at_s = record.records[-1].timestamp_ms / 1000
        return ConsumerMessage(
            record.topic, record.partition, record.last, at_s, 0, None, None, cast(Any, record), None,
            0, record.size, tp, generation_id=record.generation,
        )  # fmt: skip

    # -- appetite

    def _refresh(self) -> None:
        """Tell the thread what it may take now. Called after everything that changes the answer."""
        self._thread.want(self._appetite())

    def _appetite(self) -> Appetite:
        if not self.flow_active or self.fence.draining or self.fence.failure is not None:
            return NOTHING
        ledger, active = self.fence.ledger, self._active_partitions
        slots = {}
        for topic in {tp.topic for tp in self._turns}:
            runs, size = ledger.open_load(topic)
            slots[topic] = OPEN_RUNS_MAX - runs if size < OPEN_BYTES_MAX else 0
        stamps = {tp: ledger.stamp(tp) for tp in self._turns if tp in active and slots[tp.topic] > 0}
        return Appetite({tp: stamp for tp, stamp in stamps.items() if stamp is not None}, slots)

    def stop_flow(self) -> None:
        """Take nothing further, from this call on."""
        super().stop_flow()
        self._refresh()

    def resume_flow(self) -> None:
        """Take again."""
        super().resume_flow()
        self._refresh()

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        """Leave *tps* out of the appetite."""
        super().pause_partitions(tps)
        self._refresh()

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Put *tps* back into the appetite."""
        super().resume_partitions(tps)
        self._refresh()

    def on_buffer_full(self, tp: TP) -> None:
        """Nothing: room is counted in the ledger, so a stream's queue never becomes full."""

    def on_buffer_drop(self, tp: TP) -> None:
        """Wake the take. Never adds a partition: it may be revoked by now."""
        self._refresh()

    # -- positions

    async def perform_seek(self) -> None:
        """Start every assigned partition at its committed offset or its beginning, with an empty ledger."""
        generation, rebalance = self.app.consumer_generation_id, self.app.rebalancing_count
        self._forget()
        positions = await self._thread.seek_to_start(self.expiring)
        if (generation, rebalance) != (self.app.consumer_generation_id, self.app.rebalancing_count):
            return
        for tp, position in positions.items():
            self.fence.ledger.assign(tp, generation=generation, position=position)
            self._turns[TP(*tp)] = None
        self._refresh()

    async def seek(self, partition: TP, offset: int) -> None:
        """Move one partition; runs delivered before are foreign."""
        generation = self.app.consumer_generation_id
        self.fence.ledger.revoke([partition])
        self._refresh()
        await self._seek(partition, offset)
        self.fence.ledger.assign(partition, generation=generation, position=offset)
        self._refresh()

    def _forget(self) -> None:
        self.fence.ledger.revoke(self.fence.ledger.assigned())
        self._turns.clear()
        self._refresh()

    # -- rebalance and shutdown

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Stop, drain and commit within `DRAIN_TIMEOUT_S`; then forget all partitions (the protocol is eager)."""
        self.fence.revoking(frozenset(revoked))
        try:
            await super().on_partitions_revoked(revoked)
        finally:
            self._forget()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Announce the assignment; runs follow once Faust has called `perform_seek`."""
        self.fence.assigned(frozenset(assigned))
        await super().on_partitions_assigned(assigned, generation_id)

    async def wait_empty(self) -> None:
        """Give runs in flight what is left of `DRAIN_TIMEOUT_S`, abandon the others, commit what is done."""
        deadline = monotonic() + DRAIN_TIMEOUT_S
        if not self.fence.draining:  # SIGTERM: no rebalance listener is called
            self.fence.revoking(self.fence.ledger.assigned())
        await self.fence.drain(DRAIN_TIMEOUT_S)
        try:
            await asyncio.wait_for(self.commit(), max(1.0, deadline - monotonic()))
        except TimeoutError:
            log.warning("not_committed", message="the last commit got no answer; what it named is processed again")

    # -- commits: only the ledger's

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commit the ends of the done prefixes of all partitions, whatever *topics* says."""
        async with self._commit_lock:
            commits = self.fence.committable()
            if not commits or self._thread.should_stop:  # after a crash nobody answers there any more
                return False
            generation = commits[0].stamp.generation
            if generation != self.app.consumer_generation_id:
                return False
            committed = await self._thread.commit_runs({c.tp: c.end for c in commits}, generation)
            for commit in commits if committed else []:
                self.fence.ledger.mark_committed(commit)
            return committed

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """The same as `commit`: there is nothing to force."""
        return await self.commit()

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        raise RuntimeError("offsets come from the ledger alone")

    def _new_offset(self, tp: TP) -> int | None:
        return None if self.fence.failure is not None else self.fence.ledger.done_prefix_end(tp)

    def ack(self, message: Any) -> bool:
        """Bookkeeping of Faust's only: an acknowledged message commits nothing."""
        message.acked = True
        self._unacked_messages.discard(message)
        return False

    async def on_task_error(self, exc: BaseException) -> None:
        """An agent failed: close the fence. Upstream commits here."""
        self.fence.halt(exc)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: upstream compares a wall clock with a monotonic one and cries wolf about long handlers."""


class Transport(upstream.Transport):
    """Faust's aiokafka transport with `RunConsumer`."""

    Consumer: ClassVar[Any] = RunConsumer


def register() -> None:
    """Make Faust find the transport by its URL scheme."""
    drivers.TRANSPORTS.aliases[SCHEME] = f"{__name__}:Transport"
