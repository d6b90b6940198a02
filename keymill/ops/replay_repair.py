"""`keymill replay --repair`: ask for what is missing, wait, and see that it came."""

import time
from contextlib import nullcontext
from typing import Any, Final

import typer
from rich.console import Console

from keymill.config import ProcessorSettings
from keymill.kafka.admin import require_topics
from keymill.kafka.scan import Scanner
from keymill.ops import source
from keymill.ops.changes import Plan, application
from keymill.ops.listing import print_json
from keymill.ops.repairing import ask
from keymill.ops.replay_scope import Asked
from keymill.ops.replay_verify import Lacking, verify
from keymill.ops.report import Report
from keymill.ops.source import Source
from schemas import topics

DIFFERENT: Final = 1
LOOK_EVERY_S: Final = 1.0


def repair(
    settings: ProcessorSettings, bootstrap: str, asked: Asked, *, apply: bool, wait_s: int, as_json: bool
) -> int:
    """What is different or unexpected is listed and never touched; so are lost policies, which are rebuilt."""
    console = Console(stderr=True)
    report, lacking = verify(settings, bootstrap, asked, console)
    requests = _ask(bootstrap, lacking, apply) if lacking else 0
    after = _await(settings, bootstrap, asked, lacking, wait_s, console) if apply and requests else report
    _show({"requests": requests, "applied": apply, "before": report, "after": after}, as_json)
    return 0 if after.clean() else DIFFERENT


def _ask(bootstrap: str, lacking: Lacking, apply: bool) -> int:
    name = topics.REQUESTS.name
    partitions = {name: require_topics(bootstrap, [name])[name].partitions}
    with Scanner(bootstrap) as scanner:
        assets = Source.open(scanner, bootstrap, source.ASSETS)
        with application(bootstrap, partitions) if apply else nullcontext(Plan()) as changes:
            count = ask(changes, assets, lacking)
            changes.finish()
    return count


def _await(
    settings: ProcessorSettings, bootstrap: str, asked: Asked, lacking: Lacking, wait_s: int, console: Console
) -> Report:
    """Look at the repaired assets until nothing is missing, then at everything again."""
    until = time.monotonic() + wait_s
    some = Asked(frozenset().union(*lacking.values()))
    while verify(settings, bootstrap, some, console)[0].missing and time.monotonic() < until:
        time.sleep(LOOK_EVERY_S)
    return verify(settings, bootstrap, asked, console)[0]


def _show(outcome: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(outcome)
        return
    after: Report = outcome["after"]
    for each in after.differences:
        typer.echo(f"{each.kind}: {each.record_key}: {each.detail}")
    if outcome["applied"]:
        typer.echo(f"{outcome['requests']} assets were asked for: {after.missing} records are missing still")
    else:
        typer.echo(f"{outcome['requests']} assets will be asked for; nothing is written yet: repeat with --apply")
    if after.different or after.unexpected:
        typer.echo(f"{after.different} different and {after.unexpected} unexpected records are left as they are")
