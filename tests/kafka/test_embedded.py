"""The embedded Kafka: real brokers, real signals, owners that die."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from keymill.errors import Corrupt, Misconfigured, NotReady
from keymill.kafka.embedded import EmbeddedKafka
from keymill.kafka.launch import started_at
from keymill.kafka.ports import EPHEMERAL, free_ports, is_free
from tests.broker import embedded_kafka

pytestmark = pytest.mark.timeout(170)
SOON_S = 60
IDENTITY = "-IRAJMcyQpWSX8PZHzl-VA"

OWNER = """
import json, signal, sys, time
from pathlib import Path
from keymill.errors import KeymillError
from keymill.kafka.embedded import EmbeddedKafka
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it puts in the background
try:
    with EmbeddedKafka(Path(sys.argv[1])) as kafka:
        try:
            print(json.dumps({"bootstrap": kafka.bootstrap, "pids": kafka.pids}), flush=True)
            while True:
                time.sleep(0.05)  # a signal just before a pause without end would be heard after it
        except KeyboardInterrupt:
            time.sleep(1)
            print("interrupted", kafka.poll())
except KeymillError as error:
    sys.exit(str(error))
"""


@pytest.fixture(scope="module")
def kafka() -> Iterator[EmbeddedKafka]:
    """One broker that the tests of this file share; each leaves it running."""
    with embedded_kafka() as kafka:
        yield kafka


@contextmanager
def owner(data: Path, program: str = OWNER, **options: object) -> Iterator["subprocess.Popen[str]"]:
    """A program that owns a broker; killed at the end, if it still runs."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen([sys.executable, "-c", program, str(data)], **pipes | options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: "subprocess.Popen[str]") -> dict[str, object]:
    """The line an owner prints when its broker answers."""
    assert process.stdout
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    found: dict[str, object] = json.loads(line)
    return found


def broker_pid(process: "subprocess.Popen[str]") -> int:
    pids = said(process)["pids"]
    assert isinstance(pids, list)
    return int(pids[0])


def runs(pid: int) -> bool:
    return bool(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)


def eventually(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + SOON_S
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def write(bootstrap: str, topic: str, value: bytes) -> None:
    """Make the topic if need be and append one record; returns when the broker has it."""
    admin, failed = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}), list[KafkaError]()
    if topic not in admin.list_topics(timeout=10).topics:
        admin.create_topics([NewTopic(topic, 1, 1)])[topic].result()
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0, "acks": "all", "delivery.timeout.ms": 10000})
    producer.produce(topic, value, partition=0, on_delivery=lambda error, _: failed.append(error) if error else None)
    producer.flush()
    assert not failed, failed


def read(bootstrap: str, topic: str) -> list[bytes]:
    """Every value of the topic's only partition."""
    settings = {"bootstrap.servers": bootstrap, "group.id": "reader", "enable.partition.eof": True, "log_level": 0}
    consumer, values = Consumer({**settings, "auto.offset.reset": "earliest"}), list[bytes]()
    consumer.assign([TopicPartition(topic, 0, 0)])
    while (message := consumer.poll(10)) is not None:
        error = message.error()
        if error is not None:
            assert error.code() == KafkaError._PARTITION_EOF, error
            break
        values.append(message.value() or b"")
    consumer.close()
    return values


def test_folder_keeps_cluster_address_and_records(tmp_path: Path) -> None:
    """A second start on the folder is the same cluster; the folder's name may hold any character."""
    data = tmp_path / "Schlüssel, 50 % $HOME:#{x} \\1"
    with EmbeddedKafka(data) as kafka:
        first, identity = kafka.bootstrap, (data / "cluster.json").read_text()
        write(first, "kept", b"one")
    assert (data / "node-0/data/.kafka_cleanshutdown").exists()
    with EmbeddedKafka(data) as kafka:
        assert (first, identity) == (kafka.bootstrap, (data / "cluster.json").read_text())
        assert [b"one"] == read(kafka.bootstrap, "kept")


def test_killed_broker_comes_back_with_its_records(kafka: EmbeddedKafka) -> None:
    """SIGKILL is seen by `poll`; `restart` gives the same address and everything that was acknowledged."""
    before, pids = kafka.bootstrap, kafka.pids
    write(kafka.bootstrap, "survivor", b"acknowledged")
    kafka.kill()
    assert ({0: -signal.SIGKILL}, [0]) == (kafka.poll(), kafka.pids)
    kafka.restart()
    assert ({}, before) == (kafka.poll(), kafka.bootstrap)
    assert pids != kafka.pids
    assert [b"acknowledged"] == read(kafka.bootstrap, "survivor")


