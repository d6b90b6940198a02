"""
The thread in which aiokafka lives: takes runs out of its fetcher, seeks, commits.

Knows aiokafka's and Faust's insides; `tests/unit/test_faust_pins.py` pins every one. Everything here runs on the
thread's own loop, except `want` and the awaitables that hand work over to it.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.consumer import fetcher as upstream
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import CommitFailedError, ConsumerStoppedError, IllegalStateError
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread

from keymill.errors import Corrupt, Misconfigured
from keymill.kafka.positions import known_offset
from keymill.telemetry import logger
from streams.batches import Batches
from streams.runs import RawRecord, Run, Stamp, TopicPartition

FETCH_WAIT_MS = 100
"""
The broker's long poll. aiokafka sends one fetch per broker at a time and leaves out partitions whose records are not
taken yet; a busy partition waits for that poll, so Faust's 1500 ms would hold a lone busy partition to 1 MiB per 1.5 s.
"""

COMMIT_TIMEOUT_S = 10.0
"""aiokafka retries a commit for ever while no coordinator answers; the next commit says the same and more."""

STOP_TIMEOUT_S = 3.0
"""For leaving the group and closing connections; it takes longer only if no broker answers."""

LOSSES_MAX = 3
LOSSES_WITHIN_S = 60.0
"""A static member that the group forgets this often has a namesake; aiokafka would take turns with it for ever."""

LOSSES_APART_S = 1.0
"""Heartbeat and commits under way are all told of one loss, a thawed worker's within milliseconds."""

log = logger("streams.fetch")


class Appetite(NamedTuple):
    """What the consumer would take now: an immutable value that the event loop replaces as a whole."""

    stamps: Mapping[TopicPartition, Stamp]
    """Partitions in the order of their turn, with the stamp their runs carry."""
    slots: Mapping[str, int]
    """How many further runs each topic has room for."""


NOTHING = Appetite({}, {})


