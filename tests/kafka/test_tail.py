"""Tail and follower against a real broker: the gate, what stops them, what a kill leaves behind."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from keymill.errors import Misconfigured, Unavailable
from keymill.kafka.adoption import record_adoptions
from keymill.kafka.cluster import describe
from keymill.kafka.embedded import EmbeddedKafka
from keymill.kafka.positions import Checkpoint, Incoming, Slot
from keymill.kafka.tail import Tail
from keymill.snapshot import store
from keymill.snapshot.follower import EXIT_STOP, Follower
from keymill.snapshot.following import SUCCESSOR_EVERY_S
from keymill.snapshot.reader import SnapshotReader
from schemas import topics
from schemas.records import TopicAdopted
from tests.authentic import installation
from tests.broker import embedded_kafka
from tests.sender import Sender
from tests.view_records import VIEW_TOPICS, asset_record, entitlement, key_record, service

PARTITIONS = 4
WAIT_S = 20.0
names = count()


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installation(tmp_path_factory.mktemp("keys"), "demo")


@pytest.fixture(scope="module")
def kafka() -> Iterator[EmbeddedKafka]:
    prompt = {"group.initial.rebalance.delay.ms": "0", "transaction.state.log.num.partitions": "2"}
    with embedded_kafka(properties=prompt) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def admin(kafka: EmbeddedKafka) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka.bootstrap})


def make(admin: AdminClient, *wanted: str, partitions: int = 1) -> None:
    created = admin.create_topics([NewTopic(name, partitions, 1) for name in wanted])
    for future in created.values():
        future.result()
    until(lambda: set(wanted) <= set(admin.list_topics(timeout=5).topics))


def remove(admin: AdminClient, *wanted: str) -> None:
    there = [name for name in wanted if name in admin.list_topics(timeout=5).topics]
    for future in (admin.delete_topics(there) if there else {}).values():
        future.result()
    until(lambda: not set(wanted) & set(admin.list_topics(timeout=5).topics))


@pytest.fixture
def topic(admin: AdminClient) -> str:
    name = f"tail-{next(names)}"
    make(admin, name)
    return name


@pytest.fixture
def catalogue(admin: AdminClient) -> None:
    """The topics of a view, new and empty."""
    remove(admin, *VIEW_TOPICS)
    make(admin, *VIEW_TOPICS, partitions=PARTITIONS)


def until(done: Callable[[], object], wait_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + wait_s
    while not done():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


@pytest.fixture
def sender(kafka: EmbeddedKafka) -> Sender:
    return Sender(kafka.bootstrap)


def client(kafka: EmbeddedKafka) -> dict[str, str | int | bool]:
    return {"bootstrap.servers": kafka.bootstrap}


def read(tail: Tail, done: Callable[[], object], wait_s: float = WAIT_S) -> list[Incoming]:
    got: list[Incoming] = []

    def step() -> object:
        got.extend(tail.poll(0.05))
        return done()

    until(step, wait_s)
    return got


@pytest.fixture
def tails() -> Iterator[Callable[..., Tail]]:
    made: list[Tail] = []

    def make_tail(kafka: EmbeddedKafka, *followed: str, **more: float) -> Tail:
        made.append(Tail(client(kafka), followed, **more))
        return made[-1]

    yield make_tail
    for tail in made:
        tail.close()


Tails = Callable[..., Tail]


def test_everything_is_read_then_it_is_caught_up(
    kafka: EmbeddedKafka, tails: Tails, topic: str, admin: AdminClient, sender: Sender
) -> None:
    """All records in order, those sent later too; an empty topic holds nobody up."""
    empty = f"tail-{next(names)}"
    make(admin, empty, partitions=3)
    for number in range(1000):
        sender.raw(topic, 0, b"a/%d" % number, b"v")
    sender.flush()
    tail = tails(kafka, topic, empty)
    start = tail.start({})
    assert {name: point.slots for name, point in start.items()} == {
        topic: {0: Slot(0)},
        empty: {p: Slot(0) for p in range(3)},
    }
    got = read(tail, lambda: tail.caught_up)
    assert [message.key for message in got] == [b"a/%d" % number for number in range(1000)]
    assert tail.slots[topic][0].offset == 1000
    sender.raw(topic, 0, b"a/later", None)
    sender.flush()
    assert [(m.key, m.value) for m in read(tail, lambda: tail.slots[topic][0].offset == 1001)] == [(b"a/later", None)]
    until(lambda: (tail.poll(0.05), tail.behind == 0)[1])


def test_a_record_arrives_at_once(kafka: EmbeddedKafka, tails: Tails, topic: str, sender: Sender) -> None:
    """Live, a record is there a few milliseconds after it was sent (loosely bound here, measured by the benchmark)."""
    tail = tails(kafka, topic)
    tail.start({})
    read(tail, lambda: tail.caught_up)
    took = []
    for _ in range(50):
        began = time.perf_counter()
        sender.raw(topic, 0, b"a/b", b"v")
        while not tail.poll(1.0):
            pass
        took.append(time.perf_counter() - began)
    assert sorted(took)[25] < 0.02, took


def test_an_open_transaction_holds_the_gate_and_is_named(
    kafka: EmbeddedKafka, tails: Tails, topic: str, sender: Sender
) -> None:
    """A committed record above an open transaction is not missed: no catch-up until it ends, then all."""
    pinned = Sender(kafka.bootstrap, **{"transactional.id": f"t-{topic}", "transaction.timeout.ms": 60_000})
    pinned.producer.init_transactions(WAIT_S)
    pinned.producer.begin_transaction()
    pinned.raw(topic, 0, b"open", b"v")
    pinned.flush()
    sender.raw(topic, 0, b"above", b"v")
    sender.flush()
    tail = tails(kafka, topic, stall_s=1.0)
    tail.start({})
    got = read(tail, lambda: tail.notice is not None)
    assert not got and not tail.caught_up
    assert "a transaction is open" in (tail.notice or "")
    pinned.producer.abort_transaction(WAIT_S)
    got = read(tail, lambda: tail.caught_up)
    assert [message.key for message in got] == [b"above"]
    assert tail.notice is None


@pytest.mark.parametrize("commit", [True, False])
def test_markers_at_the_end_do_not_hold_the_gate(kafka: EmbeddedKafka, tails: Tails, topic: str, commit: bool) -> None:
    """The position steps over a commit or abort marker that ends the log, and over what was aborted."""
    writer = Sender(kafka.bootstrap, **{"transactional.id": f"t-{topic}-{commit}"})
    writer.producer.init_transactions(WAIT_S)
    writer.producer.begin_transaction()
    writer.raw(topic, 0, b"in", b"v")
    writer.flush()
    (writer.producer.commit_transaction if commit else writer.producer.abort_transaction)(WAIT_S)
    tail = tails(kafka, topic)
    point = tail.start({})
    got = read(tail, lambda: tail.caught_up)
    assert [message.key for message in got] == ([b"in"] if commit else [])
    assert tail.slots[topic][0].offset == 2  # the record and its marker
    again = tails(kafka, topic)
    again.start({topic: Checkpoint(topic=point[topic].topic, slots=dict(tail.slots[topic]))})
    assert read(again, lambda: again.caught_up) == []


def test_a_restart_reads_only_the_tail(kafka: EmbeddedKafka, tails: Tails, topic: str, sender: Sender) -> None:
    """From a checkpoint, with its leader epoch, only what came after it is read."""
    for number in range(100):
        sender.raw(topic, 0, b"%d" % number, b"v")
    sender.flush()
    first = tails(kafka, topic)
    point = first.start({})
    read(first, lambda: first.caught_up)
    assert first.slots[topic][0].epoch >= 0
    sender.raw(topic, 0, b"after", b"v")
    sender.flush()
    second = tails(kafka, topic)
    second.start({topic: Checkpoint(topic=point[topic].topic, slots=dict(first.slots[topic]))})
    assert [message.key for message in read(second, lambda: second.caught_up)] == [b"after"]


def checkpoint_of(tails: Tails, kafka: EmbeddedKafka, topic: str) -> Checkpoint:
    tail = tails(kafka, topic)
    point = tail.start({})
    read(tail, lambda: tail.caught_up)
    return Checkpoint(topic=point[topic].topic, slots=dict(tail.slots[topic]))


def test_a_topic_created_anew_is_refused(
    kafka: EmbeddedKafka, tails: Tails, topic: str, admin: AdminClient, sender: Sender
) -> None:
    """Another topic of the same name is refused, at the start by its id, and while following within seconds."""
    for _ in range(5):
        sender.raw(topic, 0, b"k", b"v")
    sender.flush()
    point = checkpoint_of(tails, kafka, topic)
    live = tails(kafka, topic)
    live.start({topic: point})
    read(live, lambda: live.caught_up)
    remove(admin, topic)
    make(admin, topic)
    for _ in range(20):
        sender.raw(topic, 0, b"k", b"another")
    sender.flush()
    with pytest.raises(Misconfigured, match="created anew"):
        tails(kafka, topic).start({topic: point})
    with pytest.raises(Misconfigured, match=r"created anew|no longer holds|truncated"):
        read(live, lambda: False)


def test_another_partition_count_is_refused(kafka: EmbeddedKafka, tails: Tails, topic: str, admin: AdminClient) -> None:
    """More partitions move record keys: refused at the start, and while following."""
    point = checkpoint_of(tails, kafka, topic)
    live = tails(kafka, topic)
    live.start({topic: point})
    read(live, lambda: live.caught_up)
    for future in admin.create_partitions([NewPartitions(topic, 2)]).values():
        future.result()
    until(lambda: len(admin.list_topics(timeout=5).topics[topic].partitions) == 2)
    with pytest.raises(Misconfigured, match="2 partitions, not 1"):
        tails(kafka, topic).start({topic: point})
    with pytest.raises(Misconfigured, match="2 partitions, not 1"):
        read(live, lambda: False)


def test_a_truncated_topic_is_refused(kafka: EmbeddedKafka, tails: Tails, topic: str, sender: Sender) -> None:
    """A log that ends before what was read of it has lost records (a restored disk, an unclean election)."""
    sender.raw(topic, 0, b"k", b"v")
    sender.flush()
    point = checkpoint_of(tails, kafka, topic)
    beyond = msgspec.structs.replace(point, slots={0: Slot(50, point.slots[0].epoch)})
    with pytest.raises(Misconfigured, match="was truncated: partition 0 ends at offset 1, but 50"):
        tails(kafka, topic).start({topic: beyond})


def test_a_gap_is_refused(kafka: EmbeddedKafka, tails: Tails, topic: str, admin: AdminClient, sender: Sender) -> None:
    """Records that were deleted unread are a gap; a fresh view begins where the log does."""
    point = checkpoint_of(tails, kafka, topic)
    for _ in range(10):
        sender.raw(topic, 0, b"k", b"v")
    sender.flush()
    for future in admin.delete_records([TopicPartition(topic, 0, 7)]).values():
        future.result()
    with pytest.raises(Misconfigured, match="begins at offset 7, but 0 is the next"):
        tails(kafka, topic).start({topic: point})
    fresh = tails(kafka, topic)
    fresh.start({})
    assert [message.offset for message in read(fresh, lambda: fresh.caught_up)] == [7, 8, 9]


def test_a_missing_topic_and_a_missing_broker_are_told_apart(kafka: EmbeddedKafka, tails: Tails) -> None:
    """The one needs a command, the other time."""
    with pytest.raises(Misconfigured, match="topics create"):
        tails(kafka, "no-such-topic").start({})
    nowhere = Tail({"bootstrap.servers": "127.0.0.1:1", "log_level": 0}, ("t",))
    with pytest.raises(Unavailable):
        nowhere.start({})


@pytest.fixture
def follow(kafka: EmbeddedKafka, key_file: Path, tmp_path: Path) -> Iterator[Callable[..., Follower]]:
    made: list[Follower] = []

    def start(folder: str = "view", **more: int) -> Follower:
        made.append(Follower(tmp_path / folder, VIEW_TOPICS, client(kafka), key_file=key_file, **more).start())
        return made[-1]

    yield start
    for follower in made:
        follower.stop()


Follow = Callable[..., Follower]


def live_reader(folder: Path, wait_s: float = WAIT_S) -> SnapshotReader:
    reader = SnapshotReader(folder).open(wait_s)
    until(lambda: reader.state().live, wait_s)
    return reader


@pytest.mark.usefixtures("catalogue")
def test_a_follower_fills_a_view_for_many_processes(follow: Follow, sender: Sender, tmp_path: Path) -> None:
    """Records appear in every reader process; a second start reads only the tail and is ready at once."""
    sender.record(asset_record("film"))
    sender.record(key_record("film"))
    sender.record(service("demo"))
    sender.record(asset_record("lost"), partition=(topics.partition_of(topics.KEYS, b"demo/lost", PARTITIONS) + 1) % 4)
    sender.flush()
    follower = follow()
    reader = live_reader(tmp_path / "view")
    state = reader.state()
    assert state.ready and state.quarantined == 1 and state.error is None and state.staleness_s < 5
    assert reader.rejected()[0].reason == "wrong_partition"
    others = [
        subprocess.Popen([sys.executable, "-c", READER, str(tmp_path / "view")], stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    outputs = [json.loads(process.communicate(timeout=WAIT_S)[0]) for process in others]
    assert outputs == [{"asset": True, "keys": 3, "service": "demo", "lost": False}] * 3
    txn = reader.txn_id()
    sender.record(entitlement("ann", "gold"))
    sender.flush()
    until(lambda: reader.entitlement("demo", "ann", "gold"))
    assert reader.txn_id() > txn
    follower.stop()
    assert store.read_manifest(tmp_path / "view").clean  # type: ignore[union-attr]
    until(lambda: not reader.state().live)
    assert reader.state().ready
    sender.record(entitlement("bob", "gold"))
    sender.flush()
    began = time.monotonic()
    follow()
    until(lambda: reader.state().live and reader.entitlement("demo", "bob", "gold"))
    assert time.monotonic() - began < 5
    reader.close()


READER = """
import json, sys
from pathlib import Path
from keymill.snapshot.reader import SnapshotReader
with SnapshotReader(Path(sys.argv[1])) as view:
    print(json.dumps({
        "asset": view.asset("demo", "film") is not None,
        "keys": len(view.key_records("demo", "film")[0].tracks),
        "service": view.service(None, "demo", "1.0").service,
        "lost": view.asset("demo", "lost") is not None,
    }))
