"""Starts and watches `transport_worker.py` processes; what the tests in tests/kafka/test_transport*.py share."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import KafkaError

PROGRAM = Path(__file__).parent / "kafka" / "transport_worker.py"
ROOT = Path(__file__).parents[1]


def wait_for(what: Callable[[], Any], timeout_s: float = 30, every_s: float = 0.05) -> Any:
    """Give the first true answer of *what*, or fail naming it."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = what()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not true within {timeout_s} s: {what}"
        time.sleep(every_s)


class Broker:
    """The admin's view of the test broker."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.admin = KafkaAdminClient(bootstrap_servers=bootstrap)

    def create(self, *topics: str, partitions: int = 12) -> None:
        self.admin.create_topics([NewTopic(topic, partitions, 1) for topic in topics])
        time.sleep(0.3)

    def committed(self, group: str) -> dict[tuple[str, int], int]:
        offsets = self.admin.list_group_offsets(group)[group]
        return {(tp.topic, tp.partition): at.offset for tp, at in offsets.items()}

    def produce(self, topic: str, values: Mapping[int, list[str]], **config: Any) -> None:
        """Append to each partition its values, acknowledged by the broker."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 20, "log_level": 0, **config})
        failed: list[Any] = []
        for partition, items in values.items():
            for value in items:
                producer.produce(
                    topic, key=value.encode(), value=value.encode(), partition=partition,
                    on_delivery=lambda error, _message: failed.append(error) if error else None,
                )  # fmt: skip
                producer.poll(0)
        assert producer.flush(30) == 0
        assert not failed


class WorkerProcess:
    """One worker and the lines it has written."""

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None, **settings: Any) -> None:
        self.out = folder / f"worker-{time.monotonic_ns()}.jsonl"
        self.err = self.out.with_suffix(".log")
        self.out.touch()
        with self.err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, str(PROGRAM), json.dumps({**settings, "out": str(self.out)})],
                stderr=err, stdout=err, cwd=folder, env={**os.environ, **(env or {}), "PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    def lines(self, what: str | None = None) -> list[dict[str, Any]]:
        whole = [line for line in self.out.read_text().splitlines(keepends=True) if line.endswith("\n")]
        lines = [json.loads(line) for line in whole]
        return [line for line in lines if what is None or line["what"] == what]

    def runs(self) -> list[dict[str, Any]]:
        return self.lines("run")

    def handled(self) -> int:
        return sum(run["n"] for run in self.runs())

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 30) -> int:
        return self.process.wait(timeout_s)

    def stop(self, timeout_s: float = 30) -> int:
        self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def log(self) -> str:
        return self.err.read_text()

    def listening(self) -> list[str]:
        """Local addresses on which the process accepts connections."""
        inodes = set()
        for descriptor in Path(f"/proc/{self.process.pid}/fd").iterdir():
            target = os.readlink(descriptor) if descriptor.is_symlink() else ""
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
        tables = [Path(f"/proc/{self.process.pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
        rows = [row.split() for table in tables for row in table]
        return [row[1] for row in rows if row[3] == "0A" and row[9] in inodes]


@contextmanager
def workers(folder: Path, **common: Any) -> Iterator[Callable[..., WorkerProcess]]:
    """Give a function that starts workers; those still alive at the end are killed."""
    started: list[WorkerProcess] = []

    def start(**settings: Any) -> WorkerProcess:
        started.append(WorkerProcess(folder, **{**common, **settings}))
        return started[-1]

    try:
        yield start
    finally:
        for worker in started:
            if worker.process.poll() is None:
                worker.signal(signal.SIGCONT)
                worker.process.kill()
                worker.wait()


class CommitWatch:
    """Reads the group's committed offsets over and over, from outside, until it is closed."""

    def __init__(self, broker: Broker, group: str) -> None:
        self.samples: list[tuple[float, dict[tuple[str, int], int]]] = []
        self._broker, self._group = Broker(broker.bootstrap), group
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._closed.wait(0.02):
            try:
                offsets = self._broker.committed(self._group)
            except KafkaError:  # no coordinator yet
                continue
            self.samples.append((time.time(), offsets))  # the offsets are older than this, never newer

    def close(self) -> None:
        self._closed.set()
        self._thread.join(10)

    def check(self, done: list[dict[str, Any]], starts: Mapping[tuple[str, int], int] | None = None) -> None:
        """Assert that every sample names only offsets all of which were durable before it was read."""
        assert self.samples
        for at, offsets in self.samples:
            for tp, committed in offsets.items():
                mine = [run for run in done if (run["topic"], run["partition"]) == tp and run["t"] <= at]
                covered = sorted((run["start"], run["end"]) for run in mine)
                reached = (starts or {}).get(tp, 0)
                for start, end in covered:
                    if start <= reached:
                        reached = max(reached, end)
                assert committed <= reached, f"{tp} committed {committed}, durable only up to {reached}"
