"""
The provision agent: a run of asset events becomes acknowledged key and asset records, or dead letters.

Read, decode, decide, send, acknowledge, in that order (ARCHITECTURE.md, steps 2 to 5). Everything that is decided
is decided in `streams.decide` and below.
"""

import asyncio
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Final

from keymill.errors import NotReady
from keymill.kafka.producer import Outgoing, Publisher
from keymill.snapshot.layout import Rejection
from keymill.snapshot.reader import SnapshotReader
from keymill.telemetry import DEAD_LETTERS, EVENTS, PUBLISHED, REPAIRS, REQUEST_ID_HEADER, RUN_SECONDS, logger
from schemas import topics
from schemas.codec import encode
from schemas.ids import asset_key
from schemas.records import AssetRecord
from streams.decide import Decided, Decider
from streams.faults import crash_point
from streams.overlay import Overlay
from streams.runs import Run, TopicPartition

YIELD_EVERY: Final = 64
"""Events decided between two looks at the event loop: about 5 ms, so that health checks and heartbeats go on."""
POLL_S: Final = 0.005

EndOffset = Callable[[int], int]
"""The end of the key topic's partition as the broker has it now (read_uncommitted). Blocking."""

log = logger("streams.provision")


class Known:
    """What is already written: the overlay over the view."""

    def __init__(self, reader: SnapshotReader, overlay: Overlay, partitions: int) -> None:
        self._reader = reader
        self._overlay = overlay
        self._partitions = partitions

    def asset(self, organization: str, asset: str) -> AssetRecord | None:
        """See `streams.decide.Lookup`."""
        return self._overlay.asset(asset_key(organization, asset)) or self._reader.asset(organization, asset)

    def has(self, record_key: bytes) -> bool:
        """See `streams.decide.Lookup`."""
        partition = topics.partition_of(topics.KEYS, record_key, self._partitions)
        return self._overlay.holds(partition, record_key) or self._reader.has(topics.KEYS.name, record_key)


