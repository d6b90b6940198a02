"""Batches that hold more than a reader can: the broker refuses them, and what was written before stops no reader."""

import time
from collections.abc import Iterator

import msgspec
import pytest
from confluent_kafka import KafkaError, Message, Producer
from kafka.admin import ConfigResource, ConfigResourceType

from keymill.kafka import cluster
from keymill.kafka.admin import check_topics, create_topics, end_offsets
from keymill.kafka.batch import Batch, batch_at
from keymill.kafka.latest import read_whole
from keymill.kafka.scan import Scanner
from keymill.kafka.tail import Tail
from schemas.topics import ASSETS, CATALOGUE, DECISIONS, STATUS, Topic
from tests.authentic import installation
from tests.broker import running_broker

pytestmark = pytest.mark.timeout(120)
MANY = 1000
BIG = 120_000
"""A thousand of them are 120 MB, above what librdkafka unpacks, and 4 KB when packed."""


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    installation(tmp_path_factory.mktemp("keys"))
    with running_broker() as address:
        create_topics(address, 1)
        yield address


def send(bootstrap: str, topic: str, codec: str, count: int, value: bytes) -> list[Message | KafkaError]:
    """What became of these records, sent as one batch."""
    told: list[Message | KafkaError] = []
    limits = {"message.max.bytes": 200_000_000, "batch.size": 200_000_000, "queue.buffering.max.kbytes": 500_000}
    producer = Producer({"bootstrap.servers": bootstrap, "compression.type": codec, "linger.ms": 1000, **limits})
    for _ in range(count):
        producer.produce(topic, value, b"demo/x", 0, on_delivery=lambda error, sent: told.append(error or sent))
    assert producer.flush(60) == 0
    return told


def as_before(bootstrap: str, topic: Topic) -> str:
    """The topic as releases before have made it: what a producer packs stays as it is."""
    with cluster.connected(bootstrap) as client:
        client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic.name, {"compression.type": "producer"})])
    return topic.name


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("topic", [ASSETS, STATUS], ids=lambda topic: topic.name)
def test_the_broker_refuses_what_unpacks_to_more_than_the_topic_takes(bootstrap: str, topic: Topic, codec: str) -> None:
    """Whatever its codec; a batch that fits is taken."""
    (refused,) = send(bootstrap, topic.name, codec, 1, bytes(4 * topic.max_message_bytes))
    assert isinstance(refused, KafkaError) and refused.code() == KafkaError.MSG_SIZE_TOO_LARGE
    assert all(isinstance(each, Message) for each in send(bootstrap, topic.name, codec, 5, b"good"))


def test_a_topic_that_keeps_what_producers_pack_has_drifted(bootstrap: str) -> None:
    """For every topic, and every program goes on."""
    assert {"uncompressed"} == {topic.all_configs(1)["compression.type"] for topic in CATALOGUE}
    name = as_before(bootstrap, CATALOGUE[1])
    (said,) = [each for each in check_topics(bootstrap) if each.topic == name]
    assert (said.what, said.expected, said.found, said.fatal) == ("compression.type", "uncompressed", "producer", False)


@pytest.fixture(scope="module")
def mined(bootstrap: str) -> tuple[str, Batch]:
    """A topic with a batch that nobody can unpack between others, and that batch."""
    name = as_before(bootstrap, DECISIONS)
    send(bootstrap, name, "zstd", 3, b"before")
    sent = send(bootstrap, name, "zstd", MANY, bytes(BIG))
    assert all(isinstance(each, Message) for each in sent)
    send(bootstrap, name, "zstd", 2, b"behind")
    found = batch_at(bootstrap, name, 0, 5)
    assert found is not None and (found.first, found.last) == (3, MANY + 2) and found.size < 50_000
    return name, found


def test_a_scan_passes_over_it(bootstrap: str, mined: tuple[str, Batch]) -> None:
    """Every record before and behind it is read, and what was not is named; also from within it, and up to its end."""
    name, lost = mined
    end = end_offsets(bootstrap, name)[0]
    with Scanner(bootstrap) as scanner:
        assert [0, 1, 2, end - 2, end - 1] == [each.offset() for each in scanner.read(name, 0, end=end)]
        assert [end - 2] == [each.offset() for each in scanner.read(name, 0, start=500, end=end - 1)]
        assert [0, 1, 2] == [each.offset() for each in scanner.read(name, 0, end=lost.last + 1)]
        assert [0, 1, 2] == [each.offset() for each in scanner.read(name, 0, end=10)]
        assert [lost] * 4 == scanner.passed


def test_a_tail_passes_over_it(bootstrap: str, mined: tuple[str, Batch]) -> None:
    """It is caught up, and a checkpoint behind the batch never leads back."""
    name, lost = mined
    tail, found = Tail({"bootstrap.servers": bootstrap}, [name]), []
    tail.start({})
    deadline = time.monotonic() + 20
    while not tail.caught_up and time.monotonic() < deadline:
        found += [each.offset for each in tail.poll(0.5)]
    tail.close()
    assert [0, 1, 2, lost.last + 1, lost.last + 2] == found
    assert lost.last + 3 == tail.slots[name][0].offset


def test_a_topic_that_is_read_whole_is_read_past_it(bootstrap: str, mined: tuple[str, Batch]) -> None:
    """As the status topic is at every start."""
    name, lost = mined
    found = read_whole(bootstrap, msgspec.structs.replace(STATUS, name=name))
    assert [0, 1, 2, lost.last + 1, lost.last + 2] == [each.offset for each in found.records]
