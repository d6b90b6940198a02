"""
The batches of a partition by their heads, which nothing has to be unpacked for; and the way past one that cannot be.

Records travel in batches that their producer may have compressed: 3 KB can hold 100 MB. The topics of the catalogue
are `compression.type=uncompressed`, so that the broker unpacks what comes, and refuses a batch above the topic's
`max.message.bytes`. What was written before that was set, or stands on a topic that drifted, librdkafka does not unpack
beyond 100 MB: it reports the batch and asks for it again, for ever. A `Detour` asks the broker where the next one
begins, and goes on there.
"""

import struct
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, Message
from confluent_kafka import TopicPartition as Place
from kafka import TopicPartition
from kafka.errors import for_code
from kafka.protocol.consumer import FetchRequest

from keymill import telemetry
from keymill.kafka.cluster import connected

HEAD: Final = struct.Struct(">qiibIhi")
"""Base offset, length after this field, leader epoch, magic, CRC, attributes, last offset delta. Source: KIP-98."""
LENGTH_ENDS_AT: Final = 12
FETCH_VERSION_MAX: Final = 12
"""From 13 on topics are named by their ids."""
IMPASSABLE: Final = frozenset({KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG, KafkaError.MSG_SIZE_TOO_LARGE})
"""
What librdkafka says of a batch that it cannot read. The last one too: brokers give the first batch whole whatever its
size, so it is no question of a limit, but of lengths inside the batch that are wrong.
"""
TRIES: Final = 2
"""A batch that came damaged over the wire is whole at the next try."""

log = telemetry.logger("kafka.batch")


@dataclass(frozen=True, slots=True)
class Batch:
    """The offsets *first* to *last* of a partition, in *size* bytes as they are stored."""

    topic: str
    partition: int
    first: int
    last: int
    size: int

    def __str__(self) -> str:
        span = f"offset {self.first}" if self.first == self.last else f"offsets {self.first} to {self.last}"
        return f"{self.topic}-{self.partition} {span} ({self.size} bytes)"


def batch_at(bootstrap: str, topic: str, partition: int, offset: int) -> Batch | None:
    """
    The batch that holds *offset*, or the first one behind it; None at the end of the log.

    Raises:
        Unavailable: no broker answers.
        Misconfigured: there is no such partition.
    """
    place = TopicPartition(topic, partition)
    with connected(bootstrap) as client:
        data: bytes = client._manager.run(_first_batch, client, place, offset)
    if len(data) < HEAD.size:
        return None
    first, length, _, _, _, _, last_delta = HEAD.unpack_from(data)
    return Batch(topic, partition, first, first + last_delta, length + LENGTH_ENDS_AT)


async def _first_batch(client: Any, place: TopicPartition, offset: int) -> bytes:
    """With room for one byte the broker gives one batch, whole (KIP-74)."""
    (leader,) = await client._async_get_leader_for_partitions({place})
    wanted = FetchRequest.FetchTopic.FetchPartition(
        partition=place.partition, current_leader_epoch=-1, fetch_offset=offset, last_fetched_epoch=-1,
        log_start_offset=-1, partition_max_bytes=1,
    )  # fmt: skip
    request = FetchRequest(
        replica_id=-1, max_wait_ms=0, min_bytes=0, max_bytes=1, isolation_level=0, session_id=0, session_epoch=-1,
        topics=[FetchRequest.FetchTopic(topic=place.topic, partitions=[wanted])], forgotten_topics_data=[], rack_id="",
        max_version=FETCH_VERSION_MAX,
    )  # fmt: skip
    answer = await client._manager.send(request, node_id=leader)
    for code in (answer.error_code, *(part.error_code for topic in answer.responses for part in topic.partitions)):
        if code:
            raise for_code(code)(str(place))
    (found,) = (part.records for topic in answer.responses for part in topic.partitions)
    return bytes(found or b"")


class Detour:
    """Leads a consumer past batches that it cannot read; each is logged, counted, and kept in `passed`."""

    def __init__(self, bootstrap: str, consumer: Consumer) -> None:
        self.passed: list[Batch] = []
        self._bootstrap = bootstrap
        self._consumer = consumer
        self._tried: dict[tuple[str, int], tuple[int, int]] = {}

    def past(self, message: Message) -> Batch | None:
        """
        Go on behind the batch that *message*, an error, is about.

        Returns:
            The batch; None when there is nothing to do yet: it is tried once more, or was passed already.

        Raises:
            Unavailable: no broker says where the next batch begins.
        """
        topic, partition, offset = message.topic() or "", message.partition() or 0, message.offset() or 0
        before, times = self._tried.get((topic, partition), (-1, 0))
        if offset < before:
            return None  # came before the seek
        self._tried[topic, partition] = offset, times + 1 if offset == before else 1
        if self._tried[topic, partition][1] < TRIES:
            return None
        found = batch_at(self._bootstrap, topic, partition, offset)
        if found is None:
            return None
        self._consumer.seek(Place(topic, partition, found.last + 1))
        self._tried[topic, partition] = found.last + 1, 0
        self.passed.append(found)
        telemetry.BATCHES_PASSED.labels(topic).inc()
        log.error("a batch cannot be read and is passed over", batch=str(found), reason=_reason(message))
        return found


def is_impassable(message: Message) -> bool:
    """Whether *message* says that a batch cannot be read."""
    error = message.error()
    return error is not None and error.code() in IMPASSABLE


def _reason(message: Message) -> str:
    error = message.error()
    return error.str() if error else ""