def test_paused_broker_answers_nothing_until_it_goes_on(kafka: EmbeddedKafka) -> None:
    """A frozen broker keeps its connections and its place; it is not dead."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    admin.list_topics(timeout=10)
    kafka.pause()
    with pytest.raises(KafkaException):
        admin.list_topics(timeout=1)
    assert not kafka.poll()
    kafka.resume()
    assert admin.list_topics(timeout=10).brokers


def test_topics_are_made_by_nobody_but_us(kafka: EmbeddedKafka) -> None:
    """A typing error in a topic's name is an error, not a new topic."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0, "allow.auto.create.topics": True})
    admin.list_topics("mistyped", timeout=10)
    assert "mistyped" not in admin.list_topics(timeout=10).topics


def test_listens_on_loopback_only(kafka: EmbeddedKafka) -> None:
    """No port of the broker can be reached from another machine."""
    listening = [c.laddr.ip for c in psutil.Process(kafka.pids[0]).net_connections() if c.status == psutil.CONN_LISTEN]
    assert {"127.0.0.1"} == {ip.removeprefix("::ffff:") for ip in listening}
    assert len(listening) == 2


def test_environment_is_not_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets in variables stay here, and variables that would change a JVM do not reach the broker."""
    monkeypatch.setenv("KEYMILL_ANYTHING", "secret")
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xmx1m")
    with EmbeddedKafka(tmp_path) as kafka:
        given = psutil.Process(kafka.pids[0]).environ()
    assert not {"KEYMILL_ANYTHING", "JAVA_TOOL_OPTIONS"} & set(given)


def test_folder_in_use_is_refused(kafka: EmbeddedKafka) -> None:
    """The second owner is told the folder and the first one's process; the first goes on."""
    with pytest.raises(Misconfigured, match=f"{kafka.data} is in use .*process {os.getpid()}"):
        EmbeddedKafka(kafka.data).start()
    assert AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=10).brokers


def test_taken_port_is_named(tmp_path: Path) -> None:
    """The message says which port, nothing is left running, and the folder is free again."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for _ in range(2):
            with pytest.raises(Misconfigured, match=f"port {port} "):
                EmbeddedKafka(tmp_path, ports=[port]).start()
    assert is_free(port)


@contextmanager
def lost(kafka: EmbeddedKafka, port: int) -> Iterator[None]:
    """Take *port* after the broker's owner has found it free and before the broker, a second later, binds to it."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))  # not in the way of anybody until it listens

        def take() -> None:
            assert eventually(lambda: any(kafka.pids))
            other.listen()

        thief = threading.Thread(target=take)
        thief.start()
        yield
        thief.join()


def test_asked_port_that_is_lost_is_named(tmp_path: Path) -> None:
    """Another program may take the port after the check: the broker's own failure is reported as what it is."""
    port = next(free_ports())
    kafka = EmbeddedKafka(tmp_path, ports=[port])
    with lost(kafka, port), pytest.raises(Misconfigured, match=f"127.0.0.1:{port}"):
        kafka.start()
    assert kafka.pids == [0]


def test_chosen_port_that_is_lost_is_replaced(tmp_path: Path) -> None:
    """Nobody asked for that port, so another does as well."""
    client, controller = islice(free_ports(), 2)
    (tmp_path / "ports.json").write_text(f"[[{client}, {controller}]]")
    kafka = EmbeddedKafka(tmp_path)
    with lost(kafka, client):
        kafka.start()
    assert kafka.bootstrap != f"127.0.0.1:{client}"
    kafka.stop()


def test_asked_port_is_used(tmp_path: Path) -> None:
    """`keymill up --port-base` promises the address."""
    port = next(free_ports())
    with EmbeddedKafka(tmp_path, ports=[port]) as kafka:
        assert f"127.0.0.1:{port}" == kafka.bootstrap


