"""An agent over a real view and an in-memory log, for tests of what it sends, in which order, and what it waits for."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from keymill.errors import Unavailable
from keymill.kafka.outgoing import Outgoing, place
from keymill.kafka.positions import Incoming, Slot
from keymill.snapshot.reader import SnapshotReader
from keymill.snapshot.state import Heartbeat, HeartbeatFile, boot_id
from keymill.snapshot.writer import SnapshotWriter
from schemas import topics
from schemas.topics import Topic
from streams.claimant import Claimant
from streams.owner import Owner
from tests.fakes import TRUSTING
from tests.view_records import Log

PARTITIONS = 4
MAP = 16 << 20
PATIENCE_S = 10.0


class MemoryPublisher:
    """Topics in memory; a record has its offset when `publish` returns, and its limits are the real ones."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int, int, Outgoing]] = []
        self.batches: list[list[Outgoing]] = []
        self.fail_at: int | None = None
        """Number of the batch that is written and not acknowledged."""
        self.before_ack: Callable[[], Awaitable[None]] | None = None

    def end(self, topic: str, partition: int) -> int:
        return sum((topic, partition) == entry[:2] for entry in self.log)

    async def publish(self, records: Sequence[Outgoing]) -> list[int]:
        offsets = []
        for record in records:
            partition = place(record, dict.fromkeys(topics.BY_NAME, PARTITIONS))
            offsets.append(self.end(record.topic, partition))
            self.log.append((record.topic, partition, offsets[-1], record))
        self.batches.append(list(records))
        await asyncio.sleep(0)
        if self.before_ack:
            await self.before_ack()
        if self.fail_at == len(self.batches) - 1:
            raise Unavailable("not acknowledged")
        return offsets


class AgentRig:
    """What an agent that writes to *target* works with; the follower reads only when it is told to."""

    def __init__(self, folder: Path, target: Topic) -> None:
        self.topic, self.target = target, target.name
        self.followed = tuple(dict.fromkeys((target.name, topics.CLAIMS.name)))
        self.publisher = MemoryPublisher()
        self.writer = SnapshotWriter(folder, TRUSTING, map_size=MAP).open()
        self.writer.bind(Log(PARTITIONS, self.followed).checkpoints())
        self.heart = HeartbeatFile(folder, write=True)
        self.beat()
        self.reader = SnapshotReader(folder).open()
        self.ends_asked: list[int] = []
        self.ends: dict[int, int] = {}

    def end_offset(self, partition: int) -> int:
        self.ends_asked.append(partition)
        return self.ends.get(partition, self.publisher.end(self.target, partition))

    def owner_by(self, source: Topic) -> Owner[Any]:
        """Another worker with the same view, which owns what it is assigned of *source*."""
        return Owner(
            self.topic,
            source=source,
            reader=self.reader,
            publisher=self.publisher,  # type: ignore[arg-type]
            end_offset=self.end_offset,
        )

    def claimant(self) -> Claimant:
        """Asks for KIDs; the view must be made to follow meanwhile."""
        return Claimant(self.reader, self.publisher, key_ends=self.key_ends, partitions=PARTITIONS)  # type: ignore[arg-type]

    def beat(self, error: str | None = None) -> None:
        environment = self.writer.manifest.environment
        self.heart.write(Heartbeat(environment=environment, boot=boot_id(), ready=True, live=True, error=error))

    def follow(self, limit: int = 10**9) -> None:
        """Read what was published into the view; of each partition up to *limit*."""
        reached = {topic: self._reached(topic, limit if topic == self.target else 10**9) for topic in self.followed}
        batch = [
            Incoming(topic, partition, offset, record.record_key, record.value)
            for topic, partition, offset, record in self.publisher.log
            if topic in reached and offset < reached[topic][partition].offset
        ]
        self.writer.apply(batch, reached)

    def follow_until(self, work: Coroutine[Any, Any, Any]) -> None:
        """Read all that is published while *work* goes on, and its last words."""

        async def both() -> None:
            async with under_way(work) as task:
                while not task.done():
                    self.follow()
                    await asyncio.sleep(0.001)
                task.result()

        bounded(both())
        self.follow()

    def _reached(self, topic: str, limit: int) -> dict[int, Slot]:
        return {partition: Slot(min(self.publisher.end(topic, partition), limit)) for partition in range(PARTITIONS)}

    def key_ends(self) -> dict[tuple[str, int], int]:
        """For a claimant: where the target's partitions end."""
        return {(self.target, partition): self.publisher.end(self.target, partition) for partition in range(PARTITIONS)}

    def append(self, record_key: bytes, value: bytes, partition: int) -> None:
        """Somebody else's record."""
        record = Outgoing(topic=self.target, record_key=record_key, value=value)
        self.publisher.log.append((self.target, partition, self.publisher.end(self.target, partition), record))

    def sent(self, topic: str = "") -> list[Outgoing]:
        wanted = topic or self.target
        return [record for batch in self.publisher.batches for record in batch if record.topic == wanted]

    def close(self) -> None:
        self.reader.close()
        self.heart.close()
        self.writer.close()


def bounded(work: Coroutine[Any, Any, Any]) -> None:
    asyncio.run(asyncio.wait_for(work, PATIENCE_S))


@asynccontextmanager
async def under_way(work: Coroutine[Any, Any, Any]) -> AsyncIterator["asyncio.Task[Any]"]:
    """The work, given time to get as far as it can."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.sleep(0.05)
        yield task
    finally:
        task.cancel()
