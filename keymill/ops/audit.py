"""`keymill audit`: every promise about what is written down, checked (ARCHITECTURE.md, step 9)."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from keymill.config import ProcessorSettings, load
from keymill.ops import ledger as ledgers
from keymill.ops.address import bootstrap_of
from keymill.ops.auditing import Audit
from keymill.ops.options import Bootstrap, Data, File, Json
from keymill.ops.replay import verify

DIFFERENT = 1
LedgerFile = Annotated[Path | None, typer.Option("--ledger", help="write (organization, KID) -> fingerprint there")]
Against = Annotated[Path | None, typer.Option("--against", help="compare with a ledger from before")]


def audit(
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    ledger: LedgerFile = None,
    against: Against = None,
    as_json: Json = False,
) -> int:
    """
    Compare events, keys and policies with each other, and list every difference; changes nothing.

    Exit code 1 when there is one.
    """
    loaded = load(ProcessorSettings, file=settings, data=data, bootstrap=bootstrap)
    before = ledgers.read(against) if against else None
    found = Audit()
    found.take(verify(loaded, bootstrap_of(loaded), Console(stderr=True), found.look))
    found.check_fingerprints(before)
    if ledger:
        ledgers.write(found.ledger, ledger)
    _show(found.result(), as_json)
    return 0 if found.clean() else DIFFERENT


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.encode(result).decode())
        return
    for each in result["differences"]:
        typer.echo(f"{each['kind']}: {each['record_key']}: {each['detail']}")
    counts = ", ".join(f"{count} {kind}" for kind, count in result["counts"].items()) or "no difference"
    typer.echo(
        f"{result['events']} events, {result['assets']} assets, {result['key_records']} key records, "
        f"{result['fingerprints']} fingerprints: {counts}"
    )
