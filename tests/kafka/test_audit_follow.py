"""`keymill audit --follow` as a process beside a processor at work: what comes is audited, what is wrong is told."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import msgspec
import pytest
from confluent_kafka import Producer

from keymill.kafka.admin import end_offsets
from keymill.kafka.authentication import with_authenticator
from keymill.kafka.embedded import EmbeddedKafka
from keymill.kafka.ports import free_ports
from keymill.kafka.producer import Outgoing, Publisher
from keymill.kafka.scan import scan_partition
from schemas import topics
from schemas.codec import decode, encode
from schemas.ids import asset_key, is_key_set
from schemas.records import KeyRecord
from tests.broker import embedded_kafka
from tests.gateway_rig import ORGANIZATION, PARTITIONS, Rig, eventually, paused, running

pytestmark = pytest.mark.timeout(240)
KEYS = topics.KEYS.name


@pytest.fixture(scope="module")
def kafka() -> Iterator[EmbeddedKafka]:
    """A broker that a test may end."""
    with embedded_kafka() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def rig(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A gateway and a processor, and a few assets."""
    with running(kafka.bootstrap, tmp_path_factory.mktemp("data")) as up:
        for number in range(6):
            ingest(up, f"film-{number}")
        yield up


def ingest(rig: Rig, name: str) -> None:
    answer = rig.post("?wait=1", {"asset_id": name, "tracks": ["SD", "HD"]})
    assert answer.status_code == 201, answer.text


class Follower:
    """The process, and what Prometheus would read."""

    def __init__(self, rig: Rig, *options: str) -> None:
        port = next(free_ports())
        self.url = f"http://127.0.0.1:{port}/metrics"
        self.log = rig.data / f"audit-{port}.log"
        command = [sys.executable, "-m", "keymill.ops.cli", "audit", "--follow", "--every", "1"]
        command += ["--data", str(rig.data), "--bootstrap", rig.bootstrap, "--metrics-port", str(port), *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"KEYMILL_HOST": "::1"})

    def metric(self, name: str, **labels: str) -> float:
        """The sum of its series with these labels."""
        told = httpx.get(self.url).text
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", told, re.MULTILINE)
        return sum(float(value) for found, value in lines if all(each in found for each in wanted))

    def looks(self) -> float:
        """How many audits were finished."""
        return sum(self.metric("keymill_audits_total", outcome=outcome) for outcome in ("clean", "different"))

    def look_twice(self) -> None:
        """Wait until it has; one audit may be under way now."""
        before = self.looks()
        eventually(lambda: self.looks() >= before + 2, 30)

    def answers(self) -> bool:
        """Whether the first audit is done."""
        try:
            return self.metric("keymill_audits_total") > 0
        except httpx.HTTPError:
            return False

    def end(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


@contextmanager
def following(rig: Rig, *options: str) -> Iterator[Follower]:
    """A follower that has audited once."""
    follower = Follower(rig, "--host", "127.0.0.1", *options)
    try:
        eventually(follower.answers, 60)
        yield follower
    finally:
        follower.process.kill()
        follower.process.wait()


def a_key_record(rig: Rig) -> tuple[int, bytes, bytes]:
    """Partition, record key and value of one."""
    for partition, end in end_offsets(rig.bootstrap, KEYS).items():
        for message in scan_partition(rig.bootstrap, KEYS, partition, end=end):
            if is_key_set(message.key() or b""):
                return partition, message.key() or b"", message.value() or b""
    raise AssertionError("there is no key record")


def write(rig: Rig, partition: int, record_key: bytes, value: bytes | None, *, authentic: bool) -> None:
    """As somebody who may not, past every check; with the organization's keys, or without."""
    producer = Producer({"bootstrap.servers": rig.bootstrap})
    headers = with_authenticator(Outgoing(topic=KEYS, record_key=record_key, value=value)) if authentic else None
    producer.produce(KEYS, key=record_key, value=value, partition=partition, headers=headers)
    assert producer.flush(10) == 0


def test_what_comes_is_audited_and_clean(rig: Rig, kafka: EmbeddedKafka) -> None:
    """Without reading anything again, while events come and when the broker was away; SIGTERM ends it with 0."""
    with following(rig) as follower:
        events = follower.metric("keymill_audit_events")
        assert events >= 6
        publisher = Publisher(rig.bootstrap, {topics.ASSETS.name: PARTITIONS})
        publisher.flush_all([publisher.send(topics.ASSETS.name, asset_key(ORGANIZATION, "broken"), b"no event")])
        publisher.close()
        for number in range(12):
            ingest(rig, f"later-{number}")
            time.sleep(0.1)
        eventually(lambda: follower.metric("keymill_audit_events") == events + 13, 20)
        eventually(lambda: follower.metric("keymill_audit_pending") == 0, 20)
        kafka.kill()
        eventually(lambda: follower.metric("keymill_audits_total", outcome="unfinished") > 0, 60)
        kafka.restart()
        eventually(lambda: rig.post("?wait=1", {"asset_id": "back"}).status_code == 201, 60)
        eventually(lambda: follower.metric("keymill_audit_events") == events + 14, 60)
        follower.look_twice()
        assert follower.metric("keymill_audits_total", outcome="different") == 0, follower.log.read_text()
        assert follower.metric("keymill_audits_total", scope="whole") == 1
        assert follower.metric("keymill_audit_age_seconds") < 10 < follower.metric("keymill_audit_whole_age_seconds")
        assert follower.end() == 0, follower.log.read_text()


@pytest.mark.parametrize("harm", ["with the keys", "forged", "tombstone", "tombstone with the keys"])
def test_what_is_wrong_is_told_within_a_look(rig: Rig, harm: str) -> None:
    """In the metrics and by the exit code; no more once the right record is back. Whoever has the keys is told too."""
    partition, record_key, value = a_key_record(rig)
    record = decode(value, KeyRecord)
    track = msgspec.structs.replace(record.tracks[0], fp=b"f" * 16)
    forged = encode(msgspec.structs.replace(record, tracks=(track, *record.tracks[1:])))
    with following(rig, "--whole-every", "0") as follower:
        assert follower.metric("keymill_audit_differences") == 0
        with paused(rig.processor):  # which would write the right record again
            own = harm.endswith("with the keys")
            write(rig, partition, record_key, None if harm.startswith("tombstone") else forged, authentic=own)
            kind = "different" if own else "forged"
            eventually(lambda: follower.metric("keymill_audit_differences", kind=kind) == 1, 10)
            follower.look_twice()
            assert follower.metric("keymill_audit_differences", kind=kind) == 1
        write(rig, partition, record_key, value, authentic=True)
        eventually(lambda: follower.metric("keymill_audit_differences") == 0, 10)
        assert follower.metric("keymill_audits_total", scope="whole") == 1
        assert follower.end() == 0, follower.log.read_text()
    assert record_key.decode() in follower.log.read_text()
