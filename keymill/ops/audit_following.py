"""`keymill audit --follow`: a whole pass, looks at what came since, a whole pass again; and what Prometheus is told."""

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
    "missing", "different", "unexpected", "misplaced", "unopened", "unreadable", "unresolved", "unclaimed",
    "contradiction", "forged", "superseded", "key_lost", "key_changed", "copy_missing", "copy_different",
    "copy_unexpected",
)  # fmt: skip
"""Every kind of difference; each is shown from the first audit on, so that an alert sees it rise from 0."""

log = telemetry.logger("ops.audit")


class Schedule(NamedTuple):
    """
    When to audit, and where /metrics is.

    Args:
        every_s: from the begin of one audit to the next.
        whole_every_s: from one that reads everything to the next; 0 for the first alone.
        metrics_port: 0 for nowhere.
    """

    every_s: int
    whole_every_s: int
    metrics_port: int
    host: str = "127.0.0.1"

    def whole_due(self, age_s: float | None) -> bool:
        """Whether everything must be read, so long after the last time; None before the first."""
        return age_s is None or 0 < self.whole_every_s <= age_s


class Looked(NamedTuple):
    """What stands after an audit, and whether it has read everything."""

    audit: Audit
    whole: bool

    @property
    def scope(self) -> str:
        """For metrics."""
        return "whole" if self.whole else "increment"


Look = Callable[[bool], Looked]
"""Audits; given whether everything must be read, it may also decide so by itself."""


def follow(look: Look, schedule: Schedule) -> int:
    """Audit until SIGTERM or SIGINT; an audit that is under way then is finished. The exit code is the last one's."""
    stop, started = threading.Event(), time.time()
    last, whole = started, 0.0
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    telemetry.AUDIT_AGE.set_function(lambda: time.time() - last)
    telemetry.AUDIT_WHOLE_AGE.set_function(lambda: time.time() - (whole or started))
    if schedule.metrics_port:
        start_http_server(schedule.metrics_port, addr=schedule.host)
    clean = True
    while not stop.is_set():
        began = time.time()
        asked = schedule.whole_due(began - whole if whole else None)
        try:
            found = look(asked)
        except Retry as error:
            telemetry.AUDITS.labels("unfinished", "whole" if asked else "increment").inc()
            log.warning("audit could not be finished", reason=str(error))
            stop.wait(min(RETRY_S, schedule.every_s))
            continue
        clean, last = found.audit.clean(), time.time()
        whole = began if found.whole else whole
        show(found, last - began)
        del found  # so that a whole pass does not stand beside the one before it
        stop.wait(max(0.0, schedule.every_s - (last - began)))
    return 0 if clean else 1


def show(found: Looked, took_s: float) -> None:
    """Set the metrics."""
    audit = found.audit
    telemetry.AUDITS.labels("clean" if audit.clean() else "different", found.scope).inc()
    telemetry.AUDIT_SECONDS.labels(found.scope).set(took_s)
    telemetry.AUDIT_EVENTS.set(audit.numbers.events)
    telemetry.AUDIT_PENDING.set(audit.numbers.pending)
    for kind in KINDS:
        telemetry.AUDIT_DIFFERENCES.labels(kind).set(audit.findings.counts[kind])
