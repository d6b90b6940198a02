"""
Logs and metrics: their names, and nothing that could carry a secret.

A log is one JSON object per line on stderr, time in UTC milliseconds. Every event name and field is chosen by us;
values of records, bodies, tokens and keys are never fields. `request_id` follows a request from the gateway through
the event's header to the record.
"""

import logging
import sys
from contextvars import ContextVar
from typing import Any, Final

import structlog
from prometheus_client import Counter, Gauge, Histogram

from keymill import repeats

REQUEST_ID_HEADER: Final = "x-request-id"
"""Name of the request id in HTTP and in Kafka record headers."""
request_id: ContextVar[str] = ContextVar("request_id", default="")

EVENTS = Counter(
    "keymill_events_total", "Asset events, policy changes and requests by what became of them", ["outcome"]
)
PUBLISHED = Counter("keymill_published_total", "Acknowledged records by topic", ["topic"])
DEAD_LETTERS = Counter("keymill_dead_letters_total", "Refused events by reason", ["reason"])
RUN_SECONDS = Histogram(
    "keymill_run_seconds",
    "From a run's hand-over to its acknowledgement",
    buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10),
)
REPAIRS = Counter("keymill_repairs_total", "Records written again after a regression was read back", ["reason"])
FROZEN = Counter("keymill_frozen_total", "Children that gave no sign of life and were killed", ["child"])
VIEW_READY = Gauge("keymill_view_ready", "1 when the view has caught up once", multiprocess_mode="max")
VIEW_STALENESS = Gauge(
    "keymill_view_staleness_seconds",
    "Seconds since the view last held all that the brokers had",
    multiprocess_mode="max",
)
VIEW_STOPPED = Gauge(
    "keymill_view_stopped",
    "1 while the view's follower cannot go on without a person and only what it holds is served; page",
    multiprocess_mode="max",
)
VIEW_STALE = Gauge(
    "keymill_view_stale", "Records that a view passed over as older than what it held", multiprocess_mode="max"
)
VIEW_BEHIND = Gauge(
    "keymill_view_behind", "Records between the view and the ends of its topics", multiprocess_mode="max"
)
CONSUMER_BEHIND = Gauge(
    "keymill_consumer_behind", "Records of a processor's partitions that wait, as far as its last fetches knew"
)
CONSUMER_WAITING = Gauge(
    "keymill_consumer_waiting_seconds",
    "Age of the oldest record that a processor has read and not done with; 0 for none",
)
KEKS_MISSING = Gauge(
    "keymill_keks_missing", "KEKs that records name and this proxy was not handed; page", multiprocess_mode="mostrecent"
)
KEK_EPOCH = Gauge(
    "keymill_kek_epoch", "The newest KEK epoch that a program holds", ["organization"], multiprocess_mode="mostrecent"
)
BATCHES_PASSED = Counter(
    "keymill_batches_passed_over_total", "Batches of records that could not be unpacked; page at the first", ["topic"]
)
QUARANTINED = Gauge(
    "keymill_view_quarantined", "Records that a view refused; page when it rises", multiprocess_mode="max"
)
REQUESTS = Counter(
    "keymill_http_requests_total", "Answers by program, route and status", ["program", "route", "status"]
)
REQUEST_SECONDS = Histogram(
    "keymill_http_request_seconds",
    "Time to answer by program and route",
    ["program", "route"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 10, 60),
)
LICENSES = Counter("keymill_licenses_total", "Licenses by DRM system and outcome", ["drm_system", "outcome"])
UPSTREAM_REQUESTS = Counter(
    "keymill_upstream_requests_total", "Requests to license servers by server and outcome", ["upstream", "outcome"]
)
UPSTREAM_SECONDS = Histogram(
    "keymill_upstream_seconds",
    "Time until a license server's answer, every attempt included",
    ["upstream"],
    buckets=(0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
)
UPSTREAM_OPEN = Gauge(
    "keymill_upstream_circuit_open",
    "1 while a license server is not asked because it failed repeatedly",
    ["upstream"],
    multiprocess_mode="max",
)

ARCHIVED = Counter("keymill_archived_rows_total", "Rows given to the SQL archive by table", ["table"])
CONNECT_BEHIND = Gauge("keymill_connect_behind", "Records between a sink connector and the ends of its topics")
CONNECT_STALLED = Gauge(
    "keymill_connect_stalled_seconds", "Since a connector that has to try again last moved what there was; else 0"
)
OUTBOX_OLDEST = Gauge(
    "keymill_outbox_oldest_seconds", "For how long the oldest row of the SQL outbox has waited; 0 when none waits"
)
RELAYED = Counter(
    "keymill_relayed_total", "Items of a source connector by what became of them", ["connector", "outcome"]
)

UNOPENED = Counter("keymill_key_records_unopened_total", "Key records that a proxy could not open; page when it rises")
AUDITS = Counter(
    "keymill_audits_total",
    "Audits by how they ended and whether they read everything or what came",
    ["outcome", "scope"],
)
AUDIT_DIFFERENCES = Gauge(
    "keymill_audit_differences", "Differences that the last audit found, by kind; page when it is not 0", ["kind"]
)
AUDIT_AGE = Gauge("keymill_audit_age_seconds", "Seconds since the last audit that was finished")
AUDIT_WHOLE_AGE = Gauge("keymill_audit_whole_age_seconds", "Seconds since the last audit that read everything")
AUDIT_SECONDS = Gauge("keymill_audit_seconds", "How long the last audit took, of everything or of what came", ["scope"])
AUDIT_EVENTS = Gauge("keymill_audit_events", "Events and policy changes that the last audit knows")
AUDIT_PENDING = Gauge("keymill_audit_pending", "Those of them that no processor had decided")
AUDIT_LOST = Counter(
    "keymill_audit_lost_total", "Audit events that fitted neither queue nor spool, or were torn; page when it rises"
)
DISK_FREE = Gauge(
    "keymill_disk_free_bytes", "Room on the disk of a program's data folder", multiprocess_mode="mostrecent"
)
AUDIT_SPOOLED = Gauge(
    "keymill_audit_spool_bytes", "What waits on disk for the audit topic; it grows while the brokers are away",
    multiprocess_mode="mostrecent",
)  # fmt: skip


def configure(program: str, level: str = "info", *, tells_brokers: bool = True) -> None:
    """
    Send this process's logs, those of its libraries too, as JSON lines to stderr.

    Args:
        tells_brokers: whether every connection that librdkafka loses is told; what it cannot mend is raised anyway.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="%Y-%m-%dT%H:%M:%S.%fZ", utc=True),
        _milliseconds,
        _with_program(program),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(repeats.Repeats(logger("repeats")))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(sort_keys=False),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    _quiet_clients(tells_brokers)
    logging.getLogger("keymill").setLevel(level.upper())
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of one part; all share the root `keymill`."""
    return structlog.stdlib.get_logger(f"keymill.{name}")


def client_log() -> logging.Logger:
    """The logger that every client of librdkafka gets: without one it writes to stderr as it likes."""
    return logging.getLogger(repeats.LIBRDKAFKA)


def _quiet_clients(tells_brokers: bool) -> None:
    """kafka-python logs every attempt to connect and raises the same afterwards; what is raised is told, once."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    client_log().setLevel(logging.NOTSET if tells_brokers else logging.CRITICAL)


def _milliseconds(_logger: object, _method: str, event: Any) -> Any:
    event["timestamp"] = event["timestamp"][:-4] + "Z"
    return event


def _with_program(program: str) -> Any:
    def add(_logger: object, _method: str, event: Any) -> Any:
        event["program"] = program
        if current := request_id.get():
            event.setdefault("request_id", current)
        return event

    return add
