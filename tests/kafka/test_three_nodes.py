"""Three nodes on one machine: the same code, for what one broker cannot show."""

from collections.abc import Iterator

import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from keymill.kafka.embedded import EmbeddedKafka
from tests.broker import embedded_kafka

pytestmark = pytest.mark.timeout(170)
TOPIC = "replicated"
FENCED_S = 90
"""A frozen controller and leader costs an election, a session, and up to replica.lag.time.max.ms (30 s)."""


@pytest.fixture(scope="module")
def kafka() -> Iterator[EmbeddedKafka]:
    """Three nodes and one topic that is on each of them."""
    with embedded_kafka(nodes=3) as kafka:
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        admin.create_topics([NewTopic(TOPIC, 3, 3)])[TOPIC].result()
        yield kafka


def written(kafka: EmbeddedKafka, *, within_s: int) -> bool:
    """Say whether one record per partition is acknowledged by all in-sync replicas within the time."""
    # A frozen node takes connections and answers nothing: a client that asked it first must ask another soon.
    settings = {"acks": "all", "delivery.timeout.ms": within_s * 1000, "socket.timeout.ms": 5000, "log_level": 0}
    failed, producer = list[KafkaError](), Producer({"bootstrap.servers": kafka.bootstrap, **settings})
    for partition in range(3):
        producer.produce(TOPIC, b"x", partition=partition, on_delivery=lambda e, _: failed.append(e) if e else None)
    producer.flush()
    return not failed


def test_each_node_has_its_own_port_and_process(kafka: EmbeddedKafka) -> None:
    """Clients are given all three addresses, and each node says that all three are members."""
    assert 3 == len(set(kafka.pids)) == len(set(kafka.bootstrap.split(",")))
    for address in kafka.bootstrap.split(","):
        assert {0, 1, 2} == set(AdminClient({"bootstrap.servers": address}).list_topics(timeout=10).brokers)


def test_two_of_three_go_on_one_of_three_does_not(kafka: EmbeddedKafka) -> None:
    """One lost node costs nothing; with two lost nothing is acknowledged; both back, writing goes on."""
    assert written(kafka, within_s=20)
    kafka.kill(1)
    assert written(kafka, within_s=30)
    kafka.kill(2)
    assert {1: -9, 2: -9} == kafka.poll()
    assert not written(kafka, within_s=5)
    kafka.restart(1)
    kafka.restart(2)
    assert not kafka.poll()
    assert written(kafka, within_s=30)


def test_paused_node_is_worked_around(kafka: EmbeddedKafka) -> None:
    """A frozen node loses its leaderships to the others and takes part again when it goes on."""
    kafka.pause(0)
    try:
        assert written(kafka, within_s=FENCED_S)
    finally:
        kafka.resume(0)
    assert written(kafka, within_s=30)
