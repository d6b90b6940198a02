"""`keymill audit`: every promise about what is written down, checked (ARCHITECTURE.md, step 9)."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from keymill.config import ProcessorSettings, load
from keymill.ops import ledger as ledgers
from keymill.ops.address import bootstrap_of
from keymill.ops.audit_copies import OpenArchive
from keymill.ops.audit_following import Looked, Schedule, follow
from keymill.ops.audit_pass import Follower, Wanted, audit_once
from keymill.ops.audit_telling import Telling
from keymill.ops.options import Bootstrap, Data, File, Host, Json

DIFFERENT = 1
EVERY_S = 300
WHOLE_EVERY_S = 3600
LedgerFile = Annotated[Path | None, typer.Option("--ledger", help="write (organization, KID) -> fingerprint there")]
Against = Annotated[Path | None, typer.Option("--against", help="compare with a ledger from before")]
Snapshot = Annotated[list[Path] | None, typer.Option("--snapshot", help="view folder (DATA/views/NAME) to compare")]
Archive = Annotated[
    str | None,
    typer.Option("--archive", envvar="KEYMILL_ARCHIVE_URL", show_envvar=True, help="SQL archive to compare, its URL"),
]
Open = Annotated[bool, typer.Option("--open/--no-open", help="unwrap every key and check its fingerprint")]
Follow = Annotated[bool, typer.Option("--follow", help="audit what comes, again and again until SIGTERM, with metrics")]
Every = Annotated[int, typer.Option("--every", min=1, help="with --follow: seconds from one audit to the next")]
WholeEvery = Annotated[
    int, typer.Option("--whole-every", min=0, help="with --follow: seconds until everything is read again; 0 for never")
]
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
    whole_every_s: WholeEvery = WHOLE_EVERY_S,
    host: Host = None,
    metrics_port: MetricsPort = 0,
    as_json: Json = False,
) -> int:
    """
    Compare events, claims, keys and policies with each other, with the roots and with copies; list every difference.

    Changes nothing but the note on the status topic that `keymill status` shows.
    """
    loaded = load(ProcessorSettings, file=settings, data=data, bootstrap=bootstrap, host=host)
    brokers, console = bootstrap_of(loaded), Console(stderr=True)
    opened = _opener(archive, loaded.data) if archive else None
    wanted = Wanted(ledgers.read(against) if against else None, tuple(snapshot or ()), opened, open_)
    telling, began = Telling(brokers, ledger, as_json=as_json), time.time()
    if not follow_:
        found = audit_once(loaded, brokers, wanted, console)
        telling.tell(Looked(found, whole=True), began)
        return 0 if found.clean() else DIFFERENT
    with Follower(loaded, brokers, wanted, console) as follower:

        def look(whole: bool) -> Looked:
            began = time.time()
            found = follower.look(whole)
            telling.tell(found, began)
            return found

        return follow(look, Schedule(every_s, whole_every_s, metrics_port, loaded.host))


def _opener(archive: str, data: Path) -> OpenArchive:
    from keymill.ops.audit_archive import opener  # SQLAlchemy takes a fifth of a second

    return opener(archive, data)
