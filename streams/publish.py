"""
What every agent does with a run: wait for the view, have it decided, publish, remember, and repair.

Read, decode, decide, send, acknowledge, in that order (ARCHITECTURE.md, steps 2 to 5). What is decided is the
decider's; where and when it is written is decided here, once for all topics.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from keymill.errors import NotReady
from keymill.kafka.producer import Outgoing, Publisher
from keymill.snapshot.layout import Rejection
from keymill.snapshot.reader import SnapshotReader
from keymill.telemetry import DEAD_LETTERS, EVENTS, PUBLISHED, REPAIRS, REQUEST_ID_HEADER, RUN_SECONDS, logger
from schemas import topics
from schemas.codec import encode
from schemas.records import DeadLetter
from schemas.topics import Topic
from schemas.values import Record
from streams.faults import crash_point
from streams.overlay import Overlay
from streams.runs import RawRecord, Run, TopicPartition

YIELD_EVERY: Final = 64
"""Records decided between two looks at the event loop: about 5 ms, so that health checks and heartbeats go on."""
POLL_S: Final = 0.005

EndOffset = Callable[[int], int]
"""The end of the output topic's partition as the broker has it now (read_uncommitted). Blocking."""

T = TypeVar("T", bound=Record)
L = TypeVar("L")
L_contra = TypeVar("L_contra", contravariant=True)

log = logger("streams.publish")


class Due(NamedTuple, Generic[T]):
    """A record that a run calls for; `record` is what the overlay keeps of it until it is read back."""

    record_key: bytes
    value: bytes
    request_id: str = ""
    record: T | None = None


class Decided(Protocol[T]):
    """What a run calls for."""

    dead_letters: list[DeadLetter]

    def batches(self) -> Iterable[Sequence[Due[T]]]:
        """What to publish; each batch is sent when the one before is acknowledged."""
        ...


D = TypeVar("D", bound=Decided)  # type: ignore[type-arg]


class Decides(Protocol[D, L_contra]):
    """Decides a run record by record, in order, over what a look-up says is written."""

    def begin(self, run: Run) -> D:
        """An empty decision for *run*."""
        ...

    def record(self, record: RawRecord, decided: D, lookup: L_contra) -> None:
        """Decide one record. Raises only what is not the record's fault."""
        ...


class Agent(Generic[T, D, L]):
    """
    Handles the runs of one topic, one at a time; what they call for goes to the same partition of another topic.

    A run counts as done when every record that it calls for is acknowledged. After an assignment the first run of a
    partition waits until the view has passed what a former owner may have written. Any unexpected error is raised:
    the worker ends, and redelivery changes nothing.
    """

    source: Topic
    target: Topic

    def __init__(
        self,
        *,
        decider: Decides[D, L],
        reader: SnapshotReader,
        publisher: Publisher,
        end_offset: EndOffset,
        partitions: int,
    ) -> None:
        self._decider = decider
        self._overlay = Overlay[T]()
        self._known = self.known(reader, self._overlay, partitions)
        self._reader = reader
        self._publisher = publisher
        self._end_offset = end_offset
        self._caught_up: set[int] = set()
        self._owned: frozenset[int] = frozenset()
        self._lock = asyncio.Lock()

    def known(self, reader: SnapshotReader, overlay: Overlay[T], partitions: int) -> L:
        """What is already written: the overlay over the view."""
        raise NotImplementedError

    def assigned(self, tps: Iterable[TopicPartition]) -> None:
        """A new generation: nothing of the former one is trusted."""
        self._begin(frozenset(partition for topic, partition in tps if topic == self.source.name))

    def revoked(self, tps: Iterable[TopicPartition]) -> None:
        """The partitions leave; what was written to them is another owner's business now."""
        self._begin(frozenset())

    async def handle(self, run: Run) -> None:
        """
        Process one run; returns when everything it calls for is durable.

        Raises:
            NotReady: the partition left before anything was sent. What is known has changed under the decision, which
                may lack what was written and not read back; its next owner decides anew.
        """
        began, generation = monotonic(), self._caught_up
        await self._wait_for_view(run.partition)
        async with self._lock:
            self._overlay.read_back(run.partition, self._position(run.partition))
            decided = self._decider.begin(run)
            for index, record in enumerate(run.records):
                if index % YIELD_EVERY == YIELD_EVERY - 1:
                    await asyncio.sleep(0)
                self._decider.record(record, decided, self._known)
            if generation is not self._caught_up:
                raise NotReady(f"{run!r} is given up: its partition has left")
            await self._publish(run.partition, decided)
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
                if each.topic == self.target.name
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
        return self._reader.state().positions.get(self.target.name, {}).get(partition, 0)

    async def _wait_for_view(self, partition: int) -> None:
        caught_up = self._caught_up
        if partition in caught_up:
            return
        target = await asyncio.to_thread(self._end_offset, partition)
        while self._position(partition) < target:
            if error := self._reader.state().error:
                raise NotReady(f"the view of {self.target.name} has stopped: {error}")
            await asyncio.sleep(POLL_S)
        caught_up.add(partition)

    async def _has_caught_up(self, partition: int) -> bool:
        caught_up = self._caught_up
        if partition not in caught_up:
            target = await asyncio.to_thread(self._end_offset, partition)
            if self._position(partition) >= target:
                caught_up.add(partition)
        return caught_up is self._caught_up and partition in caught_up

    async def _publish(self, partition: int, decided: D) -> None:
        try:
            await self._send_dead_letters(decided.dead_letters)
            crash_point("after_dead_letters")
            for batch in decided.batches():
                crash_point("before_publish")
                await self._send(partition, batch)
            crash_point("after_publish")
        except BaseException:
            self._overlay.clear()
            raise

    async def _send_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        if not letters:
            return
        for letter in letters:
            DEAD_LETTERS.labels(letter.reason).inc()
            log.warning(
                "dead_letter",
                reason=letter.reason,
                field=letter.field,
                topic=letter.topic,
                partition=letter.partition,
                offset=letter.offset,
                request_id=letter.request_id,
            )
        await self._publisher.publish([_letter(letter) for letter in letters])

    async def _send(self, partition: int, batch: Sequence[Due[T]]) -> None:
        offsets = await self._publisher.publish([self._outgoing(partition, due) for due in batch])
        PUBLISHED.labels(self.target.name).inc(len(offsets))
        for due, offset in zip(batch, offsets, strict=True):
            self._overlay.add(partition, due.record_key, offset, due.record)

    def _outgoing(self, partition: int, due: Due[T]) -> Outgoing:
        headers = ((REQUEST_ID_HEADER, due.request_id.encode()),) if due.request_id else ()
        return Outgoing(
            topic=self.target.name, record_key=due.record_key, value=due.value, headers=headers, partition=partition
        )


def _letter(letter: DeadLetter) -> Outgoing:
    return Outgoing(
        topic=topics.DEAD_LETTERS.name,
        record_key=f"{letter.topic}/{letter.partition}/{letter.offset}".encode(),
        value=encode(letter),
        partition=letter.partition,
    )
