"""
What every agent does with a run: wait for the view, have it decided, publish and remember.

Read, decode, decide, send, acknowledge, in that order (ARCHITECTURE.md, steps 2 to 5). What is decided is the
decider's; where and when it is written is decided here and in `streams.owner`, once for all topics.
"""

import asyncio
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Final, Generic, Protocol, TypeVar

from keymill.errors import NotReady
from keymill.kafka.producer import Outgoing
from keymill.telemetry import DEAD_LETTERS, EVENTS, RUN_SECONDS, logger
from schemas import topics
from schemas.codec import encode
from schemas.records import DeadLetter
from schemas.topics import Topic
from schemas.values import Record
from streams.faults import crash_point
from streams.owner import Due, Owner
from streams.registry import SchemaMissing
from streams.runs import RawRecord, Run

YIELD_EVERY: Final = 64
"""Records decided between two looks at the event loop: about 5 ms, so that health checks and heartbeats go on."""

T = TypeVar("T", bound=Record)
L = TypeVar("L")
L_contra = TypeVar("L_contra", contravariant=True)

log = logger("streams.publish")


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

    Args:
        owner: of the topic that this agent writes to; shared with every agent that does.
        partitions: of that topic.
    """

    source: Topic
    pause_s = 0.0
    """Between two attempts at a run."""

    def __init__(self, *, decider: Decides[D, L], owner: Owner[T], partitions: int) -> None:
        self.owner = owner
        self._decider = decider
        self._known = self.known(owner, partitions)

    def known(self, owner: Owner[T], partitions: int) -> L:
        """What is already written: the overlay over the view."""
        raise NotImplementedError

    async def begin(self, run: Run) -> D:
        """The empty decision for *run*, with whatever else it needs; before anything is locked."""
        return self._decider.begin(run)

    async def handle(self, run: Run) -> None:
        """
        Process one run; returns when everything it calls for is durable.

        Raises:
            NotReady: the partition left before anything was sent. What is known has changed under the decision, which
                may lack what was written and not read back; its next owner decides anew.
        """
        began, generation = monotonic(), self.owner.generation
        await self.owner.wait_for_view(run.partition)
        while (decided := await self._attempt(run, generation)) is None:
            await asyncio.sleep(self.pause_s)
        RUN_SECONDS.observe(monotonic() - began)
        EVENTS.labels("accepted").inc(len(run.records) - len(decided.dead_letters))
        EVENTS.labels("refused").inc(len(decided.dead_letters))

    async def _attempt(self, run: Run, generation: object) -> D | None:
        """Decide and publish; None when something had to be written or read first, and the run is decided afresh."""
        decided = await self.begin(run)
        async with self.owner.lock:
            if not await self.settle(run.partition):
                return None
            for index, record in enumerate(run.records):
                if index % YIELD_EVERY == YIELD_EVERY - 1:
                    await asyncio.sleep(0)
                try:
                    self._decider.record(record, decided, self._known)
                except SchemaMissing:
                    return None  # forgotten since it was prepared, for others
            if generation is not self.owner.generation:
                raise NotReady(f"{run!r} is given up: its partition has left")
            if not self.is_provisional(decided):
                await self._publish(run.partition, decided)
                return decided
        await self.prepare(decided)
        return None

    def is_provisional(self, decided: D) -> bool:
        """Whether something must be written, and read back, before the run can be decided."""
        return False

    async def prepare(self, decided: D) -> None:
        """Write what a provisional decision needs; returns when it is read back."""

    def restored(self, decided: D) -> Sequence[DeadLetter]:
        """Dead letters of another source's records, which were refused before."""
        return ()

    async def settle(self, partition: int) -> bool:
        """Make what is known the newest, under the lock; False to leave the turn to others first."""
        self.owner.read_back(partition)
        return True

    async def _publish(self, partition: int, decided: D) -> None:
        try:
            await self._send_dead_letters([*self.restored(decided), *decided.dead_letters])
            crash_point("after_dead_letters")
            for batch in decided.batches():
                crash_point("before_publish")
                await self.owner.send(partition, batch)
            crash_point("after_publish")
        except BaseException:
            self.owner.overlay.clear()
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
        await self.owner.publisher.publish([_letter(letter) for letter in letters])


def _letter(letter: DeadLetter) -> Outgoing:
    return Outgoing(
        topic=topics.DEAD_LETTERS.name,
        record_key=f"{letter.topic}/{letter.partition}/{letter.offset}".encode(),
        value=encode(letter),
        partition=letter.partition,
    )
