"""`keymill replay --into PREFIX`: what the logs call for, written to another set of topics."""

from contextlib import nullcontext
from typing import Any, Final

import msgspec
import typer

from keymill.config import ProcessorSettings
from keymill.errors import InvalidRecord
from keymill.kafka.admin import describe
from keymill.kafka.outgoing import Outgoing
from keymill.kafka.scan import Scanner
from keymill.ops import source
from keymill.ops.changes import Changes, Plan, application
from keymill.ops.filling import Fill, fill_keys, fill_policies
from keymill.ops.listing import print_differences, print_json
from keymill.ops.rebuilding import Target, prepare
from keymill.ops.report import Report
from keymill.ops.source import Pair, Source
from schemas import topics
from schemas.ids import ORGANIZATION

DIFFERENT: Final = 1
OWN: Final = "drm"
"""What the names of our own set begin with."""


def into(settings: ProcessorSettings, bootstrap: str, prefix: str, *, apply: bool, as_json: bool) -> int:
    """Write what the other set lacks; what it holds and contradicts is listed and left. Programs never read it."""
    if not ORGANIZATION.fullmatch(prefix) or prefix == OWN:
        message = f"{prefix[:64]!r} is no prefix: give 1 to 63 characters of a-z, 0-9 and -, and not {OWN}"
        raise InvalidRecord(message, field="into")
    every: tuple[tuple[Pair, Fill], ...] = ((source.ASSETS, fill_keys), (source.POLICIES, fill_policies))
    done = [_write(settings, bootstrap, pair.into(prefix), fill, apply) for pair, fill in every]
    _show(done, apply, as_json)
    clean = not any(each["different"] or each["unexpected"] for each in done)
    return 0 if clean and (apply or not any(each["written"] for each in done)) else DIFFERENT


class _Only:
    """A `Changes` that takes the records of one topic; dead letters belong to our own set, whose processors write."""

    def __init__(self, changes: Changes, topic: str) -> None:
        self._changes = changes
        self._topic = topic

    def make(self, record: Outgoing, why: str) -> None:
        """See `Changes`."""
        if record.topic == self._topic:
            self._changes.make(record, why)

    def finish(self) -> None:
        """See `Changes`."""
        self._changes.finish()


def _write(settings: ProcessorSettings, bootstrap: str, pair: Pair, fill: Fill, apply: bool) -> dict[str, Any]:
    report, name = Report(), pair.made.name
    with Scanner(bootstrap) as scanner:
        read = Source.open(scanner, bootstrap, pair, made=False)
        if apply:
            prepare(bootstrap, Target(name, name in describe(bootstrap, [name]), adopted=False), read)
        partitions = {name: read.partitions, topics.DEAD_LETTERS.name: read.partitions}
        with application(bootstrap, partitions) if apply else nullcontext(Plan()) as changes:
            fill(settings, bootstrap, read, _Only(changes, name), report)
            changes.finish()
    return {
        "topic": name,
        "events": report.events,
        "held": report.identical,
        "written": sum(changes.counts.values()),
        "different": report.different,
        "unexpected": report.unexpected,
        "differences": msgspec.to_builtins([each for each in report.differences if each.kind != "missing"]),
        "applied": apply,
    }


def _show(done: list[dict[str, Any]], apply: bool, as_json: bool) -> None:
    if as_json:
        print_json(done)
        return
    for each in done:
        print_differences(each["differences"])
        typer.echo(
            f"{each['topic']}: {each['events']} events, {each['held']} records are there, "
            f"{each['written']} {'written' if apply else 'to write'}"
        )
    if not apply:
        typer.echo("nothing is written yet: repeat with --apply")
