"""The publisher against a real broker that is paused, killed and misconfigured under it."""

import asyncio
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from itertools import pairwise

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from keymill.errors import Corrupt, InvalidRecord, Misconfigured, NotReady, Unavailable
from keymill.kafka import cluster
from keymill.kafka.admin import create_topics, end_offsets, require_topics
from keymill.kafka.authentication import is_authenticated
from keymill.kafka.delivery import failure_of
from keymill.kafka.embedded import EmbeddedKafka
from keymill.kafka.outgoing import AUTHENTICATOR_OVERHEAD, Outgoing, place
from keymill.kafka.producer import GRACE_S, Publisher
from schemas.topics import ASSETS, BY_NAME, CATALOGUE, DEAD_LETTERS, KEYS
from tests.authentic import installation
from tests.broker import embedded_kafka

pytestmark = pytest.mark.timeout(170)
COUNTS = dict.fromkeys(BY_NAME, 12)
PATIENCE_S = 4.0


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    installation(tmp_path_factory.mktemp("keys"), "demo", "a")
    with embedded_kafka() as kafka:
        create_topics(kafka.bootstrap)
        yield kafka


@pytest.fixture
def publisher(kafka: EmbeddedKafka) -> Iterator[Publisher]:
    counts = {name: topic.partitions for name, topic in require_topics(kafka.bootstrap, list(BY_NAME)).items()}
    publisher = Publisher(kafka.bootstrap, counts, delivery_timeout_s=PATIENCE_S)
    yield publisher
    publisher.close()


def key_record(index: int, value: bytes = b"v", partition: int | None = None) -> Outgoing:
    return Outgoing(topic=KEYS.name, record_key=b"demo/asset-%d" % index, value=value, partition=partition)


def read(kafka: EmbeddedKafka, topic: str, start: dict[int, int]) -> list[tuple[int, int, bytes, bytes]]:
    """Partition, offset, record key and value of everything from *start* on."""
    ends = {partition: end for partition, end in end_offsets(kafka.bootstrap, topic).items() if end > start[partition]}
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "test", "enable.partition.eof": "true"})
    consumer.assign([TopicPartition(topic, partition, start[partition]) for partition in ends])
    found: list[tuple[int, int, bytes, bytes]] = []
    unread, deadline = set(ends), time.monotonic() + 30
    while unread:
        assert time.monotonic() < deadline
        for message in consumer.consume(1000, 0.2):
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            if message.error():
                unread.discard(partition)
            else:
                assert offset is not None
                found.append((partition, offset, message.key() or b"", message.value() or b""))
    consumer.close()
    return found


def test_the_broker_has_every_record_on_its_golden_partition(kafka: EmbeddedKafka, publisher: Publisher) -> None:
    """For every topic of the catalogue: where the golden vectors say, which another implementation computed."""
    golden = json.loads(files("schemas").joinpath("golden/partitions.json").read_text())["topics"]
    wanted = [vector for vector in golden if vector["partitions"] == 12 and vector["topic"] != DEAD_LETTERS.name]
    assert {vector["topic"] for vector in wanted} == BY_NAME.keys() - {DEAD_LETTERS.name}
    starts = {name: end_offsets(kafka.bootstrap, name) for name in BY_NAME}
    deliveries = [publisher.send(v["topic"], v["record_key"].encode(), b"golden") for v in wanted]
    deliveries.append(publisher.send(DEAD_LETTERS.name, b"drm.assets.v1/7/42", b"golden", partition=7))
    publisher.flush_all(deliveries)
    for name in BY_NAME:
        found = {(record_key, partition) for partition, _, record_key, _ in read(kafka, name, starts[name])}
        expected = {(v["record_key"].encode(), v["partition"]) for v in wanted if v["topic"] == name}
        assert found == (expected or {(b"drm.assets.v1/7/42", 7)})


