"""
A real Apache Kafka that this process owns: one KRaft node, or several for tests, on loopback.

    with EmbeddedKafka(Path("data/kafka")) as kafka:
        print(kafka.bootstrap)

A start: (1) jars (`distribution`), (2) the folder's lock (`claim`), (3) brokers that a killed owner left are stopped,
(4) ports (`ports`), (5) settings, and formatting of a new folder (`layout`, `node`), (6) brokers, (7) each answers.
Brokers end with their owner, however it ends: `launch` ties a death signal to it.
"""

import logging
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from threading import Event, RLock
from types import TracebackType
from typing import IO, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from keymill.errors import Misconfigured, NotReady, Unavailable
from keymill.kafka.claim import cluster_id, hold
from keymill.kafka.distribution import classpath
from keymill.kafka.layout import FIXED, HOST, Ports, server_properties
from keymill.kafka.node import STOP_DEADLINE_S, Node, PortTaken
from keymill.kafka.ports import choose, require_free
from keymill.telemetry import logger

READY_DEADLINE_S = 90  # one node takes 3 s on two idle cores; this is for a busy machine and a long log recovery
NO_QUORUM_DEADLINE_S = 1
PORT_ATTEMPTS = 3  # a free port can be taken between the choice and the broker's bind; hardly three times in a row
ASK_S = 0.25
LOG = logger("kafka.embedded")


