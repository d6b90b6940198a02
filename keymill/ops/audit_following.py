"""`keymill audit --follow`: one audit after the other, and what Prometheus is told of them."""

import signal
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from prometheus_client import start_http_server

from keymill import telemetry
from keymill.errors import Retry
from keymill.ops.auditing import Audit

RETRY_S: Final = 10.0
"""After an audit that could not be finished: the brokers are away."""
KINDS: Final = (
    "missing", "different", "unexpected", "misplaced", "unopened", "unresolved", "unclaimed", "contradiction",
    "key_lost", "key_changed", "copy_missing", "copy_different", "copy_unexpected",
)  # fmt: skip
"""Every kind of difference; each is shown from the first audit on, so that an alert sees it rise from 0."""

log = telemetry.logger("ops.audit")


class Schedule(NamedTuple):
    """Seconds from the begin of one audit to the next, and where /metrics is; port 0 for nowhere."""

    every_s: int
    metrics_port: int
    host: str = "127.0.0.1"


def follow(once: Callable[[], Audit], schedule: Schedule) -> int:
    """Audit until SIGTERM or SIGINT; an audit that is under way then is finished. The exit code is the last one's."""
    stop, last = threading.Event(), time.time()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    telemetry.AUDIT_AGE.set_function(lambda: time.time() - last)
    if schedule.metrics_port:
        start_http_server(schedule.metrics_port, addr=schedule.host)
    clean = True
    while not stop.is_set():
        began = time.time()
        try:
            found = once()
        except Retry as error:
            telemetry.AUDITS.labels("unfinished").inc()
            log.warning("audit could not be finished", reason=str(error))
            stop.wait(RETRY_S)
            continue
        clean, last = found.clean(), time.time()
        show(found, last - began)
        stop.wait(max(0.0, schedule.every_s - (last - began)))
    return 0 if clean else 1


def show(found: Audit, took_s: float) -> None:
    """Set the metrics."""
    telemetry.AUDITS.labels("clean" if found.clean() else "different").inc()
    telemetry.AUDIT_SECONDS.set(took_s)
    telemetry.AUDIT_EVENTS.set(found.events)
    for kind in KINDS:
        telemetry.AUDIT_DIFFERENCES.labels(kind).set(found.counts[kind])
