"""`keymill rebuild`: make again what was derived and is lost (ARCHITECTURE.md, step 9)."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Annotated, Any

import msgspec
import typer

from keymill.config import ProcessorSettings, load
from keymill.kafka.scan import Scanner
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.ops import source
from keymill.ops.address import bootstrap_of
from keymill.ops.changes import Changes, Plan, application
from keymill.ops.claimed import winners_of
from keymill.ops.groups import require_empty
from keymill.ops.options import Bootstrap, Data, File, Json
from keymill.ops.progress import Advance
from keymill.ops.rebuilding import Target, complete, lacking_to, prepare, refused_to, target_of
from keymill.ops.replay import asset_decider
from keymill.ops.replaying import Held, Report, compare
from keymill.ops.source import Source
from schemas import topics

DIFFERENT = 1
WAIT_S = 60
"""Longer than the session timeout, which a static member stays in the group after its process has ended."""

Apply = Annotated[bool, typer.Option("--apply", help="do it; without it the plan is shown")]
Wait = Annotated[int, typer.Option("--wait", min=0, help="seconds to wait for the processor group to become empty")]

app = typer.Typer(no_args_is_help=True, help="Make again what was derived and is lost.")


@app.command("keys")
def keys(
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    apply: Apply = False,
    wait_s: Wait = WAIT_S,
    as_json: Json = False,
) -> int:
    """
    Fill the key topic from asset events, claims and roots; create it first if it is gone, adopt it when it is whole.

    The processors must be stopped; proxies serve what they hold, and read the new topic once it is adopted. Exit code
    1 if there is something to write and --apply is not given, or the topic contradicts its events; 3 if a processor
    is at work. Killed, it is run again: it writes what is still missing.
    """
    loaded = load(ProcessorSettings, file=settings, data=data, bootstrap=bootstrap)
    return _rebuild(loaded, source.ASSETS, _fill_keys, apply, wait_s, as_json)


Fill = Callable[[ProcessorSettings, Source, Changes, Report], None]


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
            fill(settings, read, changes, report)
            changes.finish()
    whole = complete(brokers, target, report) if apply else target.adopted and not changes.counts
    seconds = time.monotonic() - began
    _show(_outcome(target, report, changes, apply, seconds), as_json)
    return 0 if whole and not report.different and not report.unexpected else DIFFERENT


def _fill_keys(settings: ProcessorSettings, assets: Source, changes: Changes, report: Report) -> None:
    decider = asset_decider(settings, Keyring(KeyFile(settings.keys_path)), assets)
    winners = winners_of(assets.scanner, bootstrap_of(settings))
    with Advance("rebuilding keys, events", sum(assets.source_ends.values())) as progress:
        for partition in range(assets.partitions):
            held = Held(partition)
            for record_key, value in assets.held(partition):
                held.add(record_key, value, report)
            compare(
                assets.events(partition), held, decider, assets.adopted.generation, report, assets.refused(partition),
                lacking=lacking_to(changes, topics.KEYS.name, partition), refuse=refused_to(changes), all_due=True,
                winners=winners,
            )  # fmt: skip
            progress.step(assets.source_ends[partition])


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
        typer.echo(msgspec.json.encode(outcome).decode())
        return
    for each in outcome["differences"]:
        typer.echo(f"{each['kind']}: {each['record_key']}: {each['detail']}")
    verb = "was" if outcome["applied"] else "will be"
    if steps := [step for step in ("created", "adopted") if outcome[step]]:
        typer.echo(f"{outcome['topic']} {verb} {' and '.join(steps)}")
    typer.echo(
        f"{outcome['events']} events, {outcome['refused']} refused: {outcome['held']} records are there, "
        f"{outcome['written']} {'written' if outcome['applied'] else 'to write'}, "
        f"{outcome['seconds']} s ({outcome['events_per_s']} events/s)"
    )
    if not outcome["applied"]:
        typer.echo("nothing is written yet: repeat with --apply")
