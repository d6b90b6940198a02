"""Rebuilds of a library of derived, chosen and imported keys: whole, killed on the way, and from the archive alone."""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition

from keymill.kafka.admin import load_adoptions
from keymill.kafka.producer import Outgoing, Publisher
from schemas import topics
from schemas.codec import decode, encode
from schemas.events import AssetEvent, AssetIngested, KeysRotated, TrackWish
from schemas.ids import asset_key, is_key_set
from schemas.records import AssetRecord
from schemas.values import LogPosition
from tests.broker import running_broker
from tests.gateway_rig import ORGANIZATION, PARTITIONS, Rig, eventually, running
from tests.kafka_commands import keymill, told
from tests.losing import delete, newest, on, records, start, stop

pytestmark = pytest.mark.timeout(300)
ASSETS = 6_000
IMPORTED = 30
SEED = int(os.environ.get("KEYMILL_TEST_SEED", random.randrange(2**32)))
KILLS = 4
LAST = asset_key(ORGANIZATION, f"film-{ASSETS - 1}")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The library, decided."""
    with running_broker() as bootstrap, running(bootstrap, tmp_path_factory.mktemp("data")) as up:
        send(up, *(ingested(number) for number in range(ASSETS)))
        send(up, *(rotated(number) for number in range(0, ASSETS, 7)))
        library = up.data / "library.csv"
        rows = [f"brought-{number},SD,{uuid.uuid4()},{os.urandom(16).hex()}" for number in range(IMPORTED)]
        library.write_text("\n".join(["asset,track,kid,key", *rows]))
        done = keymill("import", "csv", str(library), "--organization", ORGANIZATION, *on(up), "--apply")
        assert 0 == done.returncode, done.stdout + done.stderr
        assert 2 == up.make_policy() and 3 == up.make_policy()
        eventually(lambda: told("replay", *on(up), code=0)["pending"] == 0, 60)
        yield up


def now() -> int:
    """Epoch ms."""
    return time.time_ns() // 1_000_000


def ingested(number: int) -> AssetEvent:
    """Every tenth names the KID of one of its tracks."""
    chosen = TrackWish(label="SD", kid=uuid.UUID(int=number + 1, version=4).bytes if number % 10 == 0 else None)
    body = AssetIngested(tracks=(chosen, TrackWish(label="AUDIO")), policy_id=number % 3)
    return AssetEvent(organization=ORGANIZATION, asset=f"film-{number}", event_time=now(), body=body)


def rotated(number: int) -> AssetEvent:
    """A second version, of derived keys."""
    body = KeysRotated(to_version=2)
    return AssetEvent(organization=ORGANIZATION, asset=f"film-{number}", event_time=now(), body=body)


def send(rig: Rig, *events: AssetEvent) -> None:
    """Publish events."""
    publisher = Publisher(rig.bootstrap, {topics.ASSETS.name: PARTITIONS})
    batch = [
        Outgoing(topic=topics.ASSETS.name, record_key=asset_key(each.organization, each.asset), value=encode(each))
        for each in events
    ]
    publisher.flush_all([publisher.send_batch(batch[at : at + 1000]) for at in range(0, len(batch), 1000)])
    publisher.close()


def ledger(rig: Rig, name: str) -> bytes:
    """Every fingerprint, by an audit that must be clean."""
    file = rig.data / name
    assert told("audit", *on(rig), "--ledger", str(file))["clean"]
    return file.read_bytes()


def written(watch: Consumer) -> int:
    """Records of the key topic, if it is there; asked within a millisecond or two."""
    try:
        ends = [
            watch.get_watermark_offsets(TopicPartition(topics.KEYS.name, partition), timeout=5)
            for partition in range(PARTITIONS)
        ]
    except KafkaException:
        return 0
    return sum(end for _, end in ends)


def killed_after(rig: Rig, count: int) -> tuple[int, int]:
    """The exit code of a rebuild that is killed when so many records are there, and how many there were then."""
    command = [sys.executable, "-m", "keymill.ops.cli", "rebuild", "keys", *on(rig), "--apply"]
    watch = Consumer({"bootstrap.servers": rig.bootstrap, "group.id": "watch"})
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and written(watch) < count:
            pass
        process.send_signal(signal.SIGKILL)
    there = written(watch)
    watch.close()
    return process.returncode, there


def test_a_killed_rebuild_is_run_again(rig: Rig) -> None:
    """
    Killed at several random points it leaves a topic that nobody has adopted and that contradicts nothing. Run again to
    its end, every record is what it was, byte for byte, derived, chosen and imported keys alike; none was ever another;
    the generation is one more, the ledger the same, and processors go on from there.
    """
    before, fingerprints = newest(rig), ledger(rig, "before")
    assert ASSETS < sum(map(is_key_set, before)) and before[LAST]
    stop(rig)
    delete(rig, topics.KEYS.name)
    dice, was = random.Random(SEED), load_adoptions(rig.bootstrap)[topics.KEYS.name]
    print(f"KEYMILL_TEST_SEED={SEED}")
    for point in sorted(1 + dice.randrange(len(before) // 2) for _ in range(KILLS)):
        code, there = killed_after(rig, point)
        assert (-signal.SIGKILL, True) == (code, point <= there), (point, there)
        assert was == load_adoptions(rig.bootstrap)[topics.KEYS.name]
    done = told("rebuild", "keys", *on(rig), "--apply")
    assert (False, True, 0, 0) == tuple(done[name] for name in ("created", "adopted", "different", "unexpected"))
    assert 0 < done["written"] < len(before)
    assert before == newest(rig)
    assert [] == [key for _, key, value in records(rig, topics.KEYS) if before[key] != value]
    assert was.generation + 1 == load_adoptions(rig.bootstrap)[topics.KEYS.name].generation
    assert fingerprints == ledger(rig, "after")
    start(rig)
    send(rig, ingested(ASSETS))
    eventually(lambda: asset_key(ORGANIZATION, f"film-{ASSETS}") in newest(rig), 30)
    assert told("audit", *on(rig), "--against", str(rig.data / "before"))["clean"]


def test_everything_comes_back_from_the_archive(rig: Rig) -> None:
    """
    With events, claims, policy changes, keys and policies all gone, the archive alone gives keys and policies back,
    byte for byte; processors fold new events, of a new generation, onto what came back.
    """
    lost = (topics.ASSETS, topics.CLAIMS, topics.POLICY_CHANGES, topics.KEYS, topics.POLICIES)
    keys, policies = newest(rig), newest(rig, topics.POLICIES)
    told("rebuild", "archive", *on(rig), "--apply")
    url = f"sqlite:///{rig.data / 'archive.sqlite'}"
    stop(rig)
    delete(rig, *(topic.name for topic in lost))
    made = keymill("topics", "create", "--partitions", str(PARTITIONS), *on(rig))
    assert (1, 5) == (made.returncode, made.stderr.count("created again")), made.stderr
    logs = [topic.name for topic in lost[:3]]
    assert 0 == keymill("topics", "adopt", *logs, "--apply", *on(rig)).returncode
    planned = told("rebuild", "keys", *on(rig), "--from-archive", url, code=1)
    assert (len(keys), False) == (planned["written"], planned["applied"])
    for command, topic, before in (("keys", topics.KEYS, keys), ("policies", topics.POLICIES, policies)):
        done = told("rebuild", command, *on(rig), "--from-archive", url, "--apply")
        assert (len(before), True, 0) == (done["written"], done["adopted"], done["different"])
        assert before == newest(rig, topic)
        again = told("rebuild", command, *on(rig), "--from-archive", url)
        assert (0, len(before)) == (again["written"], again["held"])
    start(rig)
    send(rig, ingested(ASSETS + 1), rotated(1))
    film = asset_key(ORGANIZATION, "film-1")
    eventually(lambda: asset_key(ORGANIZATION, f"film-{ASSETS + 1}") in newest(rig), 30)
    eventually(lambda: newest(rig)[film] != keys[film], 30)
    asset = decode(newest(rig)[film], AssetRecord)
    assert [1, 2] == [version.key_version for version in asset.versions]
    assert LogPosition(generation=1, offset=0) <= asset.applied
    assert {key: value for key, value in newest(rig).items() if key in keys and key != film} == {
        key: value for key, value in keys.items() if key != film
    }
