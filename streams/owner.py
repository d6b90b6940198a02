"""
The owner of a target topic's partitions: all that agents which write to one topic must share.

What was written and not read back, whose turn it is to write, how far the view must be before anything is decided, and
the repair of what a late or rogue writer has superseded.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from keymill.errors import Misconfigured, NotReady, Reject
from keymill.kafka.producer import Outgoing, Publisher
from keymill.snapshot.layout import Rejection
from keymill.snapshot.reader import SnapshotReader
from keymill.telemetry import PUBLISHED, REPAIRS, REQUEST_ID_HEADER, logger
from schemas.topics import Topic
from schemas.values import Record
from streams.overlay import Overlay
from streams.runs import TopicPartition

POLL_S: Final = 0.005

EndOffset = Callable[[int], int]
"""The end of the target's partition as the broker has it now (read_uncommitted). Blocking."""

T = TypeVar("T", bound=Record)

log = logger("streams.owner")


class Due(NamedTuple, Generic[T]):
    """A record that a run calls for; `record` is what the overlay keeps of it until it is read back."""

    record_key: bytes
    value: bytes
    request_id: str = ""
    record: T | None = None


class Owner(Generic[T]):
    """
    A worker as the owner of partitions of *target*: those whose number it was assigned of *source*.

    Several agents may write to the topic: each decides and publishes under `lock`, over the same overlay, after the
    view has passed what a former owner may have written.
    """

    def __init__(
        self, target: Topic, *, source: Topic, reader: SnapshotReader, publisher: Publisher, end_offset: EndOffset
    ) -> None:
        self.target = target
        self.source = source
        self.reader = reader
        self.publisher = publisher
        self.overlay = Overlay[T]()
        self.lock = asyncio.Lock()
        self._end_offset = end_offset
        self._caught_up: set[int] = set()
        self._owned: frozenset[int] | None = None
        self._told: set[Rejection] = set()

    @property
    def generation(self) -> object:
        """Another object after every assignment and revocation."""
        return self._caught_up

    def assigned(self, tps: Iterable[TopicPartition]) -> None:
        """A new generation: nothing of the former one is trusted."""
        self._begin(frozenset(partition for topic, partition in tps if topic == self.source.name))

    def revoked(self) -> None:
        """The partitions leave; what was written to them is another owner's business now."""
        self._begin(None)

    def require(self, partition: int) -> None:
        """
        Refuse to write to a partition that another worker owns.

        Raises:
            NotReady: the partitions have just left.
            Misconfigured: the group gave this worker the partition of another topic, but not of *source*.
        """
        if self._owned is None:
            raise NotReady(f"{self.target.name}-{partition} has left")
        if partition not in self._owned:
            raise Misconfigured(
                f"{self.target.name}-{partition} is another worker's: {self.source.name}-{partition} was not assigned "
                "to this one; every worker of the group must follow the same topics, with as many partitions each"
            )

    async def wait_for_view(self, partition: int) -> None:
        """After an assignment, wait until the view has passed what a former owner may have written."""
        caught_up = self._caught_up
        if partition in caught_up:
            return
        target = await asyncio.to_thread(self._end_offset, partition)
        await self._reach(partition, lambda: self._position(partition) >= target)
        caught_up.add(partition)

    async def read_all_back(self, partition: int) -> None:
        """Wait until the view holds all that was written to a partition; hold `lock`, so that nothing is added."""
        await self._reach(partition, lambda: self.read_back(partition))

    def read_back(self, partition: int) -> bool:
        """Forget what the view has read back; whether that is all that was written to the partition."""
        self.overlay.read_back(partition, self._position(partition))
        return not self.overlay.any(partition)

    async def send(self, partition: int, batch: Sequence[Due[T]]) -> None:
        """Publish, and remember it when it is acknowledged."""
        offsets = await self.publisher.publish([self._outgoing(partition, due) for due in batch])
        PUBLISHED.labels(self.target.name).inc(len(offsets))
        for due, offset in zip(batch, offsets, strict=True):
            self.overlay.add(partition, due.record_key, offset, due.record)

    async def repair(self) -> None:
        """
        Write again what a late or rogue writer has superseded on the partitions that this worker owns.

        Not before the view has passed what a former owner may have written, and not after the partition has left: what
        is held then is older than what it would supersede.
        """
        owned = self._owned or frozenset()
        for partition in owned:  # a quiet partition has no run that would do it
            self.read_back(partition)
        suspects = {wrong.partition for wrong, _ in self._superseded(owned)}
        trusted = frozenset([partition for partition in suspects if await self._has_caught_up(partition)])
        async with self.lock:
            found = self._superseded(trusted)
            self._told.intersection_update(wrong for wrong, _ in found)
            for wrong, held in found:
                if wrong.partition not in (self._owned or ()):
                    continue
                await self._write_again(wrong, held)

    async def _write_again(self, wrong: Rejection, held: bytes) -> None:
        """Write one record over a wrong one. Where its organization's keys are lost it waits, and the others go on."""
        name = wrong.record_key.decode()
        again = Outgoing(topic=wrong.topic, record_key=wrong.record_key, value=held, partition=wrong.partition)
        try:
            (offset,) = await self.publisher.publish([again])
        except Reject as error:
            if wrong not in self._told:
                self._told.add(wrong)
                log.error("not_repaired", record_key=name, offset=wrong.offset, reason=wrong.reason, error=str(error))
            return
        log.warning("repair", record_key=name, offset=wrong.offset, reason=wrong.reason)
        self.overlay.add(wrong.partition, wrong.record_key, offset)
        REPAIRS.labels(wrong.reason).inc()

    def _superseded(self, partitions: frozenset[int]) -> list[tuple[Rejection, bytes]]:
        with self.reader.at_once() as view:
            wrong = [
                each
                for each in view.regressions()
                if each.topic == self.target.name
                and each.partition in partitions
                and not self.overlay.holds(each.partition, each.record_key)
            ]
            held = [(each, view.raw(each.topic, each.record_key)) for each in wrong]
        return [(each, value) for each, value in held if value is not None]

    def _begin(self, owned: frozenset[int] | None) -> None:
        self._owned = owned
        self._told.clear()
        self.overlay.clear()
        self._caught_up = set()  # another one: who still waits for the former generation's ends must not fill this

    def _position(self, partition: int) -> int:
        return self.reader.state().positions.get(self.target.name, {}).get(partition, 0)

    async def _reach(self, partition: int, reached: Callable[[], bool]) -> None:
        while not reached():
            if error := self.reader.state().error:
                raise NotReady(f"the view of {self.target.name}-{partition} has stopped: {error}")
            await asyncio.sleep(POLL_S)

    async def _has_caught_up(self, partition: int) -> bool:
        caught_up = self._caught_up
        if partition not in caught_up:
            target = await asyncio.to_thread(self._end_offset, partition)
            if self._position(partition) >= target:
                caught_up.add(partition)
        return caught_up is self._caught_up and partition in caught_up

    def _outgoing(self, partition: int, due: Due[T]) -> Outgoing:
        headers = ((REQUEST_ID_HEADER, due.request_id.encode()),) if due.request_id else ()
        return Outgoing(
            topic=self.target.name, record_key=due.record_key, value=due.value, headers=headers, partition=partition
        )
