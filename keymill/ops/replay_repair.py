"""`keymill replay --repair`: ask for what is missing, wait, and see that it came."""

import time
from contextlib import nullcontext
from typing import Any, Final

import msgspec
import typer
from rich.console import Console

from keymill.config import ProcessorSettings
from keymill.kafka.admin import end_offsets, require_topics
from keymill.kafka.scan import Scanner
from keymill.ops import owners, source
from keymill.ops.changes import Plan, application
from keymill.ops.lacking import Lacking
from keymill.ops.listing import print_differences, print_json
from keymill.ops.repairing import Told, ask
from keymill.ops.replay_scope import Asked
from keymill.ops.replay_verify import verify
from keymill.ops.report import Report
from keymill.ops.source import Source
from schemas import topics
from schemas.records import DeadLetter

DIFFERENT: Final = 1
LOOK_EVERY_S: Final = 0.5
"""How often the processors commit."""


def repair(
    settings: ProcessorSettings, bootstrap: str, asked: Asked, *, apply: bool, wait_s: int, as_json: bool
) -> int:
    """What is different or unexpected is listed and never touched."""
    console = Console(stderr=True)
    report, lacking = verify(settings, bootstrap, asked, console)
    letters = end_offsets(bootstrap, topics.DEAD_LETTERS.name)
    told = _ask(bootstrap, lacking, apply) if lacking else Told()
    after, refused = report, list[DeadLetter]()
    if apply and told.requests:
        _await(settings, bootstrap, told, wait_s)
        after, _ = verify(settings, bootstrap, asked, console)
        refused = _refused(bootstrap, told, letters)
    outcome = {
        "requests": told.requests,
        "assets": told.assets,
        "organizations": told.organizations,
        "letters": told.letters,
        "too_large": told.too_large,
        "refused": [{"offset": each.offset, "reason": each.reason, "message": each.message} for each in refused],
        "applied": apply,
        "before": report,
        "after": after,
    }
    _show(outcome, as_json)
    return 0 if after.clean() else DIFFERENT


def _ask(bootstrap: str, lacking: Lacking, apply: bool) -> Told:
    name = topics.REQUESTS.name
    partitions = require_topics(bootstrap, [name])[name].partitions
    with Scanner(bootstrap) as scanner:
        pairs = [source.ASSETS, source.POLICIES]
        sources = {pair.source.name: Source.open(scanner, bootstrap, pair) for pair in pairs}
        with application(bootstrap, {name: partitions}) if apply else nullcontext(Plan()) as changes:
            told = ask(changes, sources, lacking, partitions)
            changes.finish()
    return told


def _await(settings: ProcessorSettings, bootstrap: str, told: Told, wait_s: int) -> None:
    """Until the owners have executed every request; what is still missing then was refused, or has no owner."""
    until = time.monotonic() + wait_s
    ends = {
        partition: end for partition, end in owners.request_ends(bootstrap).items() if partition in told.request_ids
    }
    while owners.unexecuted(bootstrap, settings.group, ends) and time.monotonic() < until:
        time.sleep(LOOK_EVERY_S)


def _refused(bootstrap: str, told: Told, since: dict[int, int]) -> list[DeadLetter]:
    """The dead letters of our requests."""
    name, found = topics.DEAD_LETTERS.name, list[DeadLetter]()
    ends = end_offsets(bootstrap, name)
    with Scanner(bootstrap) as scanner:
        for partition, request_ids in told.request_ids.items():
            start, end = since[partition], ends[partition]
            for message in scanner.read(name, partition, start=start, end=end) if start < end else ():
                letter = source.letter_of(message.value())
                if letter and letter.topic == topics.REQUESTS.name and letter.request_id in request_ids:
                    found.append(letter)
    return found


def _show(outcome: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(outcome)
        return
    after: Report = outcome["after"]
    print_differences(msgspec.to_builtins(after.differences))
    for each in outcome["refused"]:
        typer.echo(f"refused: {each['reason']}: {each['message']}")
    for each in outcome["too_large"]:
        typer.echo(f"too large: {each}: no request holds the offsets of all its events: rebuild instead")
    asked = f"{outcome['assets']} assets, policies of {outcome['organizations']} organizations"
    if outcome["applied"]:
        typer.echo(f"{asked} and {outcome['letters']} dead letters were asked for: {after.missing} are missing still")
    else:
        typer.echo(f"{asked} and {outcome['letters']} dead letters will be asked for")
        typer.echo("nothing is written yet: repeat with --apply")
    if after.different or after.unexpected:
        typer.echo(f"{after.different} different and {after.unexpected} unexpected records are left as they are")