def test_a_batch_keeps_its_order_and_tells_its_offsets(kafka: EmbeddedKafka, publisher: Publisher) -> None:
    """20,000 records of four batches at once: each where its offset says, in order within a partition and batch."""
    start = end_offsets(kafka.bootstrap, KEYS.name)
    batches = [[key_record(index % 97, b"%d/%d" % (batch, index)) for index in range(5000)] for batch in range(4)]

    async def publish() -> list[list[int]]:
        return await asyncio.gather(*map(publisher.publish, batches))

    answers = asyncio.run(publish())
    stored = {
        (partition, offset): (record_key, value)
        for partition, offset, record_key, value in read(kafka, KEYS.name, start)
    }
    assert len(stored) == 20_000
    for records, offsets in zip(batches, answers, strict=True):
        last = dict.fromkeys(range(12), -1)
        for record, offset in zip(records, offsets, strict=True):
            partition = place(record, COUNTS)
            assert stored[partition, offset] == (record.record_key, record.value)
            assert offset > last[partition]
            last[partition] = offset


def test_the_event_loop_goes_on(publisher: Publisher) -> None:
    """Handing over 100,000 records lets others run; the longest pause is less than 0.6 s of this thread's time."""
    records = [key_record(index % 97, b"v" * 300) for index in range(100_000)]
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            ticks.append(time.thread_time())
            await asyncio.sleep(0.001)

    async def both() -> None:
        ticking = asyncio.create_task(tick())
        await asyncio.sleep(0.01)
        await publisher.publish(records)
        ticking.cancel()

    asyncio.run(both())
    assert len(ticks) > 20
    assert max(after - before for before, after in pairwise(ticks)) < 0.6


def test_throughput(publisher: Publisher, record_property: Callable[[str, object], None]) -> None:
    """The figure of the report: records of 300 bytes a second in batches of 1,000, four under way."""
    records = [key_record(index, b"v" * 300, partition=index % 12) for index in range(1000)]
    rounds = iter(range(200))

    async def one() -> None:
        for _ in rounds:
            await publisher.publish(records)

    async def all_of_them() -> float:
        await publisher.publish(records)
        began = time.monotonic()
        await asyncio.gather(*(one() for _ in range(4)))
        return 200_000 / (time.monotonic() - began)

    rate = asyncio.run(all_of_them())
    record_property("records_per_s", round(rate))
    print(f"\n{rate:,.0f} acknowledged records of 300 bytes a second")
    assert rate > 10_000


def settled_ends(kafka: EmbeddedKafka, limit_s: float = 60) -> dict[int, int]:
    """The ends of the key topic once they have stood still for a second; a broker that thaws has none for a moment."""
    deadline = time.monotonic() + limit_s
    ends: dict[int, int] = {}
    while True:
        before = ends
        try:
            ends = end_offsets(kafka.bootstrap, KEYS.name)
        except Unavailable:
            assert time.monotonic() < deadline
        if ends and before == ends:
            return ends
        time.sleep(1.0)


def test_a_paused_broker_is_a_retriable_error_in_time(kafka: EmbeddedKafka, publisher: Publisher) -> None:
    """
    Within the delivery timeout, and the same publisher works again.

    What was on the wire when the broker froze may still be written when it thaws, at its own pace; once that is over,
    nothing of the lost batch comes any more.
    """
    asyncio.run(publisher.publish([key_record(0)]))
    kafka.pause()
    try:
        began = time.monotonic()
        with pytest.raises(Unavailable, match=r"drm\.keys\.v1 record demo/asset-"):
            asyncio.run(publisher.publish([key_record(index, b"lost") for index in range(2000)]))
        assert PATIENCE_S - 1 < time.monotonic() - began < PATIENCE_S + GRACE_S
    finally:
        kafka.resume()
    start = settled_ends(kafka)
    for _ in range(3):
        asyncio.run(publisher.publish([key_record(index, b"again") for index in range(2000)]))
    values = [value for *_, value in sorted(read(kafka, KEYS.name, start))]
    assert values.count(b"again") == 6000
    by_partition: dict[int, list[bytes]] = {}
    for partition, _, _, value in sorted(read(kafka, KEYS.name, start)):
        by_partition.setdefault(partition, []).append(value)
    for column in by_partition.values():
        assert b"lost" not in column[column.index(b"again") :]


