"""The Faust transport against a real broker: what arrives, in which order, and how fast."""

import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from keymill.kafka.scan import headers_of, scan_partition
from tests.broker import running_broker
from tests.transport_workers import Broker, WorkerProcess, wait_for, workers

twins = pytest.mark.parametrize(
    "no_cython", [pytest.param("", id="cython"), pytest.param("1", id="python", marks=pytest.mark.soak)]
)
"""Faust's compiled iterator, which the programs run on, and its twin in Python, which no program of ours takes."""
EVENTS_PER_S_MIN = 20_000
"""The transport alone must not be what limits the processor (design 11)."""


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with running_broker() as bootstrap:
        yield Broker(bootstrap)


def values_by_partition(runs: list[dict[str, Any]]) -> dict[tuple[str, int], list[str]]:
    found = defaultdict(list)
    for run in runs:
        found[run["topic"], run["partition"]] += run["values"]
    return found


@twins
def test_every_record_arrives_once_and_in_order(broker: Broker, tmp_path: Path, no_cython: str):
    """20,000 records in 12 partitions reach the handler complete, in order, in contiguous runs; all are committed."""
    topic, group = f"order{no_cython}", f"order{no_cython}"
    broker.create(topic)
    sent = {partition: [f"{partition}/{n}" for n in range(20_000 // 12 + 1)] for partition in range(12)}
    broker.produce(topic, sent)
    with workers(tmp_path, bootstrap=broker.bootstrap, group=group, topics=[topic]) as start:
        worker = start(env={"NO_CYTHON": no_cython} if no_cython else None)
        wait_for(lambda: worker.handled() >= 20_000)
        wait_for(lambda: sum(broker.committed(group).values()) == sum(map(len, sent.values())))
        assert worker.listening() == []
        assert worker.stop() == 0, worker.log()
        runs = worker.runs()
    assert values_by_partition(runs) == {(topic, partition): values for partition, values in sent.items()}
    for partition in range(12):
        mine = [run for run in runs if run["partition"] == partition]
        assert [run["start"] for run in mine] == [0, *[run["end"] for run in mine[:-1]]]
    assert {path.name for path in tmp_path.iterdir()} == {worker.out.name, worker.err.name}


def test_events_that_trickle_in_arrive_at_once(broker: Broker, tmp_path: Path):
    """A record waits for no poll interval: half of all single events are handled within 20 ms of their answer."""
    broker.create("trickle")
    delays = []
    with workers(tmp_path, bootstrap=broker.bootstrap, group="trickle", topics=["trickle"]) as start:
        worker = start()
        wait_for(lambda: worker.lines("assigned"))
        broker.produce("trickle", {0: ["first"]})
        wait_for(lambda: worker.handled() == 1)
        for n in range(40):
            broker.produce("trickle", {n % 12: [str(n)]}, **{"linger.ms": 0})
            sent_at = time.time()
            wait_for(lambda count=n + 2: worker.handled() == count, every_s=0.001)
            delays.append(worker.runs()[-1]["t"] - sent_at)
            time.sleep(0.05)
    assert sorted(delays)[len(delays) // 2] < 0.02, delays


def test_a_full_topic_does_not_block_another(broker: Broker, tmp_path: Path):
    """With one handler stuck and its topic full, the other topic's records go on."""
    broker.create("stuck", "free")
    broker.produce("stuck", {p: [str(n) for n in range(300)] for p in range(12)})
    with workers(tmp_path, bootstrap=broker.bootstrap, group="full", topics=["stuck", "free"]) as start:
        worker = start(fault="block:stuck:0", run_records_max=50)
        wait_for(lambda: worker.lines("start"))
        for n in range(20):
            broker.produce("free", {n % 12: [str(n)]}, **{"linger.ms": 0})
            wait_for(lambda count=n + 1: worker.handled() == count, timeout_s=5, every_s=0.005)
        assert [line["topic"] for line in worker.lines("start")].count("stuck") == 1
        assert {tp[0] for tp in broker.committed("full")} <= {"free"}


def test_aborted_events_are_never_seen(broker: Broker, tmp_path: Path):
    """Events of an aborted transaction are not delivered, and the commit passes over the transaction's markers."""
    from confluent_kafka import Producer

    broker.create("transactions", partitions=1)
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": "ingest", "log_level": 0})
    producer.init_transactions(20)
    for text, commit in (("kept 1", True), ("dropped", False), ("kept 2", True), ("dropped too", False)):
        producer.begin_transaction()
        producer.produce("transactions", value=text.encode(), partition=0)
        producer.flush(10)
        (producer.commit_transaction if commit else producer.abort_transaction)(20)
    with workers(tmp_path, bootstrap=broker.bootstrap, group="transactions", topics=["transactions"]) as start:
        worker = start()
        wait_for(lambda: broker.committed("transactions") == {("transactions", 0): 8})
        assert [value for run in worker.runs() for value in run["values"]] == ["kept 1", "kept 2"]
        assert worker.stop() == 0


@twins
def test_the_transport_alone_is_fast_enough(broker: Broker, tmp_path: Path, no_cython: str):
    """300,000 records of 300 bytes pass to an empty handler at 20,000 per second or more, with either iterator."""
    topic = f"rate{no_cython}"
    broker.create(topic)
    sent = {p: [f"{p}/{n}".ljust(300, ".") for n in range(25_000)] for p in range(12)}
    broker.produce(topic, sent)
    with workers(tmp_path, bootstrap=broker.bootstrap, group=topic, topics=[topic]) as start:
        worker = start(env={"NO_CYTHON": no_cython} if no_cython else None, values=False)
        wait_for(lambda: worker.handled() == 300_000, timeout_s=60, every_s=0.2)
        rate = _rate(worker)
    print(f"{topic}, transport alone: {rate:,.0f} events/s")
    assert rate >= EVENTS_PER_S_MIN


def _rate(worker: WorkerProcess) -> float:
    runs = worker.runs()
    return sum(run["n"] for run in runs[1:]) / (runs[-1]["t"] - runs[0]["t"])


@twins
def test_whatever_the_broker_takes_is_read(broker: Broker, tmp_path: Path, no_cython: str):
    """Every compression, and a header whose name is no UTF-8: no producer's choice stops a partition."""
    topic = f"codecs{no_cython}"
    broker.create(topic, partitions=1)
    codecs = ["none", "gzip", "snappy", "lz4", "zstd"]
    for codec in codecs:
        broker.produce(topic, {0: [f"{codec} " * 50]}, **{"compression.type": codec})
    name = type("Name", (str,), {"encode": lambda *_: b"\xff\xfe"})("x")
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap)
    producer.send(topic, value=b"named", partition=0, headers=[(name, b"1")]).get(10)
    producer.close()
    with workers(tmp_path, bootstrap=broker.bootstrap, group=topic, topics=[topic]) as start:
        worker = start(env={"NO_CYTHON": no_cython, "AIOKAFKA_NO_EXTENSIONS": no_cython} if no_cython else None)
        wait_for(lambda: worker.handled() >= len(codecs) + 1)
        assert worker.stop() == 0, worker.log()
        runs = worker.runs()
    assert values_by_partition(runs)[topic, 0] == [*(f"{codec} " * 50 for codec in codecs), "named"]
    scanned = [headers_of(message) for message in scan_partition(broker.bootstrap, topic, 0, end=len(codecs) + 1)]
    assert scanned == [()] * (len(codecs) + 1)
