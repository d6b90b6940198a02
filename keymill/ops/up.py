"""
`keymill up`: Kafka and every program of keymill on one machine, in one data folder.

A start: (1) Kafka, ours or the one that `bootstrap` names, (2) key file and topics, once with what an earlier
release wrote, (3) demo organization and its
credentials, (4) processors, gateway, proxy, (5) all ready, one line of JSON on stdout. Then whatever ends is started
again, until SIGTERM or Ctrl-C stops everything in reverse order. A second signal ends a start at once.
"""

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

from starlette.applications import Starlette

from keymill import telemetry
from keymill.config import UpSettings
from keymill.disk import DiskSpace
from keymill.durable import own_folder
from keymill.errors import KeymillError
from keymill.http.health import STOPPING, Readiness, health_routes
from keymill.http.server import ServingThread, dress, listen, url_of
from keymill.kafka.admin import create_topics
from keymill.kafka.embedded import EmbeddedKafka
from keymill.ops.address import write_address
from keymill.ops.demo_organization import ensure_demo
from keymill.ops.plan import children_of, own_port
from keymill.ops.sign import begin_signing, finish_signing
from keymill.ops.supervise import Child

WATCH_S: Final = 0.1
KAFKA_BACKOFF_S: Final = (0.0, 1.0, 5.0)

log = telemetry.logger("ops.up")


class Up:
    """Owns the broker and the children of one `keymill up`."""

    def __init__(self, settings: UpSettings, file: Path | None = None) -> None:
        self._settings = settings
        self._file = file
        self._stopping = False
        self._kafka: EmbeddedKafka | None = None
        self._children: dict[str, list[Child]] = {}
        self._bootstrap = settings.bootstrap
        self._stop = threading.Event()
        self._kafka_failures = 0
        self._kafka_doctor: threading.Thread | None = None
        self._demo: dict[str, str] = {}
        self._address: dict[str, Any] = {}
        self._noted = True
        self._readiness = Readiness(
            self._waits_for, degraded=DiskSpace(settings.data, settings.min_free_mib).degraded
        )  # fmt: skip
        self._url = ""

    def run(self) -> int:
        """Run until a signal; returns the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        with self._served():
            return self._run()

    @contextmanager
    def _served(self) -> Iterator[None]:
        """How it is doing itself, from the first moment on."""
        settings = self._settings
        bound = listen(settings.admin_host, own_port(settings))
        self._url = url_of(bound, settings)
        web = dress(Starlette(routes=health_routes(self._readiness)), program="up")
        served = ServingThread(web, settings=settings, bound=bound).start()
        try:
            yield
        finally:
            served.close()

    def _waits_for(self) -> str | None:
        if self._stop.is_set():
            return STOPPING
        return None if self._address else "the programs are starting"

    def _run(self) -> int:
        try:
            self._start()
            while not self._stop.wait(WATCH_S):
                self._watch()
        finally:
            self._stop_all()
        return 0

    def _start(self) -> None:
        for step in (self._start_kafka, self._prepare, self._start_children, self._await_children):
            step()
            if self._stop.is_set():
                return
        self._note_address()
        print(json.dumps(self._address), flush=True)  # noqa: T201 the contract of design 8

    def _start_kafka(self) -> None:
        settings = self._settings
        own_folder(settings.data)
        if not self._bootstrap:
            ports = [settings.port_base] if settings.port_base else ()
            self._kafka = EmbeddedKafka(settings.data / "kafka", ports=ports)
            self._kafka.start()
            self._bootstrap = self._kafka.bootstrap

    def _prepare(self) -> None:
        own = self._kafka is not None
        begin_signing(self._settings, self._bootstrap, own=own)
        create_topics(self._bootstrap, partitions=self._settings.partitions, replicas=self._settings.replicas)
        finish_signing(self._settings, self._bootstrap, own=own)
        self._demo = ensure_demo(self._settings, self._bootstrap)

    def _start_children(self) -> None:
        self._children = children_of(self._settings, self._bootstrap, self._file)
        for group in self._children.values():
            for child in group:
                child.start()

    def _await_children(self) -> None:
        for group in self._children.values():
            for child in group:
                child.wait_listening(self._stop.is_set)
                child.wait_ready(self._stop.is_set)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        """The first signal ends a start between two steps; a second one wherever it is, as in a long download."""
        if self._stop.is_set() and not self._stopping:
            raise KeyboardInterrupt
        self._stop.set()

    def _line(self) -> dict[str, Any]:
        gateway, proxy = self._children["gateway"][0], self._children["proxy"][0]
        pids: dict[str, Any] = {
            "kafka": self._kafka.pids[0] if self._kafka else None,
            "processor": [child.pid for child in self._children["processor"]],
            "gateway": gateway.pid,
            "proxy": [proxy.pid],
        }
        return {
            "kafka": self._bootstrap,
            "gateway": gateway.url,
            "proxy": proxy.url,
            "data": str(self._settings.data.absolute()),
            "credentials": self._demo,
            "service": {"name": "demo", "version": "1.0"},
            "pids": pids,
            "health": {"processor": [child.url for child in self._children["processor"]]},
            "admin": {"up": self._url, "gateway": gateway.admin_url, "proxy": proxy.admin_url},
        }

    def _watch(self) -> None:
        if self._kafka and self._kafka.poll() and not (self._kafka_doctor and self._kafka_doctor.is_alive()):
            # In a thread of its own: a child that ends meanwhile must not wait for the broker.
            self._kafka_doctor = threading.Thread(target=self._restart_kafka, args=(self._kafka,), daemon=True)
            self._kafka_doctor.start()
        self._readiness.degraded()
        for group in self._children.values():
            for child in group:
                child.watch()
        if self._line() != self._address or not self._noted:
            self._note_address()

    def _note_address(self) -> None:
        self._address = self._line()
        try:
            write_address(self._settings.data, self._address)
            self._noted = True
        except OSError as error:
            if self._noted:
                log.warning("the address cannot be noted, and commands may not find this cluster", reason=str(error))
            self._noted = False

    def _restart_kafka(self, kafka: EmbeddedKafka) -> None:
        delay = KAFKA_BACKOFF_S[min(self._kafka_failures, len(KAFKA_BACKOFF_S) - 1)]
        log.warning("kafka_ended", restart_in_s=delay)
        if self._stop.wait(delay):
            return
        try:
            kafka.restart()
            self._kafka_failures = 0
        except (KeymillError, OSError) as error:
            self._kafka_failures += 1
            log.error("kafka_restart_failed", error=str(error))

    def _stop_all(self) -> None:
        self._stopping = True
        for name in ("proxy", "gateway", "processor"):
            group = self._children.get(name, [])
            for child in group:
                child.signal_stop()
            deadline = time.monotonic() + self._settings.stop_timeout_s + 2
            for child in group:
                child.wait_stopped(deadline)
        if self._kafka:
            self._kafka.stop()


def run(settings: UpSettings, file: Path | None = None) -> int:
    """Run `keymill up`; returns the exit code. The proxy reads its license servers from *file* itself."""
    telemetry.configure("up", settings.log_level)
    with _traced(settings.data):
        return Up(settings, file).run()


@contextmanager
def _traced(data: Path) -> Iterator[None]:
    log.info("up_starting", data=str(data))
    yield
    log.info("up_stopped", data=str(data))