class EmbeddedKafka:
    """
    A Kafka cluster whose brokers are children of this process.

    Nodes are counted from 0, and node ids are the same numbers. Methods may be called from any thread.

    Args:
        data: the cluster's folder; made if absent, kept between runs.
        nodes: brokers, each a controller too. A folder keeps the number it began with.
        ports: the brokers' client ports, one per node; if not given those of the last start, or free ones.
        properties: broker settings that win over `layout.server_properties`.
        heap_mib: Java heap of each broker; the process takes about 100 MiB more.
    """

    def __init__(
        self, data: Path, *, nodes: int = 1, ports: Sequence[int] = (), properties: Mapping[str, str] | None = None,
        heap_mib: int = 512,
    ) -> None:  # fmt: skip
        refused = sorted(FIXED & set(properties or {}))
        if refused:
            raise Misconfigured(f"the embedded Kafka sets {', '.join(refused)} itself")
        if nodes < 1 or (ports and len(ports) != nodes):
            raise Misconfigured(f"{len(ports)} ports for {nodes} Kafka nodes: give one for each, or none")
        self.data = data.absolute()
        self._fixed_ports = tuple(ports)
        self._count = nodes
        self._properties = dict(properties or {})
        self._heap_mib = heap_mib
        self._ports: list[Ports] = []
        self._nodes: list[Node] = []
        self._lock: IO[str] | None = None
        self._spawner: ThreadPoolExecutor | None = None
        self._mutex = RLock()
        self._stopping = Event()

    @property
    def bootstrap(self) -> str:
        """Every node's address, as clients take it."""
        return ",".join(f"{HOST}:{ports.client}" for ports in self._ports)

    @property
    def pids(self) -> list[int]:
        """The process id of every node, 0 for one that does not run."""
        return [node.pid for node in self._nodes]

    def start(self) -> None:
        """
        Start every node and wait until each answers; after an error nothing runs.

        Raises:
            Misconfigured: the folder or a port is taken, or the folder belongs to another kind of cluster.
            Unavailable: a broker ended or did not answer in time; the message quotes its log.
            NotReady: `stop` was called meanwhile.
        """
        with self._mutex:
            self._stopping.clear()
            jars = classpath()
            self._lock = hold(self.data)
            try:
                self._spawner = ThreadPoolExecutor(1, thread_name_prefix="kafka-spawner")
                homes = [self.data / f"node-{index}" for index in range(self._count)]
                self._nodes = [Node(home, jars, self._heap_mib, self._spawner) for home in homes]
                for node in self._nodes:
                    if orphan := node.stop_orphan():
                        LOG.warning("orphan_broker_stopped", pid=orphan, folder=str(self.data))
                self._launch(cluster_id(self.data, self._count))
            except OSError as error:
                self.stop()
                raise Misconfigured(f"the Kafka folder {self.data} cannot be used: {error}") from error
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """Stop every node cleanly, kill what has not stopped after 20 s, release the folder. May be repeated."""
        self._stopping.set()
        with self._mutex:
            self._stop_nodes()
            if self._spawner:
                self._spawner.shutdown()
                self._spawner = None
            if self._lock:
                self._lock.close()
                self._lock = None

    def poll(self) -> dict[int, int]:
        """Give the exit status of every node that has ended, negative for a signal."""
        statuses = {index: node.status for index, node in enumerate(self._nodes)}
        return {index: status for index, status in statuses.items() if status is not None}

    def kill(self, node: int = 0) -> None:
        """Kill a node as a crash would; returns when it is gone."""
        self._nodes[node].signal(signal.SIGKILL)
        self._nodes[node].wait(time.monotonic() + STOP_DEADLINE_S)

    def restart(self, node: int = 0) -> None:
        """Start a node again on its ports, stopping it first if it runs; returns when it answers."""
        with self._mutex:
            if self._spawner is None:
                raise NotReady("the embedded Kafka is stopped")
            self._nodes[node].terminate()
            self._nodes[node].wait(time.monotonic() + STOP_DEADLINE_S)
            require_free((self._ports[node].client, self._ports[node].controller))
            self._nodes[node].spawn()
            self._await_ready([node])

    def pause(self, node: int = 0) -> None:
        """Freeze a node: its connections stay open, nothing answers from the moment this returns."""
        self._nodes[node].freeze()

    def resume(self, node: int = 0) -> None:
        """Let a paused node go on."""
        self._nodes[node].signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self, identity: str) -> None:
        attempts = 1 if self._fixed_ports else PORT_ATTEMPTS
        while True:
            attempts -= 1
            self._ports = choose(self.data / "ports.json", self._count, self._fixed_ports)
            with ThreadPoolExecutor(self._count) as pool:
                list(pool.map(self._prepare, range(self._count), repeat(identity)))
            for node in self._nodes:
                node.spawn()
            try:
                self._await_ready(range(self._count))
                break
            except PortTaken:
                self._stop_nodes()
                if not attempts:
                    raise

    def _prepare(self, index: int, identity: str) -> None:
        properties = server_properties(index, self._ports, self._properties)
        self._nodes[index].configure(properties)
        self._nodes[index].format(identity, properties)

    def _stop_nodes(self) -> None:
        # A broker that stops cleanly asks the controllers first; without a majority of them it would wait in vain.
        majority = 2 * sum(map(bool, self.pids)) > self._count
        deadline = time.monotonic() + (STOP_DEADLINE_S if majority else NO_QUORUM_DEADLINE_S)
        for node in self._nodes:
            node.terminate()
        for node in self._nodes:
            node.wait(deadline)

    def _await_ready(self, indices: Iterable[int]) -> None:
        """Wait until each of these nodes answers and has been let into the cluster."""
        deadline = time.monotonic() + READY_DEADLINE_S
        for index in indices:
            node, client = self._nodes[index], _client(self._ports[index].client)
            while not _answers(client, index):
                if self._stopping.is_set():
                    raise NotReady("the embedded Kafka was stopped while it started")
                if node.status is not None:
                    raise node.failure()
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"Kafka node {index} does not answer after {READY_DEADLINE_S} s: {node.last_words()}"
                    )


def _client(port: int) -> AdminClient:
    quiet = logging.getLogger(f"{__name__}.start")
    quiet.disabled = True  # librdkafka reports every refused connection, and until the broker listens each one is
    backoff = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100}
    return AdminClient({"bootstrap.servers": f"{HOST}:{port}", **backoff}, logger=quiet)


def _answers(client: AdminClient, node: int) -> bool:
    try:
        return node in client.list_topics(timeout=ASK_S).brokers
    except KafkaException:
        return False