class Provisioner:
    """
    Handles runs of the asset topic, one at a time.

    A run counts as done when every record that it calls for is acknowledged. After an assignment the first run of a
    partition waits until the view has passed what a former owner may have written. Any unexpected error is raised:
    the worker ends, and redelivery changes nothing.
    """

    def __init__(
        self, *, decider: Decider, reader: SnapshotReader, publisher: Publisher, end_offset: EndOffset, partitions: int
    ) -> None:
        self._decider = decider
        self._reader = reader
        self._publisher = publisher
        self._end_offset = end_offset
        self._partitions = partitions
        self._overlay = Overlay()
        self._known = Known(reader, self._overlay, partitions)
        self._caught_up: set[int] = set()
        self._owned: frozenset[int] = frozenset()
        self._lock = asyncio.Lock()

    def assigned(self, tps: Iterable[TopicPartition]) -> None:
        """A new generation: nothing of the former one is trusted."""
        self._begin(owned_partitions(tps))

    def revoked(self, tps: Iterable[TopicPartition]) -> None:
        """The partitions leave; what was written to them is another owner's business now."""
        self._begin(frozenset())

    async def handle(self, run: Run) -> None:
        """Process one run; returns when everything it calls for is durable."""
        began = monotonic()
        await self._wait_for_view(run.partition)
        async with self._lock:
            self._overlay.read_back(run.partition, self._position(run.partition))
            decided = self._decider.begin(run)
            for index, record in enumerate(run.records):
                if index % YIELD_EVERY == YIELD_EVERY - 1:
                    await asyncio.sleep(0)
                self._decider.record(record, decided, self._known)
            await self._publish(decided)
        RUN_SECONDS.observe(monotonic() - began)
        EVENTS.labels("accepted").inc(len(run.records) - len(decided.dead_letters))
        EVENTS.labels("refused").inc(len(decided.dead_letters))

    async def repair(self) -> None:
        """
        Write again what a late or rogue writer has superseded on the partitions that this worker owns.

        Not before the view has passed what a former owner may have written, and not after the partition has left: what
        is held then is older than what it would supersede.
        """
        for partition in self._owned:  # a quiet partition has no run that would do it
            self._overlay.read_back(partition, self._position(partition))
        suspects = {wrong.partition for wrong, _ in self._superseded(self._owned)}
        trusted = frozenset([partition for partition in suspects if await self._has_caught_up(partition)])
        async with self._lock:
            for wrong, held in self._superseded(trusted):
                if wrong.partition not in self._owned:
                    continue
                log.warning("repair", record_key=wrong.record_key.decode(), offset=wrong.offset, reason=wrong.reason)
                again = Outgoing(topic=wrong.topic, record_key=wrong.record_key, value=held, partition=wrong.partition)
                (offset,) = await self._publisher.publish([again])
                self._overlay.add(wrong.partition, wrong.record_key, offset)
                REPAIRS.labels(wrong.reason).inc()

    def _superseded(self, partitions: frozenset[int]) -> list[tuple[Rejection, bytes]]:
        with self._reader.at_once() as view:
            wrong = [
                each
                for each in view.regressions()
                if each.topic == topics.KEYS.name
                and each.partition in partitions
                and not self._overlay.holds(each.partition, each.record_key)
            ]
            held = [(each, view.raw(each.topic, each.record_key)) for each in wrong]
        return [(each, value) for each, value in held if value is not None]

    def _begin(self, owned: frozenset[int]) -> None:
        self._owned = owned
        self._overlay.clear()
        self._caught_up = set()  # another one: who still waits for the former generation's ends must not fill this

    def _position(self, partition: int) -> int:
        return self._reader.state().positions.get(topics.KEYS.name, {}).get(partition, 0)

    async def _wait_for_view(self, partition: int) -> None:
        caught_up = self._caught_up
        if partition in caught_up:
            return
        target = await asyncio.to_thread(self._end_offset, partition)
        while self._position(partition) < target:
            if error := self._reader.state().error:
                raise NotReady(f"the view of {topics.KEYS.name} has stopped: {error}")
            await asyncio.sleep(POLL_S)
        caught_up.add(partition)

    async def _has_caught_up(self, partition: int) -> bool:
        caught_up = self._caught_up
        if partition not in caught_up:
            target = await asyncio.to_thread(self._end_offset, partition)
            if self._position(partition) >= target:
                caught_up.add(partition)
        return caught_up is self._caught_up and partition in caught_up

    async def _publish(self, decided: Decided) -> None:
        try:
            await self._send_dead_letters(decided)
            crash_point("after_dead_letters")
            await self._send_records(decided)
            crash_point("after_publish")
        except BaseException:
            self._overlay.clear()
            raise

    async def _send_dead_letters(self, decided: Decided) -> None:
        if not decided.dead_letters:
            return
        for letter in decided.dead_letters:
            DEAD_LETTERS.labels(letter.reason).inc()
            log.warning(
                "dead_letter",
                reason=letter.reason,
                field=letter.field,
                partition=letter.partition,
                offset=letter.offset,
                request_id=letter.request_id,
            )
        await self._publisher.publish(
            [
                Outgoing(
                    topic=topics.DEAD_LETTERS.name,
                    record_key=f"{letter.topic}/{letter.partition}/{letter.offset}".encode(),
                    value=encode(letter),
                    partition=letter.partition,
                )
                for letter in decided.dead_letters
            ]
        )

    async def _send_records(self, decided: Decided) -> None:
        keys = list(decided.key_records.items())
        assets = [(key, encode(asset)) for key, asset in decided.assets.items()]
        crash_point("before_publish")
        batch = [self._outgoing(key, value, decided) for key, value in keys + assets]
        if not batch:
            return
        offsets = await self._publisher.publish(batch)
        PUBLISHED.labels(topics.KEYS.name).inc(len(offsets))
        for (record_key, _), offset in zip(keys + assets, offsets, strict=True):
            self._overlay.add(decided.run.partition, record_key, offset, decided.assets.get(record_key))

    def _outgoing(self, record_key: bytes, value: bytes, decided: Decided) -> Outgoing:
        request_id = decided.request_ids.get(record_key)
        headers = ((REQUEST_ID_HEADER, request_id.encode()),) if request_id else ()
        return Outgoing(
            topic=topics.KEYS.name,
            record_key=record_key,
            value=value,
            headers=headers,
            partition=decided.run.partition,
        )


def owned_partitions(tps: Iterable[TopicPartition]) -> frozenset[int]:
    """Partition numbers of the asset topic among *tps*; the key topic's are the same (design 2)."""
    return frozenset(partition for topic, partition in tps if topic == topics.ASSETS.name)
