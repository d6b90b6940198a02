"""
What the fault tests share: a cluster with topics and keys, programs as processes, and the verdict.

KEYMILL_TEST_SEED repeats a run's events and moments; the seed is printed with every failure.
"""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from keymill.kafka.admin import create_topics, end_offsets
from keymill.kafka.embedded import EmbeddedKafka
from keymill.ops.access import prepare_keys
from keymill.ops.credentials import create_organization
from keymill.ops.tokens import ensure_token_key, put_service
from schemas import topics
from tests.broker import embedded_kafka
from tests.drawn import ORGANIZATION
from tests.e2e.load import Driver
from tests.e2e.observe import CommitWatch, Observer
from tests.e2e.programs import CLI, SEED, Program, wait_for
from tests.history import Accepted, Event, Served, Violation, check

PARTITIONS: Final = 6
GROUP: Final = "keymill-processor"
SESSION_S: Final = 6
"""The broker's lower limit (group.min.session.timeout.ms)."""
DELIVERY_S: Final = 4


@dataclass
class Rig:
    """A cluster, and everybody who looks at it."""

    bootstrap: str
    data: Path
    observer: Observer
    watch: CommitWatch
    kafka: EmbeddedKafka | None = None
    """The broker, where a test may kill it."""
    others: list[Accepted] = field(default_factory=list)
    """Events that were accepted by something else than a driver."""
    programs: list[Program] = field(default_factory=list)
    drivers: list[Driver] = field(default_factory=list)
    served: list[Served] = field(default_factory=list)

    def processor(self, name: str, **environment: str) -> Program:
        """Start a processor; *name* is its instance id."""
        given = {
            "KEYMILL_INSTANCE_ID": name,
            "KEYMILL_SESSION_TIMEOUT_S": str(SESSION_S),
            "KEYMILL_DELIVERY_TIMEOUT_S": str(DELIVERY_S),
        }
        return self.program("processor", f"processor-{name}", **given | environment)

    def program(self, command: str, log: str, **environment: str) -> Program:
        """Start any program beside the data folder."""
        path = self.data.with_name(f"{log}.log")
        self.programs.append(Program(command, self.data, self.bootstrap, path, **environment))
        return self.programs[-1]

    def driver(self, prefix: str, **options: Any) -> Driver:
        """An ingest system."""
        self.drivers.append(Driver(self.bootstrap, PARTITIONS, SEED, prefix, **options))
        return self.drivers[-1]

    def accepted(self) -> list[Accepted]:
        """Every event that was acknowledged to an ingest system."""
        return self.others + [event for driver in self.drivers for event in driver.accepted]

    def settle(self, *crew: Program, timeout_s: float = 60) -> None:
        """Wait until the group has committed the end of every partition; programs of *crew* are started again."""
        ends = end_offsets(self.bootstrap, topics.ASSETS.name)

        def done() -> bool:
            for program in crew:
                program.tend()
            return all(self.watch.offsets.get(number, 0) >= end for number, end in ends.items())

        wait_for(done, timeout_s)
        self.observer.read_to_end()

    def verdict(self) -> None:
        """The history has no violation, exactly the broken events are refused, and a replay finds nothing to do."""
        self.observer.read_to_end()
        found = self.violations()
        counts = Counter(violation.invariant for violation in found)
        assert not found, f"KEYMILL_TEST_SEED={SEED}: {dict(counts)}, such as {found[:3]}"
        refused = {(letter.partition, letter.offset) for letter in self.observer.refused}
        broken = {place for driver in self.drivers for place in driver.to_refuse}
        assert broken == refused, f"KEYMILL_TEST_SEED={SEED}"
        report = self.replay()
        assert (0, 0, 0) == tuple(report[name] for name in ("missing", "different", "unexpected")), report
        assert len(broken) == report["refused"] + report["pending"]  # pending: refused after the last that was applied

    def violations(self) -> list[Violation]:
        """What the history checker finds in everything that was recorded so far."""
        observer = self.observer
        events: list[Event] = [*self.accepted(), *observer.written, *observer.refused, *self.watch.seen, *self.served]
        return check(events)

    def replay(self) -> dict[str, Any]:
        """`keymill replay --json`."""
        command = [*CLI, "replay", "--data", str(self.data), "--bootstrap", self.bootstrap, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        assert (not done.returncode) == (not report["differences"]), done.stdout[-2000:]
        return report

    def end(self) -> None:
        """No process of this test is left."""
        for program in self.programs:
            program.end()
        self.programs.clear()


@contextmanager
def rig_of(folder: Path) -> Iterator[Rig]:
    """A broker of one's own with topics, an organization, its token key and its service."""
    data = folder / "data"
    with ExitStack() as stack:
        kafka = stack.enter_context(embedded_kafka())
        prepare_keys(kafka.bootstrap, data / "keys.json")
        create_topics(kafka.bootstrap, partitions=PARTITIONS)
        create_organization(kafka.bootstrap, data / "keys.json", ORGANIZATION)
        ensure_token_key(data, kafka.bootstrap, ORGANIZATION)
        put_service(kafka.bootstrap, ORGANIZATION)
        rig = stack.enter_context(watched(kafka.bootstrap, data))
        rig.kafka = kafka
        yield rig


@contextmanager
def watched(bootstrap: str, data: Path) -> Iterator[Rig]:
    """Somebody's cluster with its topics, and everybody who looks at it."""
    with ExitStack() as stack:
        observer = Observer(bootstrap, PARTITIONS)
        stack.callback(observer.close)
        watch = CommitWatch(bootstrap, GROUP)
        stack.callback(watch.close)
        rig = Rig(bootstrap, data, observer, watch)
        stack.callback(rig.end)
        yield rig