def test_free_ports_lie_below_outgoing_connections() -> None:
    """A client that retries a stopped broker can never be given the broker's own port."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(port < min(low, EPHEMERAL) for port in free_ports()) or low < 21000


def test_folder_of_another_cluster_is_refused(tmp_path: Path) -> None:
    """A folder keeps its number of nodes; a damaged note is not overwritten."""
    note = tmp_path / "cluster.json"
    note.write_text('{"cluster_id": "AAAAAAAAAAAAAAAAAAAAAA", "nodes": 3}')
    with pytest.raises(Misconfigured, match="made for 3 nodes"):
        EmbeddedKafka(tmp_path).start()
    note.write_text("{torn")
    with pytest.raises(Corrupt, match=r"cluster\.json"):
        EmbeddedKafka(tmp_path).start()
    assert note.read_text() == "{torn"


def test_id_that_starts_with_a_dash_can_be_formatted(tmp_path: Path) -> None:
    """One random cluster id in 64 looks like an option on a command line."""
    (tmp_path / "cluster.json").write_text(json.dumps({"cluster_id": IDENTITY, "nodes": 1}))
    with EmbeddedKafka(tmp_path) as kafka:
        assert AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=10).cluster_id == IDENTITY


def test_what_makes_a_node_cannot_be_overridden(tmp_path: Path) -> None:
    """Settings that would break folder or quorum are refused by name."""
    with pytest.raises(Misconfigured, match=r"log\.dirs"):
        EmbeddedKafka(tmp_path, properties={"log.dirs": "/elsewhere"})


def test_broker_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    """The kernel ties a death signal to a thread; ours is one that stays."""
    kafka = EmbeddedKafka(tmp_path)
    starter = threading.Thread(target=kafka.start)
    starter.start()
    starter.join()
    time.sleep(1)
    assert AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=10).brokers
    assert not kafka.poll()
    kafka.stop()
    kafka.stop()


def test_stop_ends_a_start_that_is_under_way(tmp_path: Path) -> None:
    """Ctrl-C while the broker comes up leaves nothing behind."""
    kafka, ended = EmbeddedKafka(tmp_path), list[type[BaseException]]()

    def start() -> None:
        try:
            kafka.start()
        except NotReady as error:
            ended.append(type(error))

    starter = threading.Thread(target=start)
    starter.start()
    assert eventually(lambda: any(kafka.pids))
    kafka.stop()
    starter.join()
    assert ([NotReady], [0]) == (ended, kafka.pids)


def test_broker_ends_with_its_owner(tmp_path: Path) -> None:
    """An owner that is killed takes its broker along, and the broker still stops cleanly."""
    with owner(tmp_path) as program:
        pid = broker_pid(program)
        program.kill()
        assert eventually(lambda: not runs(pid))
    assert (tmp_path / "node-0/data/.kafka_cleanshutdown").exists()


def test_orphan_is_recognised_and_not_doubled(tmp_path: Path) -> None:
    """A broker that outlived its owner (here it could not hear the death signal) is stopped before a new one starts."""
    with owner(tmp_path) as program:
        orphan = broker_pid(program)
        os.kill(orphan, signal.SIGSTOP)
    assert runs(orphan)
    with EmbeddedKafka(tmp_path) as kafka:
        assert not runs(orphan)
        write(kafka.bootstrap, "fresh", b"new")
        assert [b"new"] == read(kafka.bootstrap, "fresh")


def test_stranger_with_the_recorded_pid_is_left_alone(tmp_path: Path) -> None:
    """After a reboot the pid belongs to somebody else."""
    (tmp_path / "node-0").mkdir()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (tmp_path / "node-0/process").write_text(f"{stranger.pid} {started_at(stranger.pid)}\n")
        with EmbeddedKafka(tmp_path):
            assert stranger.poll() is None
        stranger.kill()


def test_interrupt_stops_cleanly(tmp_path: Path) -> None:
    """Ctrl-C reaches the owner alone, although the terminal sends it to all; the owner stops the broker."""
    with owner(tmp_path) as program:
        pid = broker_pid(program)
        os.killpg(program.pid, signal.SIGINT)
        assert ("interrupted {}\n", "") == program.communicate(timeout=SOON_S)
        assert not runs(pid)
    assert (tmp_path / "node-0/data/.kafka_cleanshutdown").exists()


def test_two_starts_at_once_are_safe(tmp_path: Path) -> None:
    """Of two owners of one new folder one wins; an owner of another folder is not disturbed."""
    with owner(tmp_path / "a") as one, owner(tmp_path / "a") as two, owner(tmp_path / "b") as other:
        assert eventually(lambda: one.poll() is not None or two.poll() is not None)
        winner, loser = (one, two) if two.poll() is not None else (two, one)
        assert "is in use by another keymill" in loser.communicate()[1]
        assert said(winner)["bootstrap"] != said(other)["bootstrap"]


CUT_OFF = """
import ctypes, fcntl, os, socket, struct, sys
sys.modules["jgo"] = sys.modules["requests"] = None  # an import of them fails
CLONE_NEWUSER, CLONE_NEWNET, SIOCSIFFLAGS, IFF_UP_RUNNING = 0x10000000, 0x40000000, 0x8914, 0x41
cut = ctypes.CDLL(None).unshare(CLONE_NEWNET if os.geteuid() == 0 else CLONE_NEWUSER | CLONE_NEWNET) == 0
if cut:
    with socket.socket() as link:
        fcntl.ioctl(link, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP_RUNNING))
print(json := __import__("json").dumps({"cut": cut}), flush=True)
"""


def test_second_start_needs_no_network_java_or_maven(tmp_path: Path) -> None:
    """In a network of its own, without PATH, jgo and requests, the broker starts from what the first start left."""
    with EmbeddedKafka(tmp_path):
        pass
    bare = {"HOME": os.environ.get("HOME", ""), "PATH": "/nonexistent", "HTTPS_PROXY": "http://127.0.0.1:9"}
    if "XDG_CACHE_HOME" in os.environ:
        bare["XDG_CACHE_HOME"] = os.environ["XDG_CACHE_HOME"]
    with owner(tmp_path, CUT_OFF + OWNER, env=bare) as program:
        cut = said(program)["cut"]
        address = str(said(program)["bootstrap"]).split(":")
        if cut:  # where the kernel allows it; else the forbidden imports are the proof
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((address[0], int(address[1])), 1)