"""


@pytest.mark.usefixtures("catalogue")
def test_a_kill_leaves_data_and_checkpoint_together(follow: Follow, sender: Sender, tmp_path: Path) -> None:
    """SIGKILL at random moments of a bulk load and of live work: what the checkpoint says is there, and all arrives."""
    seed = random.randrange(2**32)
    print("seed", seed)
    draw = random.Random(seed)
    for number in range(80_000):
        sender.record(asset_record(f"film-{number}"))
    sender.flush()
    follower = follow()
    reader = SnapshotReader(tmp_path / "view").open()
    kills, begun = 0, 1  # binding the topics is the first transaction, then come batches
    while kills < 25:
        for number in range(100):
            sender.record(asset_record(f"film-{kills}-{number}"))
        until(lambda begun=begun: reader.txn_id() > begun)
        time.sleep(draw.choice([0, 0.002, draw.uniform(0, 0.2)]))
        os.kill(follower.pid, signal.SIGKILL)
        kills += 1
        until(lambda: not follower.pid)
        assert lacking(reader, sender) == []
        begun = reader.txn_id() + 1
        follower.start()
    sender.flush()
    ends = {(topic, partition): offset + 1 for topic, partition, offset, _ in sorted(sender.sent)}

    def arrived() -> bool:
        reached = reader.state().positions
        return all(reached[topic][partition] >= end for (topic, partition), end in ends.items())

    until(lambda: reader.state().live and arrived())
    with reader.at_once() as reads:
        assert all(reads.has(topics.KEYS.name, key) for _, _, _, key in sender.sent if key)
    assert reader.state().quarantined == reader.state().stale == 0
    reader.close()


def lacking(reader: SnapshotReader, sender: Sender) -> list[object]:
    """What stands below the view's positions and is not in it."""
    with reader.at_once() as reads:
        reached = reads.positions()
        return [
            sent
            for sent in sender.sent
            if sent[2] < reached.get(sent[0], {}).get(sent[1], 0) and not reads.has(sent[0], sent[3] or b"")
        ]