def test_what_follows_a_lost_record_is_lost_with_it(kafka: EmbeddedKafka, publisher: Publisher) -> None:
    """A later batch fails at once with an earlier one: an asset record must not arrive without its key record."""
    publisher.flush_all([publisher.send(KEYS.name, b"demo/a", b"v")])
    kafka.pause()
    try:
        earlier = publisher.send(KEYS.name, b"demo/a", b"v")
        time.sleep(PATIENCE_S - 1)
        later = publisher.send(KEYS.name, b"demo/a", b"v")
        assert earlier.wait(PATIENCE_S)
        assert later.wait(1)
    finally:
        kafka.resume()
    for lost in (earlier, later):
        with pytest.raises(Unavailable):
            lost.result()


def test_a_killed_broker_that_comes_back_gets_every_record_once(kafka: EmbeddedKafka) -> None:
    """A crash in the middle of a publish, shorter than the delivery timeout, costs nothing: no loss, no double."""
    publisher = Publisher(kafka.bootstrap, COUNTS, delivery_timeout_s=60)
    start = end_offsets(kafka.bootstrap, KEYS.name)
    sent = [key_record(index, b"%d" % index) for index in range(60_000)]

    async def through_a_crash() -> list[list[int]]:
        batches = [sent[first : first + 1000] for first in range(0, len(sent), 1000)]
        publishing = [asyncio.create_task(publisher.publish(batch)) for batch in batches[:20]]
        await asyncio.sleep(0.02)
        await asyncio.to_thread(kafka.kill)
        publishing += [asyncio.create_task(publisher.publish(batch)) for batch in batches[20:]]
        await asyncio.to_thread(kafka.restart)
        return await asyncio.gather(*publishing)

    answers = asyncio.run(through_a_crash())
    publisher.close()
    stored = read(kafka, KEYS.name, start)
    assert sorted(int(value) for *_, value in stored) == list(range(60_000))
    assert sum(map(len, answers)) == 60_000


def test_a_record_above_its_topics_limit_is_refused_before_anything_is_sent(
    kafka: EmbeddedKafka, publisher: Publisher
) -> None:
    """The record is named; the records before and after it are not written either. The largest that fits is."""
    start = end_offsets(kafka.bootstrap, KEYS.name)
    with pytest.raises(InvalidRecord, match=r"drm\.keys\.v1 record demo/asset-1 is too large.*takes 65536") as refused:
        asyncio.run(publisher.publish([key_record(0), key_record(1, b"v" * 65_500), key_record(2)]))
    assert (refused.value.code, refused.value.field) == ("too_large", "value")
    assert end_offsets(kafka.bootstrap, KEYS.name) == start
    for topic in CATALOGUE:
        own = AUTHENTICATOR_OVERHEAD if is_authenticated(topic.name) else 0
        fits = os.urandom(topic.max_message_bytes - 128 - len(b"a/b") - len(b"request-id") - 10 - 36 - own)
        headers = (("request-id", b"r" * 36),)
        publisher.flush_all([publisher.send(topic.name, b"a/b", fits, headers, 3)])


def test_a_narrower_limit_at_the_broker_is_misconfiguration(kafka: EmbeddedKafka, publisher: Publisher) -> None:
    """What the catalogue allows and the broker does not must not become a dead letter of a good event."""
    limit = {"max.message.bytes": "1000"}
    with cluster.connected(kafka.bootstrap) as client:
        client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, KEYS.name, limit)])
    try:
        with pytest.raises(Misconfigured, match=r"record demo/asset-5.*MSG_SIZE_TOO_LARGE"):
            asyncio.run(publisher.publish([key_record(5, os.urandom(2000))]))
    finally:
        limit["max.message.bytes"] = str(KEYS.max_message_bytes)
        with cluster.connected(kafka.bootstrap) as client:
            client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, KEYS.name, limit)])
    asyncio.run(publisher.publish([key_record(5, os.urandom(2000))]))


