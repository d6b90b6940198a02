"""`keymill rebuild`: make again what was derived and is lost (ARCHITECTURE.md, step 9)."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from keymill.config import ConnectSettings, ProcessorSettings, load
from keymill.kafka.scan import Scanner
from keymill.ops import source
from keymill.ops.address import bootstrap_of
from keymill.ops.changes import Plan, application
from keymill.ops.filling import Fill, fill_keys, fill_policies
from keymill.ops.groups import require_empty
from keymill.ops.listing import print_differences, print_json
from keymill.ops.options import Bootstrap, Data, File, Json
from keymill.ops.rebuild_snapshot import rebuild_snapshot, show_snapshot
from keymill.ops.rebuilding import Target, complete, prepare, target_of
from keymill.ops.report import Report
from keymill.ops.source import Source
from keymill.snapshot.store import GIB
from schemas import topics

DIFFERENT = 1
WAIT_S = 60
"""Longer than the session timeout, which a static member stays in the group after its process has ended."""
CATCH_UP_S = 600

Apply = Annotated[bool, typer.Option("--apply", help="do it; without it the plan is shown")]
Wait = Annotated[int, typer.Option("--wait", min=0, help="seconds to wait for the processor group to become empty")]

FromArchive = Annotated[
    str | None,
    typer.Option("--from-archive", help="take the records from this SQL archive (URL): the logs are gone too"),
]

app = typer.Typer(no_args_is_help=True, help="Make again what was derived and is lost.")


@app.command("keys")
def keys(
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    from_archive: FromArchive = None,
    apply: Apply = False,
    wait_s: Wait = WAIT_S,
    as_json: Json = False,
) -> int:
    """
    Fill the key topic from asset events, claims and roots; create it first if it is gone, adopt it when it is whole.

    The processors must be stopped; proxies serve what they hold, and read the new topic once it is adopted. Killed,
    it is run again: it writes what is still missing.
    """
    loaded = load(ProcessorSettings, file=settings, data=data, bootstrap=bootstrap)
    return _rebuild(loaded, source.ASSETS, _fill(fill_keys, from_archive, loaded), apply, wait_s, as_json)


@app.command("policies")
def policies(
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    from_archive: FromArchive = None,
    apply: Apply = False,
    wait_s: Wait = WAIT_S,
    as_json: Json = False,
) -> int:
    """
    Fill the policy topic from the policy changes; create it first if it is gone, adopt it when it is whole.

    As `keymill rebuild keys` in everything else.
    """
    loaded = load(ProcessorSettings, file=settings, data=data, bootstrap=bootstrap)
    return _rebuild(loaded, source.POLICIES, _fill(fill_policies, from_archive, loaded), apply, wait_s, as_json)


@app.command("snapshot")
def snapshot(
    folder: Annotated[Path, typer.Argument(help="a view's folder, DATA/views/NAME")],
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    apply: Apply = False,
    wait_s: Annotated[int, typer.Option("--wait", min=1, help="seconds the view may take to catch up")] = CATCH_UP_S,
    as_json: Json = False,
) -> int:
    """
    Wipe a view and read it anew from the topics that it follows, until it has caught up.

    Its program must be stopped, or be started without it: exit code 2 while a follower writes it.
    """
    loaded = load(ProcessorSettings, file=settings, data=data, bootstrap=bootstrap)
    told = rebuild_snapshot(
        folder, bootstrap_of(loaded), loaded.keys_path, loaded.map_size_gib * GIB, apply=apply, wait_s=wait_s
    )
    show_snapshot(told, as_json)
    return 0 if apply else DIFFERENT


@app.command("archive")
def archive(
    settings: File = None, data: Data = None, bootstrap: Bootstrap = None, apply: Apply = False, as_json: Json = False
) -> int:
    """
    Fill the SQL archive from what the topics hold: one that was dropped, or one that lags.

    May run beside `keymill connect sql-archive`.
    """
    from keymill.ops.rebuild_archive import rebuild_archive, show_archive  # SQLAlchemy takes a third of a second

    loaded = load(ConnectSettings, file=settings, data=data, bootstrap=bootstrap)
    told = rebuild_archive(loaded.model_copy(update={"bootstrap": bootstrap_of(loaded)}), apply=apply)
    show_archive(told, as_json)
    return DIFFERENT if told["left"] else 0


def _fill(usual: Fill, archive_text: str | None, settings: ProcessorSettings) -> Fill:
    if archive_text is None:
        return usual
    from keymill.archive.writing import archive_url
    from keymill.ops.filling_archive import fill_from

    return fill_from(archive_url(archive_text, settings.data))


def _rebuild(
    settings: ProcessorSettings, pair: source.Pair, fill: Fill, apply: bool, wait_s: int, as_json: bool
) -> int:
    brokers, began, report = bootstrap_of(settings), time.monotonic(), Report()
    target = target_of(brokers, pair.made.name)
    if apply:
        require_empty(brokers, settings.group, wait_s)
    with Scanner(brokers) as scanner:
        read = Source.open(scanner, brokers, pair, made=False)
        if apply:
            prepare(brokers, target, read)
        partitions = {pair.made.name: read.partitions, topics.DEAD_LETTERS.name: read.partitions}
        with application(brokers, partitions) if apply else nullcontext(Plan()) as changes:
            fill(settings, brokers, read, changes, report)
            changes.finish()
    whole = complete(brokers, target, report) if apply else target.adopted and not changes.counts
    seconds = time.monotonic() - began
    _show(_outcome(target, report, changes, apply, seconds), as_json)
    return 0 if whole and not report.different and not report.unexpected else DIFFERENT


def _outcome(target: Target, report: Report, changes: Plan, applied: bool, seconds: float) -> dict[str, Any]:
    written = sum(changes.counts.values())
    return {
        "topic": target.name,
        "created": not target.exists,
        "adopted": not target.adopted and not report.different and not report.unexpected,
        "events": report.events,
        "refused": report.refused,
        "held": report.identical,
        "written": written,
        "different": report.different,
        "unexpected": report.unexpected,
        "differences": msgspec.to_builtins([each for each in report.differences if each.kind != "missing"]),
        "applied": applied,
        "seconds": round(seconds, 2),
        "events_per_s": round(report.events / seconds) if seconds else 0,
    }


def _show(outcome: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(outcome)
        return
    print_differences(outcome["differences"])
    verb = "was" if outcome["applied"] else "will be"
    steps = [step for step in ("created", "adopted") if outcome[step]]
    if steps:
        typer.echo(f"{outcome['topic']} {verb} {' and '.join(steps)}")
    typer.echo(
        f"{outcome['events']} events, {outcome['refused']} refused: {outcome['held']} records are there, "
        f"{outcome['written']} {'written' if outcome['applied'] else 'to write'}, "
        f"{outcome['seconds']} s ({outcome['events_per_s']} events/s)"
    )
    if not outcome["applied"] and (outcome["written"] or steps):
        typer.echo("nothing is written yet: repeat with --apply")
