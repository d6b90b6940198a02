"""A plain producer with explicit partitions, for records as our programs write them and as nobody should."""

from confluent_kafka import Producer

from keymill.kafka.authentication import with_authenticator
from keymill.kafka.outgoing import Outgoing
from schemas import topics
from schemas.codec import encode
from schemas.values import Record
from tests.view_records import PARTITIONS, TOPIC_OF

WAIT_S = 20.0


class Sender:
    """Produces with explicit partitions and gives the coordinates that the broker acknowledged."""

    def __init__(self, bootstrap: str, **more: object) -> None:
        self.producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "acks": "all", **more})
        self.sent: list[tuple[str, int, int, bytes | None]] = []

    def raw(self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: object = None) -> None:
        def acknowledged(error: object, message: object) -> None:
            assert error is None, error
            self.sent.append((message.topic(), message.partition(), message.offset(), message.key()))  # type: ignore[attr-defined]

        self.producer.produce(topic, value, key, partition=partition, on_delivery=acknowledged, headers=headers)
        self.producer.poll(0)

    def record(self, keyed: tuple[bytes, Record], partition: int | None = None) -> None:
        key, record = keyed
        topic = TOPIC_OF[type(record)]
        right = topics.partition_of(topic, key, PARTITIONS)
        headers = with_authenticator(Outgoing(topic=topic.name, record_key=key, value=encode(record)))
        self.raw(topic.name, right if partition is None else partition, key, encode(record), headers)

    def flush(self) -> None:
        assert self.producer.flush(WAIT_S) == 0