def test_an_abandoned_batch_raises_and_a_closed_publisher_takes_nothing(
    kafka: EmbeddedKafka, publisher: Publisher
) -> None:
    """At shutdown whoever waits is told at once, not after the delivery timeout."""
    publisher.flush_all([publisher.send(KEYS.name, b"demo/a", b"v")])
    kafka.pause()
    try:
        began = time.monotonic()

        async def abandoned() -> None:
            waiting = asyncio.create_task(publisher.publish([key_record(index) for index in range(100)]))
            await asyncio.sleep(0.2)
            await asyncio.to_thread(publisher.close, 0.1)
            await waiting

        with pytest.raises(Unavailable):
            asyncio.run(abandoned())
        assert time.monotonic() - began < PATIENCE_S - 1
    finally:
        kafka.resume()
    with pytest.raises(NotReady):
        publisher.send(KEYS.name, b"demo/a", b"v")


def test_close_lets_what_is_under_way_arrive(kafka: EmbeddedKafka) -> None:
    """Within the time that close is given."""
    publisher = Publisher(kafka.bootstrap, COUNTS, linger_ms=200)
    delivery = publisher.send(KEYS.name, b"demo/a", b"v")
    publisher.close(timeout_s=10)
    assert delivery.result() != [-1]


def test_a_cancelled_publish_harms_nobody(publisher: Publisher) -> None:
    """The next batch is published as if nothing had been."""

    async def cancelled() -> list[int]:
        first = asyncio.create_task(publisher.publish([key_record(index) for index in range(20_000)]))
        await asyncio.sleep(0.005)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await publisher.publish([key_record(1)])

    (offset,) = asyncio.run(cancelled())
    assert offset >= 0
    assert asyncio.run(publisher.publish([])) == []


def test_a_publisher_does_not_cross_a_fork(publisher: Publisher) -> None:
    """librdkafka's threads stay in the parent, so the child would wait for ever: refused instead."""
    publisher.flush_all([publisher.send(KEYS.name, b"demo/a", b"v")])
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def child() -> None:
        try:
            publisher.send(KEYS.name, b"demo/a", b"v")
        except Misconfigured as error:
            answers.put(str(error))
        os._exit(0)

    process = context.Process(target=child)
    process.start()
    process.join(20)
    assert process.exitcode == 0
    assert "before a fork" in answers.get()


def test_nothing_is_tombstoned(publisher: Publisher) -> None:
    """A tombstone on the key topic would be a key lost; the programming error is caught before it is sent."""
    for topic in CATALOGUE:
        with pytest.raises(ValueError, match="nothing is tombstoned"):
            publisher.send(topic.name, b"demo/a", None, partition=0)


def test_a_partition_that_was_not_adopted_is_refused(publisher: Publisher) -> None:
    """A number beyond the adopted count, or a topic whose count is not known."""
    with pytest.raises(Misconfigured, match="partition 12 of 12"):
        publisher.send(KEYS.name, b"demo/a", b"v", partition=12)
    with pytest.raises(Misconfigured, match="of 0 adopted"):
        Publisher("127.0.0.1:1", {}).send(ASSETS.name, b"demo/a", b"v")


def test_no_broker_is_a_retriable_error() -> None:
    """The message says what the client met."""
    publisher = Publisher("127.0.0.1:1", COUNTS, delivery_timeout_s=1.5)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        asyncio.run(publisher.publish([key_record(1)]))
    publisher.close()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "gap", True), Corrupt),
        (KafkaError(KafkaError._FATAL, "fenced"), Corrupt),
        (KafkaError(KafkaError.INVALID_RECORD, "null key"), InvalidRecord),
        (KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, "ACL"), Misconfigured),
        (KafkaError(KafkaError._UNKNOWN_TOPIC, "gone"), Misconfigured),
        (KafkaError(KafkaError._MSG_TIMED_OUT, "late"), Unavailable),
        (KafkaError(KafkaError.NOT_ENOUGH_REPLICAS, "one left"), Unavailable),
    ],
)
def test_delivery_errors_have_fates(error: KafkaError, kind: type[Exception]) -> None:
    """Fatal ones end the program, bad records are refused, wrong set-ups stop, the rest may be tried again."""
    failure = failure_of(error, key_record(1), "")
    assert type(failure) is kind
    assert "demo/asset-1" in str(failure)
