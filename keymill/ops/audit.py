"""`keymill audit`: every promise about what is written down, checked (ARCHITECTURE.md, step 9)."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from keymill.archive.writing import archive_url
from keymill.config import ProcessorSettings, load
from keymill.kafka.admin import require_topics
from keymill.kafka.producer import Publisher
from keymill.ops import ledger as ledgers
from keymill.ops.address import bootstrap_of
from keymill.ops.audit_following import Schedule, follow
from keymill.ops.audit_pass import Wanted, audit_once
from keymill.ops.auditing import Audit
from keymill.ops.listing import print_json
from keymill.ops.options import Bootstrap, Data, File, Json
from schemas import topics
from schemas.codec import encode
from schemas.operations import AuditSummary

DIFFERENT = 1
RECORD_KEY = b"audit/last"
EVERY_S = 300
LedgerFile = Annotated[Path | None, typer.Option("--ledger", help="write (organization, KID) -> fingerprint there")]
Against = Annotated[Path | None, typer.Option("--against", help="compare with a ledger from before")]
Snapshot = Annotated[list[Path] | None, typer.Option("--snapshot", help="view folder (DATA/views/NAME) to compare")]
Archive = Annotated[
    str | None,
    typer.Option("--archive", envvar="KEYMILL_ARCHIVE_URL", show_envvar=True, help="SQL archive to compare, its URL"),
]
Open = Annotated[bool, typer.Option("--open/--no-open", help="unwrap every key and check its fingerprint")]
Follow = Annotated[bool, typer.Option("--follow", help="repeat until SIGTERM, with metrics")]
Every = Annotated[int, typer.Option("--every", min=1, help="with --follow: seconds from one audit to the next")]
MetricsPort = Annotated[int, typer.Option("--metrics-port", min=0, help="with --follow: port of /metrics; 0 for none")]


def audit(
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    ledger: LedgerFile = None,
    against: Against = None,
    snapshot: Snapshot = None,
    archive: Archive = None,
    open_: Open = True,
    follow_: Follow = False,
    every_s: Every = EVERY_S,
    metrics_port: MetricsPort = 0,
    as_json: Json = False,
) -> int:
    """
    Compare events, claims, keys and policies with each other, with the roots and with copies; list every difference.

    Changes nothing but the note on the status topic that `keymill status` shows.
    """
    loaded = load(ProcessorSettings, file=settings, data=data, bootstrap=bootstrap)
    brokers = bootstrap_of(loaded)
    url = archive_url(archive, loaded.data) if archive else None
    wanted = Wanted(ledgers.read(against) if against else None, tuple(snapshot or ()), url, open_)

    def once() -> Audit:
        began = time.time()
        found = audit_once(loaded, brokers, wanted, Console(stderr=True))
        if ledger:
            ledgers.write(found.ledger, ledger)
        _tell_status(brokers, found, began)
        _show(found.result(), as_json)
        return found

    if follow_:
        return follow(once, Schedule(every_s, metrics_port, loaded.host))
    return 0 if once().clean() else DIFFERENT


def _tell_status(bootstrap: str, found: Audit, began: float) -> None:
    summary = AuditSummary(
        at=int(time.time() * 1000),
        took_ms=int((time.time() - began) * 1000),
        clean=found.clean(),
        differences=sum(found.counts.values()),
        events=found.events,
        assets=found.assets,
        key_records=found.key_records,
        policies=found.policies,
    )
    name = topics.STATUS.name
    publisher = Publisher(bootstrap, {name: require_topics(bootstrap, [name])[name].partitions})
    try:
        publisher.flush_all([publisher.send(name, RECORD_KEY, encode(summary))])
    finally:
        publisher.close()


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    for each in result["differences"]:
        typer.echo(f"{each['kind']}: {each['record_key']}: {each['detail']}")
    counts = ", ".join(f"{count} {kind}" for kind, count in result["counts"].items()) or "no difference"
    typer.echo(
        f"{result['events']} events, {result['assets']} assets, {result['key_records']} key records, "
        f"{result['policies']} policies, {result['fingerprints']} fingerprints: {counts}"
    )