class RunThread(AIOKafkaConsumerThread):
    """Faust's consumer thread, which takes whole runs instead of single records."""

    _appetite: Appetite = NOTHING
    _waiter: "asyncio.Future[None] | None" = None
    _namesake: Misconfigured | None = None

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Range keeps partition n of every topic with one worker: requests must reach the owner of the key partition.
        consumer._partition_assignment_strategy = [RangePartitionAssignor]
        # An aborted event of a transactional ingest system must not make keys that replay would never find again.
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        upstream.MemoryRecords = Batches  # the name that its requests look up
        return consumer

    # -- called from the event loop's thread

    def want(self, appetite: Appetite) -> None:
        """Replace the appetite; a take that waits looks at it at once. No run of an older one is taken after this."""
        self._appetite = appetite
        if not self.thread_loop.is_closed():
            self.thread_loop.call_soon_threadsafe(self._wake)

    async def take_runs(self, timeout_s: float) -> list[Run]:
        """Wait up to *timeout_s* for records within the appetite; at most one run per partition."""
        runs: list[Run] = await self.call_thread(self._take_runs, timeout_s)
        return runs

    async def seek_to_start(self, expiring: frozenset[str]) -> dict[TopicPartition, int]:
        """Seek every assigned partition to its committed offset, or to its beginning, and return the positions."""
        positions: dict[TopicPartition, int] = await self.call_thread(self._seek_to_start, expiring)
        return positions

    async def commit_runs(self, offsets: Mapping[TopicPartition, int], generation: int) -> bool:
        """Commit, unless the group has left *generation*. False means: not committed, as far as we know."""
        return bool(await self.call_thread(self._commit_runs, offsets, generation))

    # -- on the thread's loop

    async def on_start(self) -> None:
        """Start aiokafka and watch how often the group forgets this member: aiokafka knows no fenced instance ids."""
        await super().on_start()
        coordinator = self._ensure_consumer()._coordinator
        instance, reset, losses = coordinator._group_instance_id, coordinator.reset_generation, deque[float]()

        def reset_generation() -> None:
            now = self.thread_loop.time()
            if not losses or now - losses[-1] > LOSSES_APART_S:
                losses.append(now)
            if instance and len(losses) >= LOSSES_MAX and losses[-1] - losses[-LOSSES_MAX] < LOSSES_WITHIN_S:
                self._namesake = Misconfigured(
                    f"the group forgot instance id {instance!r} {LOSSES_MAX} times within {LOSSES_WITHIN_S:.0f} s: "
                    "another worker uses it too; give every worker an instance id of its own"
                )
                self._wake()
            reset()

        coordinator.reset_generation = reset_generation

    async def on_thread_stop(self) -> None:
        """Stop aiokafka, which raises or hangs where brokers are away; Faust would wait 60 s for the thread then."""
        stopping = asyncio.ensure_future(super().on_thread_stop())
        await asyncio.wait({stopping}, timeout=STOP_TIMEOUT_S)
        if not stopping.done():
            stopping.cancel()
        elif stopping.cancelled() or stopping.exception() is not None:
            log.info("consumer_stop_failed", message="the group will find out by the session timeout")

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _take_runs(self, timeout_s: float) -> list[Run]:
        consumer = self._ensure_consumer()
        deadline = self.thread_loop.time() + timeout_s
        # While it has no appetite the worker counts as idle, and after the poll interval it leaves the group.
        polling = consumer._fetcher._subscriptions.fetch_context() if self._appetite.stamps else nullcontext()
        with polling:
            while True:
                if consumer._closed or consumer._fetcher._closed:
                    raise ConsumerStoppedError()
                if self._namesake is not None:
                    raise self._namesake
                runs = await self._take_ready(consumer)
                remaining = deadline - self.thread_loop.time()
                if runs or remaining <= 0:
                    return runs
                await self._wait_for_records(consumer, remaining)

    async def _wait_for_records(self, consumer: AIOKafkaConsumer, timeout_s: float) -> None:
        waiter = self._waiter = consumer._fetcher._create_fetch_waiter()
        await asyncio.wait([waiter], timeout=timeout_s)
        self._waiter = None
        if waiter.done():
            waiter.result()  # a refused join or a lost authorization is raised here
        else:
            waiter.cancel()

    async def _take_ready(self, consumer: AIOKafkaConsumer) -> list[Run]:
        """Take what lies ready. Never suspends, so no seek or rebalance of this loop comes in between."""
        fetcher = consumer._fetcher
        subscription = fetcher._subscriptions.subscription
        if subscription is None or subscription.assignment is None or fetcher._subscriptions.reassignment_in_progress:
            return []
        appetite, runs = self._appetite, []
        slots = dict(appetite.slots)
        for tp, stamp in appetite.stamps.items():
            if slots.get(tp[0], 0) > 0 and tp in fetcher._records:
                run = await self._take_one(consumer, tp, stamp, subscription.assignment)
                if run is not None:
                    runs.append(run)
                    slots[tp[0]] -= 1
        return runs

    async def _take_one(
        self, consumer: AIOKafkaConsumer, tp: TopicPartition, stamp: Stamp, assignment: Any
    ) -> Run | None:
        state = assignment.state_value(tp)
        start = state._position if state is not None else None
        if start is None:
            return None
        taken = await consumer._fetcher.fetched_records(
            [KafkaPartition(*tp)], timeout=0, max_records=consumer._max_poll_records
        )
        records, size = _raw(taken.get(KafkaPartition(*tp), ()))
        end = state._position
        if end is None or end <= start:
            return None
        return Run(tp[0], tp[1], stamp.generation, stamp.epoch, start, end, records, size)

    async def _seek_to_start(self, expiring: frozenset[str]) -> dict[TopicPartition, int]:
        consumer = self._ensure_consumer()
        tps = sorted(consumer.assignment())
        if not tps:
            return {}
        committed = await asyncio.gather(*(consumer.committed(tp) for tp in tps))
        begin = await consumer.beginning_offsets(tps)
        end = await consumer.end_offsets(tps)
        positions = {
            (tp.topic, tp.partition): _start_position(
                tp, offset, _known(tp, begin), _known(tp, end), tp.topic in expiring
            )
            for tp, offset in zip(tps, committed, strict=True)
        }
        for tp in tps:
            consumer.seek(tp, positions[tp])
        return positions

    async def _commit_runs(self, offsets: Mapping[TopicPartition, int], generation: int) -> bool:
        consumer = self._ensure_consumer()
        if consumer._coordinator.generation != generation:
            return False
        commit = consumer.commit({KafkaPartition(*tp): OffsetAndMetadata(end, "") for tp, end in offsets.items()})
        try:
            await asyncio.wait_for(commit, COMMIT_TIMEOUT_S)
        except (CommitFailedError, IllegalStateError, TimeoutError) as error:
            log.warning("not_committed", message="the group moved on or does not answer", error=repr(error))
            return False
        return True


def _known(tp: KafkaPartition, offsets: Mapping[KafkaPartition, int]) -> int:
    return known_offset(tp.topic, tp.partition, offsets[tp])


def _raw(records: Iterable[ConsumerRecord[Any, Any]]) -> tuple[list[RawRecord], int]:
    """Convert aiokafka's records; returns them and the bytes of their keys and values."""
    raw, size = [], 0
    for r in records:
        size += len(r.key or b"") + len(r.value or b"")
        raw.append(
            RawRecord(r.topic, r.partition, r.offset, r.timestamp, r.timestamp_type, r.key, r.value, tuple(r.headers))
        )
    return raw, size


def _start_position(tp: KafkaPartition, committed: int | None, begin: int, end: int, expires: bool) -> int:
    """Where to start reading: aiokafka's own `seek_to_committed` stays where it is without a commit, or at 0."""
    if committed is None:
        return begin
    if committed > end or (committed < begin and not expires):
        raise Corrupt(
            f"{tp.topic}-{tp.partition}: committed offset {committed} is outside of the log [{begin}, {end}]: the "
            "topic was re-created, truncated or cleaned; check it with `keymill topics check`, take it over with "
            "`keymill topics adopt`"
        )
    return max(committed, begin)
