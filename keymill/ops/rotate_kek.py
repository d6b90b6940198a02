"""`keymill rotate-kek`: a new key-encryption key for an organization, while everything serves."""

from pathlib import Path
from typing import Annotated, Final

import typer

from keymill.config import ProcessorSettings, load
from keymill.errors import InvalidRecord, UnknownKey
from keymill.kafka.admin import require_topics
from keymill.kms.keyfile import KeyFile
from keymill.kms.rotation import add_intake_kek
from keymill.ops import rotating
from keymill.ops.address import bootstrap_of
from keymill.ops.changes import application
from keymill.ops.listing import print_json, print_result
from keymill.ops.options import Bootstrap, Data, File, Json, KeyFileOption
from keymill.ops.rotating import Line
from keymill.ops.rotation_run import Looking, Place, Rotation, WaitedInVain
from schemas import topics

RATE: Final = 1000.0
"""Assets a second that owners are asked to wrap again: a quarter of what one manages, so that events do not wait."""
WAIT_S: Final = 300.0
WRITTEN: Final = (topics.REQUESTS.name, topics.CREDENTIALS.name)
DIFFERENT: Final = 1


def rotate_kek(
    organization: Annotated[str | None, typer.Option("--organization", help="whose KEK")] = None,
    to: Annotated[
        int | None, typer.Option("--to", min=2, help="the epoch to reach; the unfinished one, else the next, if absent")
    ] = None,
    rate: Annotated[float, typer.Option("--rate", min=1, help="assets a second that are wrapped again")] = RATE,
    wait: Annotated[float, typer.Option("--wait", min=1, help="seconds a step may wait without progress")] = WAIT_S,
    intake: Annotated[bool, typer.Option("--intake", help="a new intake KEK instead, of all organizations")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="do it; without it the plan is shown")] = False,
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    key_file: KeyFileOption = None,
    as_json: Json = False,
) -> int:
    """
    Announce a KEK, wait until every program holds it, wrap all keys and credentials under it, retire the one before.

    A run that ended early is continued by the next one.
    """
    loaded = load(ProcessorSettings, file=settings, data=data, bootstrap=bootstrap, key_file=key_file)
    if intake:
        return _rotate_intake(loaded.keys_path, apply, as_json)
    if organization is None:
        raise typer.BadParameter("give --organization, or --intake")
    brokers = bootstrap_of(loaded)
    adopted = require_topics(brokers, [topics.KEYS.name, topics.STATUS.name, *WRITTEN])
    partitions = {name: adopted[name].partitions for name in WRITTEN}
    place = Place(brokers, loaded.keys_path, organization, adopted[topics.KEYS.name].partitions, loaded.group)
    looking = Looking(place, _checked(place, to))
    waits: str | None = None
    rewrapped = 0
    if apply:
        with application(brokers, partitions, rate=rate) as changes:
            rotation = Rotation(looking, changes, _say, wait_s=wait)
            try:
                rotation.run()
            except WaitedInVain as vain:
                waits = str(vain)
            rewrapped = rotation.rewrapped
    lines = rotating.plan(looking.situation())
    _show(looking, lines, waits, rewrapped, as_json=as_json)
    return DIFFERENT if waits or rotating.due(lines) else 0


def _checked(place: Place, to: int | None) -> int | None:
    epochs = KeyFile(place.key_file).epochs(place.organization)
    if to is not None and to > epochs[-1].epoch + 1:
        message = f"--to {to}: the newest KEK epoch of {place.organization} is {epochs[-1].epoch}, the next one more"
        raise InvalidRecord(message, field="to")
    if to is not None and to < epochs[0].epoch:
        raise UnknownKey(f"organization {place.organization} has no KEK epoch {to}", field="to")
    return to


def _rotate_intake(path: Path, apply: bool, as_json: bool) -> int:
    held, _ = KeyFile(path).intake_kek()
    epoch = add_intake_kek(path) if apply else held + 1
    detail = f"imported keys travel under intake KEK epoch {epoch}; {held} opens what is in the log for ever"
    text = f"{'done' if apply else 'due'}: {detail}"
    print_result({"intake_epoch": epoch, "applied": apply}, text=text, as_json=as_json)
    return 0 if apply else DIFFERENT


def _say(line: Line) -> None:
    typer.echo(f"{line.step.value}: {line.detail}", err=True)


def _show(looking: Looking, lines: list[Line], waits: str | None, rewrapped: int, *, as_json: bool) -> None:
    complete = waits is None and rotating.due(lines) is None
    if as_json:
        steps = [{"step": line.step.value, "done": line.done, "detail": line.detail} for line in lines]
        told = {"organization": looking.place.organization, "epoch": looking.target(), "complete": complete}
        print_json(told | {"rewrapped": rewrapped, "waits_for": waits, "steps": steps})
        return
    for line in lines:
        typer.echo(f"{'done' if line.done else 'due'}  {line.step.value:<9} {line.detail}")
    if waits:
        typer.echo(f"it {waits}; run the same command again to go on")
    elif not complete:
        typer.echo("nothing is written yet: repeat with --apply")
