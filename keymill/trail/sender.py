"""
From the spool to the audit topic: complete segments, in order, each deleted when the brokers have all of it.

A kill between the two sends a segment again; readers know a duplicate by instance and sequence number.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from keymill import telemetry
from keymill.durable import own_folder
from keymill.errors import InvalidRecord, KeymillError
from keymill.kafka.admin import require_topics
from keymill.kafka.delivery import Delivery
from keymill.kafka.producer import Outgoing, Publisher
from keymill.trail import segments
from keymill.trail.line import event_of
from schemas import topics
from schemas.audit import AuditEvent
from schemas.codec import encode

TOPIC: Final = topics.AUDIT.name
PERIOD_S: Final = 0.25
RETRY_S: Final = 5.0
BATCH: Final = 500
DELIVERY_TIMEOUT_S: Final = 15.0
STOP_S: Final = 3.0
"""What a program's end may wait for: the spool keeps what is left for the next start."""
log = telemetry.logger("trail.sender")


class Publishing(Protocol):
    """What the sender needs of a `Publisher`."""

    def send_batch(self, records: list[Outgoing]) -> Delivery:
        """See `Publisher`."""
        ...

    def flush_all(self, deliveries: list[Delivery]) -> None:
        """See `Publisher`."""
        ...

    def close(self, timeout_s: float = 0.0) -> None:
        """See `Publisher`."""
        ...


def record_of(event: AuditEvent) -> Outgoing:
    """The record of an event."""
    key = f"{event.program}/{event.instance}".encode()
    return Outgoing(topic=TOPIC, record_key=key, value=encode(event))


def send_spool(folder: Path, publisher: Publishing) -> int:
    """Send every complete segment; returns the number of events. Raises what publishing raises, and keeps the rest."""
    segments.adopt_orphans(folder)
    sent = 0
    for path in segments.sealed(folder):
        instance, records = segments.instance_of(path), []
        for line in segments.lines_of(path):
            try:
                records.append(record_of(event_of(line, instance)))
            except InvalidRecord as error:
                telemetry.AUDIT_LOST.inc()
                log.error("an audit event is unreadable", segment=path.name, reason=str(error))
        batches = [records[start : start + BATCH] for start in range(0, len(records), BATCH)]
        publisher.flush_all([publisher.send_batch(batch) for batch in batches])
        path.unlink(missing_ok=True)
        sent += len(records)
    return sent


class Sender:
    """
    A thread that empties a spool as long as the program runs. Brokers that are away cost it patience, nothing else.

    Args:
        connect: a publisher to the brokers; may raise a `KeymillError`, and is asked again after a while.
    """

    def __init__(self, folder: Path, connect: Callable[[], Publishing]) -> None:
        self._folder = folder
        self._connect = connect
        self._publisher: Publishing | None = None
        self._failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit-sender", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Send what the writers have completed, for three seconds at most, and end."""
        self._stop.set()
        self._thread.join(STOP_S)
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            publisher.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._stop.wait(PERIOD_S if self._turn() else RETRY_S)
        if not self._failing:
            self._turn()

    def _turn(self) -> bool:
        try:
            own_folder(self._folder)
            if self._publisher is None:
                self._publisher = self._connect()
            send_spool(self._folder, self._publisher)
        except (KeymillError, OSError) as error:
            self._give_up(str(error))
            return False
        if self._failing:
            log.warning("audit events are sent again")
        self._failing = False
        return True

    def _give_up(self, reason: str) -> None:
        """What was not acknowledged is sent again, by another producer."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            publisher.close()
        if not self._failing:
            log.warning("audit events wait in the spool", reason=reason, folder=str(self._folder))
        self._failing = True


def sender_of(folder: Path, bootstrap: str) -> Sender:
    """A `Sender` to the audit topic of these brokers."""

    def connect() -> Publisher:
        partitions = require_topics(bootstrap, [TOPIC])[TOPIC].partitions
        return Publisher(bootstrap, {TOPIC: partitions}, delivery_timeout_s=DELIVERY_TIMEOUT_S, compression="lz4")

    return Sender(folder, connect)
