"""Reading a partition from a place to its end, once: for replay, audits and look-ups."""

from collections.abc import Iterator
from types import TracebackType
from typing import Final, NamedTuple, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from keymill.errors import Corrupt, Unavailable
from keymill.kafka.authentication import refusal_of
from keymill.kafka.batch import Batch, Detour, is_impassable
from keymill.kafka.positions import known_offset
from keymill.telemetry import client_log
from schemas import topics

BATCH: Final = 10_000
POLL_S: Final = 0.5
STALL_S: Final = 30.0
"""Without progress for so long the brokers are gone, or a transaction pins the log."""


MAX_STANDING: Final = 10_000
"""Refused records that are remembered; about 2 MB."""
NAMED_BYTES: Final = 512
"""Bytes of a refused record's key that are kept: a longer one is no record key of ours."""
DECIDED: Final = frozenset({topics.POLICY_CHANGES.name, topics.REQUESTS.name})
"""Records that a processor decides: what does not verify is a dead letter, not passed over."""


class Refused(NamedTuple):
    """A record that did not verify; `timestamp` is the broker's, epoch ms."""

    topic: str
    partition: int
    record_key: bytes
    offset: int
    timestamp: int
    reason: str


Judged = tuple[Message, str]


class Scanner:
    """
    A consumer that reads one partition after the other; connecting costs a tenth of a second, once.

    A context manager. One read at a time: the next one ends the one before. A batch that cannot be read is passed over,
    logged, and kept in `passed`; `standing` holds records that did not verify and are the last of their record keys,
    of all that was read.
    """

    def __init__(self, bootstrap: str) -> None:
        self.passed: list[Batch] = []
        self.standing: dict[tuple[str, int, bytes], Refused] = {}
        self._bootstrap = bootstrap
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "keymill-scan",  # never joined: assign() only
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "enable.partition.eof": False,
                "fetch.message.max.bytes": 4_194_304,
                "fetch.queue.backoff.ms": 10,  # 1,000 unless told: how long fetching rests when 100,000 records wait
                "fetch.wait.max.ms": 10,  # the next partition's first request waits behind this one's last
            },
            logger=client_log(),
        )

    def read(self, topic: str, partition: int, *, start: int | None = None, end: int) -> Iterator[Message]:
        """See `scan_partition`: what does not verify is passed over, so that the record before it counts."""
        return (message for message, reason in self.judge(topic, partition, start=start, end=end) if not reason)

    def judge(self, topic: str, partition: int, *, start: int | None = None, end: int) -> Iterator[Judged]:
        """Yield what `read` does and what it passes over, each with the reason; empty for what may be trusted."""
        for message in self.raw(topic, partition, start=start, end=end):
            reason = refusal_of(message, topic) if topic not in DECIDED else ""
            if reason or self.standing:
                self._note(message, topic, partition, reason)
            yield message, reason

    def _note(self, message: Message, topic: str, partition: int, reason: str) -> None:
        record_key = (message.key() or b"")[:NAMED_BYTES]
        place = (topic, partition, record_key)
        if not reason:
            self.standing.pop(place, None)
        elif place in self.standing or len(self.standing) < MAX_STANDING:
            _, timestamp = message.timestamp()
            self.standing[place] = Refused(*place, message.offset() or 0, timestamp, reason)

    def raw(self, topic: str, partition: int, *, start: int | None = None, end: int) -> Iterator[Message]:
        """Yield everything, whether it verifies or not."""
        first = _first(self._consumer, topic, partition)
        begin = first if start is None else start
        if begin < first:
            raise Corrupt(f"{topic}-{partition} begins at offset {first}, offset {begin} is gone")
        if begin < end:
            self._consumer.assign([TopicPartition(topic, partition, begin)])
            detour = Detour(self._bootstrap, self._consumer)
            try:
                yield from _records(self._consumer, detour, topic, partition, begin, end)
            finally:
                self.passed += detour.passed

    def close(self) -> None:
        """Let go."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def scan_partition(
    bootstrap: str, topic: str, partition: int, *, start: int | None = None, end: int
) -> Iterator[Message]:
    """
    Every record of a partition with start <= offset < end, in order. *start* None is the first one kept.

    The end is the caller's, taken beforehand with a read_uncommitted lens; control records and compaction holes are
    passed over, so the position counts, not the last record. Passed over is a batch that cannot be read, too.

    Raises:
        Unavailable: no answer, or no progress, for 30 s.
        Corrupt: the place to start at does not exist any more.
    """
    with Scanner(bootstrap) as scanner:
        yield from scanner.read(topic, partition, start=start, end=end)


def headers_of(message: Message) -> tuple[tuple[str, bytes], ...]:
    """A record's headers, a null value empty; none at all when a name is no UTF-8, as in `streams.batches`."""
    try:
        pairs: list[tuple[str, bytes | None]] | None = message.headers()  # type: ignore[assignment]
        return tuple((name, value or b"") for name, value in pairs) if pairs else ()
    except (UnicodeDecodeError, SystemError):  # the client's C code returns and raises at once
        return ()


def _first(consumer: Consumer, topic: str, partition: int) -> int:
    try:
        low, _ = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=STALL_S)
        return known_offset(topic, partition, low)
    except KafkaException as error:
        raise _failure(error.args[0], topic, partition) from None


def _records(consumer: Consumer, detour: Detour, topic: str, partition: int, begin: int, end: int) -> Iterator[Message]:
    position, idle_s = begin, 0.0
    while position < end:
        for message in _next(consumer):
            if is_impassable(message):
                passed = detour.past(message)
                position = max(position, passed.last + 1 if passed else 0)
                continue
            if error := message.error():
                raise _failure(error, topic, partition)
            offset = message.offset()
            if offset is not None and offset < end:
                yield message
        reached = consumer.position([TopicPartition(topic, partition)])[0].offset
        idle_s = 0.0 if reached > position else idle_s + POLL_S
        position = max(position, reached)
        if idle_s > STALL_S:
            raise Unavailable(
                f"{topic}-{partition}: nothing after offset {position} for {STALL_S:.0f} s, expected up to {end}"
            )


def _next(consumer: Consumer) -> list[Message]:
    """What is there as soon as something is; consume() alone waits out its time for a full batch."""
    first = consumer.poll(POLL_S)
    return [] if first is None else [first, *consumer.consume(BATCH, timeout=0)]


def _failure(error: KafkaError, topic: str, partition: int) -> Corrupt | Unavailable:
    name = f"{topic}-{partition}: {error.str()}"
    return Corrupt(name) if error.code() == KafkaError._AUTO_OFFSET_RESET else Unavailable(name)