@pytest.mark.usefixtures("catalogue")
def test_a_second_follower_of_a_folder_is_refused(follow: Follow, tmp_path: Path) -> None:
    """The second one ends with the status that says that only a person can help, and is not started again."""
    first = follow()
    live_reader(tmp_path / "view").close()
    second = follow()
    until(lambda: (second.tend(), second.failure)[1])
    assert second.pid == 0 and second.restarts == 0
    first.tend()
    assert first.pid and first.failure is None


@pytest.mark.usefixtures("catalogue")
def test_another_format_is_rebuilt_by_tailing(follow: Follow, sender: Sender, tmp_path: Path) -> None:
    """A snapshot that an older keymill wrote is read again from the topics; open readers move over."""
    sender.record(asset_record("film"))
    sender.flush()
    follower = follow()
    reader = live_reader(tmp_path / "view")
    follower.stop()
    manifest = store.read_manifest(tmp_path / "view")
    assert manifest is not None
    store.write_manifest(tmp_path / "view", msgspec.structs.replace(manifest, format=0))
    follow()
    until(lambda: reader.state().live)
    assert reader.asset("demo", "film") is not None
    assert [path.name for path in (tmp_path / "view").glob("env-*")] == ["env-1"]
    reader.close()


@pytest.mark.usefixtures("catalogue")
def test_a_stop_condition_is_told_and_the_view_served_on(
    follow: Follow, sender: Sender, admin: AdminClient, tmp_path: Path
) -> None:
    """A topic with another partition count ends the follower for good; readers see why, and what they had."""
    sender.record(service("demo"))
    sender.flush()
    follower = follow()
    reader = live_reader(tmp_path / "view")
    for future in admin.create_partitions([NewPartitions(topics.SERVICES.name, PARTITIONS + 1)]).values():
        future.result()
    until(lambda: (follower.tend(), follower.failure)[1], 30)
    state = reader.state()
    assert state.ready and not state.live
    assert topics.SERVICES.name in (state.error or "")
    assert reader.service(None, "demo", "1.0") is not None
    reader.close()


