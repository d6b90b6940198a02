"""
A program's word about itself on the status topic: every few seconds, and at once when what others wait for changes.

    with reporter_of(settings, "gateway", observe):
        …

Everything happens in a thread with a publisher of its own. Brokers that are away cost a warning; whatever goes wrong
here, the program goes on.
"""

import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from types import TracebackType
from typing import Final, Self

from keymill import telemetry
from keymill.config import Settings
from keymill.errors import KeymillError
from keymill.kafka.lens import Lens, described
from keymill.kafka.producer import Publisher
from schemas.codec import encode
from schemas.operations import KekEpochs, ProgramReport, TopicProgress
from schemas.topics import STATUS
from schemas.values import Record

LOOK_S: Final = 0.25
"""How soon a change of readiness or KEKs is seen."""
SEND_S: Final = 5.0
"""A report that is not acknowledged in this time is worth less than the next one."""
AGAIN_S: Final = 2.0
"""Before the next try when a report could not be written."""
FAREWELL_S: Final = 1.0
"""What the last report may cost a program that ends."""
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9._-]")

log = telemetry.logger("kafka.reporting")


class Observation(Record, frozen=True, kw_only=True):
    """What a program sees of itself; the fields are those of `ProgramReport`."""

    waits_for: str | None = None
    behind: int = 0
    staleness_ms: int = 0
    progress: tuple[TopicProgress, ...] = ()
    keks: tuple[KekEpochs, ...] = ()


def held_keks(keks: Iterable[tuple[str, int]]) -> tuple[KekEpochs, ...]:
    """(organization, epoch) pairs as a report has them."""
    epochs: dict[str, set[int]] = {}
    for organization, epoch in keks:
        epochs.setdefault(organization, set()).add(epoch)
    return tuple(KekEpochs(organization=each, epochs=tuple(sorted(epochs[each]))) for each in sorted(epochs))


def instance_of(settings: Settings, port: int = 0) -> str:
    """
    The name of a program on its machine, the same after every start: the setting `instance_id`, else host and folder.

    Args:
        port: as configured, of a program several of which may share a data folder; 0 leaves it out.
    """
    if settings.instance_id:
        return settings.instance_id
    folder = hashlib.sha256(str(settings.data.absolute()).encode()).hexdigest()[:8]
    host = _FOREIGN.sub("-", socket.gethostname()) or "host"
    return f"{host}-{folder}-{port}" if port else f"{host}-{folder}"


def reporter_of(settings: Settings, program: str, observe: Callable[[], Observation], *, port: int = 0) -> "Reporter":
    """The `Reporter` of a program with these settings; *port* as for `instance_of`."""
    return Reporter(
        settings.bootstrap,
        program=program,
        instance=instance_of(settings, port),
        every_s=settings.report_s,
        observe=observe,
    )


class Reporter:
    """
    Reports between `start` and `close`; the last report says `stopped`.

    Args:
        every_s: seconds between two reports while nothing changes.
        observe: called in the reporter's thread; what it raises becomes `waits_for`.
    """

    def __init__(
        self, bootstrap: str, *, program: str, instance: str, every_s: float, observe: Callable[[], Observation]
    ) -> None:
        self._bootstrap = bootstrap
        self._program = program
        self._instance = instance
        self._every_s = every_s
        self._observe = observe
        self._started = _now_ms()
        self._publisher: Publisher | None = None
        self._heard = False
        """Whether the last report was acknowledged."""
        self._failed = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="report", daemon=True)

    def start(self) -> Self:
        """Report from now on."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Say goodbye, if the brokers were there a moment ago; returns within a few seconds."""
        self._stop.set()
        self._thread.join(FAREWELL_S)
        if self._heard and not self._thread.is_alive():
            self._send(Observation(waits_for="the program has stopped"), stopped=True)
        if self._publisher is not None:
            self._publisher.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        due, said = 0.0, Observation()
        while not self._stop.is_set():
            seen = self._look()
            if time.monotonic() >= due or _news(seen, said):
                self._send(seen)
                said = seen
                due = time.monotonic() + (self._every_s if self._heard else min(self._every_s, AGAIN_S))
            self._stop.wait(LOOK_S)

    def _look(self) -> Observation:
        try:
            seen = self._observe()
            for each in seen.keks:
                telemetry.KEK_EPOCH.labels(each.organization).set(max(each.epochs, default=0))
            return seen
        except KeymillError as error:
            return Observation(waits_for=str(error))
        except Exception as error:  # noqa: BLE001 the top of the thread: a report never harms its program
            return Observation(waits_for=f"it cannot look at itself: {error!r}")

    def _send(self, seen: Observation, *, stopped: bool = False) -> None:
        try:
            publisher = self._connected()
            report = self._report(seen, stopped)
            delivery = publisher.send(STATUS.name, f"{self._program}/{self._instance}".encode("ascii"), encode(report))
            if stopped:
                delivery.wait(FAREWELL_S)
            else:
                publisher.flush_all([delivery])
            self._heard, self._failed = True, False
        except Exception as error:  # noqa: BLE001 the top of the thread: a report never harms its program
            if not self._failed:
                log.warning("no report can be written", reason=str(error))
            self._heard, self._failed = False, True
            self._disconnect()

    def _report(self, seen: Observation, stopped: bool) -> ProgramReport:
        at = _now_ms()
        return ProgramReport(
            program=self._program,
            instance=self._instance,
            version=metadata.version("keymill"),
            started=self._started,
            at=at,
            stopped=at if stopped else None,
            waits_for=seen.waits_for,
            behind=seen.behind,
            staleness_ms=seen.staleness_ms,
            progress=seen.progress,
            keks=seen.keks,
        )

    def _connected(self) -> Publisher:
        if self._publisher is None:
            lens = Lens({"bootstrap.servers": self._bootstrap})  # held by its name: it answers only while it lives
            answer = lens.ask_topics([STATUS.name]).answer()
            partitions = {STATUS.name: described(answer)[STATUS.name].partitions}
            self._publisher = Publisher(self._bootstrap, partitions, delivery_timeout_s=SEND_S)
        return self._publisher

    def _disconnect(self) -> None:
        """The next report finds its own way: the topic may be another by then."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            publisher.close()


def _news(seen: Observation, said: Observation) -> bool:
    """Whether others should know before the next report is due."""
    return (seen.waits_for is None, seen.keks) != (said.waits_for is None, said.keks)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
