"""
Runs of records, and the ledger that says how far a partition may be committed.

Pure values: nothing here knows Faust or a broker. The transport (`streams.transport`) delivers runs, the fence
(`streams.fence`) marks them done, and only an unbroken prefix of done runs is ever committed (ARCHITECTURE.md, step 5).
"""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Final

import msgspec

from keymill.errors import Corrupt

TopicPartition = tuple[str, int]
"""(topic, partition). Faust's and aiokafka's named tuples compare and hash equal to it."""


UNPACKED_MAX: Final = 32 * 1024 * 1024
"""Of a batch that its producer has compressed: thirty times what producers put into one for topics of 1 MiB."""
UNREADABLE_BATCH_HEADER: Final = "keymill-unreadable-batch"
"""Name of the header of a record that stands for one that was not unpacked; its value is the reason."""


class RawRecord(msgspec.Struct, frozen=True, gc=False):
    """One record as the broker has it; nothing is decoded."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    timestamp_type: int | None
    """0 CreateTime, 1 LogAppendTime, None where the message format has none."""
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


class Run(msgspec.Struct, frozen=True, eq=False):
    """
    All records that one fetch brought of one partition, in offset order and never empty when a handler sees it.

    Offsets may have gaps (compaction, transaction markers), so a run covers [start, end), not its records:
    `start` is the position that was recorded before the fetch, `end` the position after it, which is what
    Kafka would be told once the run is done. Two runs are equal only if they are the same object.
    """

    topic: str
    partition: int
    generation: int
    """Of the consumer group, captured before the fetch."""
    epoch: int
    """Counts assignments and seeks of this partition in this process; a run of another epoch is foreign."""
    start: int
    end: int
    records: Sequence[RawRecord]
    size: int
    """Bytes of keys and values."""

    @property
    def tp(self) -> TopicPartition:
        """The partition it came from."""
        return (self.topic, self.partition)

    @property
    def last(self) -> int:
        """Offset of the last record."""
        return self.records[-1].offset if self.records else self.end - 1

    def __repr__(self) -> str:
        return f"<Run {self.topic}-{self.partition} [{self.start}, {self.end}) generation {self.generation}>"


class Stamp(msgspec.Struct, frozen=True):
    """What a fetch must still find unchanged when its records arrive."""

    generation: int
    epoch: int


class Commit(msgspec.Struct, frozen=True):
    """An offset that may be committed, and the stamp under which that is true."""

    tp: TopicPartition
    end: int
    stamp: Stamp


class _Entry:
    __slots__ = ("done", "run")

    def __init__(self, run: Run) -> None:
        self.run = run
        self.done = not run.records


class _Partition:
    __slots__ = ("committed", "entries", "open_bytes", "open_runs", "position", "prefix_end", "stamp")

    def __init__(self, stamp: Stamp, position: int) -> None:
        self.stamp = stamp
        self.position = position
        self.prefix_end = position
        self.committed = position
        self.entries: deque[_Entry] = deque()
        self.open_runs = 0
        self.open_bytes = 0

    def advance(self) -> None:
        """Drop the done entries at the head; what follows an open run waits for it."""
        while self.entries and self.entries[0].done:
            self.prefix_end = self.entries.popleft().run.end


class Ledger:
    """
    Per partition the FIFO of delivered runs, and the end of its done prefix.

    Promises: `committable` never names an offset beyond a run that is not done; a run of another generation or
    epoch is neither accepted nor marked; the runs of a partition are contiguous, and a gap is `Corrupt`.
    """

    def __init__(self) -> None:
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._epochs = count(1)

    def assign(self, tp: TopicPartition, *, generation: int, position: int) -> Stamp:
        """Start over at *position*: after an assignment or a seek. Runs delivered before are foreign from now on."""
        stamp = Stamp(generation, next(self._epochs))
        self._partitions[tp] = _Partition(stamp, position)
        return stamp

    def revoke(self, tps: Iterable[TopicPartition]) -> None:
        """Forget the partitions; their runs can no longer be marked or committed."""
        for tp in tps:
            self._partitions.pop(tp, None)

    def assigned(self) -> frozenset[TopicPartition]:
        """Partitions with a known position."""
        return frozenset(self._partitions)

    def stamp(self, tp: TopicPartition) -> Stamp | None:
        """The stamp that a fetch of *tp* must carry now."""
        partition = self._partitions.get(tp)
        return partition.stamp if partition else None

    def position(self, tp: TopicPartition) -> int | None:
        """Where the next run of *tp* must start."""
        partition = self._partitions.get(tp)
        return partition.position if partition else None

    def deliver(self, run: Run) -> bool:
        """
        Append a run; one without records (control records only) is done at once.

        Returns:
            False for a foreign run: its records must be dropped, a seek has already asked for them again.

        Raises:
            Corrupt: the run does not start where the previous one ended, so records would be lost or repeated.
        """
        partition = self._own(run)
        if partition is None:
            return False
        inside = not run.records or (run.start <= run.records[0].offset and run.records[-1].offset < run.end)
        if run.start != partition.position or run.end <= run.start or not inside:
            raise Corrupt(
                f"{run.topic}-{run.partition}: expected records from offset {partition.position}, the broker answered "
                f"[{run.start}, {run.end}): the topic was truncated or re-created; check it with `keymill topics check`"
            )
        entry = _Entry(run)
        partition.entries.append(entry)
        partition.position = run.end
        if entry.done:
            partition.advance()
        else:
            partition.open_runs += 1
            partition.open_bytes += run.size
        return True

    def mark_done(self, run: Run) -> bool:
        """Record that everything the run calls for is durable. False if the run is foreign or was done before."""
        partition = self._own(run)
        if partition is None:
            return False
        for entry in partition.entries:
            if entry.run is run:
                if entry.done:
                    return False
                entry.done = True
                partition.open_runs -= 1
                partition.open_bytes -= run.size
                partition.advance()
                return True
        return False

    def is_current(self, run: Run) -> bool:
        """True while the partition still belongs to the generation and epoch of the run."""
        return self._own(run) is not None

    def done_prefix_end(self, tp: TopicPartition) -> int | None:
        """The offset that may be committed: the end of the unbroken prefix of done runs. None if there is no news."""
        partition = self._partitions.get(tp)
        return partition.prefix_end if partition and partition.prefix_end > partition.committed else None

    def committable(self) -> list[Commit]:
        """Every partition's `done_prefix_end` that is news, with the stamp it holds under."""
        commits = []
        for tp, partition in self._partitions.items():
            end = self.done_prefix_end(tp)
            if end is not None:
                commits.append(Commit(tp, end, partition.stamp))
        return commits

    def mark_committed(self, commit: Commit) -> None:
        """Record that the broker has accepted the commit; ignored if the partition has changed hands since."""
        partition = self._partitions.get(commit.tp)
        if partition is not None and partition.stamp == commit.stamp:
            partition.committed = commit.end

    def oldest_ms(self) -> int | None:
        """Return the timestamp of the oldest record that is delivered and not done; None where there is none."""
        waiting = (entry.run for p in self._partitions.values() for entry in p.entries if not entry.done)
        return min((run.records[0].timestamp_ms for run in waiting), default=None)

    def open_load(self, topic: str) -> tuple[int, int]:
        """(runs, bytes) of *topic* that are delivered and not done: what backpressure counts."""
        open_ = [p for (name, _), p in self._partitions.items() if name == topic]
        return sum(p.open_runs for p in open_), sum(p.open_bytes for p in open_)

    def _own(self, run: Run) -> _Partition | None:
        partition = self._partitions.get(run.tp)
        if partition is None or partition.stamp.epoch != run.epoch or partition.stamp.generation != run.generation:
            return None
        return partition