def adopt(kafka: EmbeddedKafka, name: str, generation: int) -> None:
    """Record the topic as it now is, as `keymill topics adopt` would."""
    topic_id = describe(kafka.bootstrap, [name])[name].topic_id
    told = TopicAdopted(topic=name, topic_id=topic_id, generation=generation, partitions=PARTITIONS, adopted=1)
    record_adoptions(kafka.bootstrap, 1, [told])


@pytest.mark.usefixtures("catalogue")
def test_a_replaced_topic_is_read_once_it_is_adopted(
    kafka: EmbeddedKafka, follow: Follow, sender: Sender, admin: AdminClient, tmp_path: Path
) -> None:
    """The view serves on and tells; adopted, the topic is read over what is held, whose keys guard on."""
    remove(admin, topics.ADOPTIONS.name)
    make(admin, topics.ADOPTIONS.name)
    held, lost, changed = key_record("film"), key_record("lost"), key_record("film", seed="other", kid_of="film")
    for keyed in (asset_record("film"), held, lost, asset_record("film", 1)):  # the last one is stale
        sender.record(keyed)
    sender.flush()
    follower = follow()
    reader = live_reader(tmp_path / "view")
    until(lambda: reader.state().stale == 1)
    remove(admin, topics.KEYS.name)
    make(admin, topics.KEYS.name, partitions=PARTITIONS)
    for keyed in (held, changed, asset_record("later")):
        sender.record(keyed)
    sender.flush()
    until(lambda: (follower.tend(), reader.state().error)[1], 30)
    adopt(kafka, topics.KEYS.name, 0)
    time.sleep(SUCCESSOR_EVERY_S * 2)
    assert reader.state().ready and not reader.state().live and topics.KEYS.name in (reader.state().error or "")
    assert reader.asset("demo", "later") is None and reader.key_record(held[0]) is not None
    adopt(kafka, topics.KEYS.name, 1)
    until(lambda: (follower.tend(), reader.state().live)[1], 30)
    assert (None, None, 0) == (follower.failure, reader.state().error, follower.restarts)
    assert [held[1], lost[1]] == [reader.key_record(held[0]), reader.key_record(lost[0])]
    assert reader.asset("demo", "later")
    assert ["key_changed"] == [each.reason for each in reader.rejected()]
    place = reader.coordinates(topics.KEYS.name, held[0])
    assert place is not None and place.offset == 0
    follower.stop()
    remove(admin, topics.KEYS.name)
    make(admin, topics.KEYS.name, partitions=PARTITIONS)
    adopt(kafka, topics.KEYS.name, 2)
    sender.record(asset_record("third"))
    sender.flush()
    errors: list[str] = []
    follow()  # a processor would end at an error, so there is none
    until(lambda: (errors.extend(filter(None, [reader.state().error])), reader.state().live)[1])
    assert [] == errors and reader.asset("demo", "third") is not None
    reader.close()


