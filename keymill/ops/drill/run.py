"""
The drill, step by step: what is lost, by which command it comes back, and what players notice of it: nothing.

Its last line on stdout is JSON: `{"audit_clean", "fingerprints_equal", "failed_licenses", "assets", "seconds"}` and
what the load saw.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from keymill.errors import KeymillError, Misconfigured
from keymill.ops.demo.run import Story
from keymill.ops.drill import ingest, library, losses
from keymill.ops.drill.players import Players
from keymill.ops.drill.site import Site, site, wait_for
from keymill.ops.exits import exit_code_of


def drill(
    assets: Annotated[int, typer.Option(min=100, help="Titles to ingest.")] = 20_000,
    rate: Annotated[int, typer.Option(min=1, help="Licenses a second, all the while.")] = 50,
    data: Annotated[Path | None, typer.Option(help="New folder, which stays; a temporary one is removed.")] = None,
) -> None:
    """Ingest a library, lose everything derived, get it back, and compare."""
    began = time.monotonic()
    try:
        if data and data.exists() and any(data.iterdir()):
            raise Misconfigured(f"{data} is not empty: a drill begins with nothing, name a new folder")
        with tempfile.TemporaryDirectory(prefix="keymill-drill-", ignore_cleanup_errors=True) as scratch:
            outcome = _drill((data or Path(scratch)).resolve(), assets, rate)
    except KeymillError as error:
        typer.echo(f"keymill drill: {error}", err=True)
        sys.exit(exit_code_of(error))
    outcome["seconds"] = round(time.monotonic() - began, 1)
    typer.echo(json.dumps(outcome))
    sys.exit(0 if outcome["audit_clean"] and outcome["fingerprints_equal"] and not outcome["failed_licenses"] else 1)


def _drill(data: Path, assets: int, rate: int) -> dict[str, Any]:
    """
    Run the drill in a fresh folder; gives its outcome.

    1. Start everything; ingest through the outbox, import existing keys, change policies.
    2. Audit, and write the ledger of fingerprints.
    3. While players ask the surviving proxy: lose the key topic, the other proxy's disk and the archive, rotate the
       KEK, and get each back by its command.
    4. Audit again, against the ledger, and write another. What is left in the folder lets anybody look after it.
    """
    story = Story()
    titles = list(library.titles(assets))
    story.tell("starting", "a broker, a processor, the gateway, two proxies, the outbox relay and the archive")
    with site(data) as here:
        ingest.prepare(here)
        here.start(*here.programs)  # (1)
        ingest.ingest(here, titles, story)
        before = data / "before.ledger"
        wait_for("every event is decided", lambda: audit(here)["pending"] == 0)  # (2)
        audit(here, "--ledger", str(before))
        story.tell("audit", f"clean; the ledger of fingerprints is {before.name}")
        with Players(losses.wishes(here, titles), rate=rate) as players:  # (3)
            for lose in losses.LOSSES:
                lose(here, story)
        story.tell(
            "players", f"{players.asked} licenses asked, {players.failed} failed, slowest {players.slowest_ms:.0f} ms"
        )
        for example in players.examples:
            story.tell("failed", example)
        ledgers = ("--against", str(before), "--ledger", str(data / "after.ledger"))
        after = here.run("audit", *ledgers, *here.everywhere(), "--json", good=(0, 1))  # (4)
    return {
        "audit_clean": after["clean"],
        "fingerprints_equal": not after["counts"].keys() & {"key_lost", "key_changed"},
        "failed_licenses": players.failed,
        "assets": assets,
        "licenses": players.asked,
    }


def audit(here: Site, *options: str) -> Any:
    """An audit of everything there is, which must be clean."""
    return here.run("audit", *here.everywhere(), *options, "--json")