@pytest.mark.usefixtures("catalogue")
def test_a_follower_dies_with_its_parent(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    """A killed program leaves no follower behind, and its successor's follower takes the folder."""
    script = PARENT.format(folder=str(tmp_path / "view"), topics=VIEW_TOPICS, client=client(kafka))
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout
    pid = int(parent.stdout.readline())
    live_reader(tmp_path / "view").close()
    parent.kill()
    parent.wait()
    until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2], 5)


PARENT = """
import threading, time
from pathlib import Path
from keymill.snapshot.follower import Follower
follower = Follower(Path({folder!r}), {topics!r}, {client!r}, key_file=Path("keys.json"))
starter = threading.Thread(target=follower.start)  # the thread ends, the program does not
starter.start()
starter.join()
print(follower.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.usefixtures("catalogue")
def test_a_view_outlives_its_brokers(kafka: EmbeddedKafka, follow: Follow, sender: Sender, tmp_path: Path) -> None:
    """Brokers away: the follower stays, or starts, the view serves and says how old it is; then all goes on."""
    sender.record(service("demo"))
    sender.flush()
    follower = follow()
    reader = live_reader(tmp_path / "view")
    kafka.kill()
    try:
        until(lambda: reader.state().staleness_s > 5)
        state = reader.state()
        assert state.ready and not state.live and follower.pid
        assert state.notice
        follower.stop()
        follower = follow()
        until(lambda: follower.pid and reader.state().notice)
        state = reader.state()
        assert state.ready and not state.live and state.staleness_s > 5
        assert reader.service(None, "demo", "1.0") is not None
    finally:
        kafka.restart()
    until(lambda: reader.state().live, 40)
    fresh = Sender(kafka.bootstrap)
    fresh.record(service("later"))
    fresh.flush()
    until(lambda: reader.service(None, "later", "1.0"))
    assert follower.pid and EXIT_STOP
    reader.close()
