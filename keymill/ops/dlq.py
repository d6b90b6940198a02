"""`keymill dlq`: refused events: which, why, and sent again after a fix. A dead letter is a decision: ADR 0007."""

import time
from typing import Annotated, Any, Final

import msgspec
import typer

from keymill.config import ProcessorSettings, load
from keymill.errors import Misconfigured, UnknownKey
from keymill.kafka.scan import headers_of
from keymill.ops.changes import Plan, application
from keymill.ops.letter_log import LetterLog
from keymill.ops.letters import REDRIVE_OF, Letter, Wanted, coordinates_of, masked, row_of
from keymill.ops.listing import print_json, print_listing
from keymill.ops.moment import Since, epoch_ms_of, shown
from keymill.ops.options import Bootstrap, Data, File, Json
from keymill.ops.redriving import Redrive, apply, await_outcomes, decide
from keymill.telemetry import REQUEST_ID_HEADER
from schemas.framing import CONTENT_TYPE

COLUMNS: Final = ("coordinates", "time", "reason", "field", "asset", "redriven")
WAIT_S: Final = 60.0
_OURS: Final = frozenset({CONTENT_TYPE, REQUEST_ID_HEADER, REDRIVE_OF})
app = typer.Typer(help="Refused events: list, show, send again.", no_args_is_help=True)

Organization = Annotated[str | None, typer.Option("--organization", help="only events of this organization")]
Asset = Annotated[str | None, typer.Option("--asset", help="only events of this asset")]
Reason = Annotated[str | None, typer.Option("--reason", help="only events refused for this code, see docs/errors.md")]
Coordinates = Annotated[str, typer.Argument(help="of the refused event, TOPIC/PARTITION/OFFSET")]


@app.command("list")
def list_letters(
    organization: Organization = None,
    asset: Asset = None,
    reason: Reason = None,
    since: Since = None,
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> int:
    """List refused events, oldest first, and what became of those that were sent again."""
    with _log(settings, data, bootstrap) as log:
        letters = log.letters(Wanted(organization=organization, asset=asset, reason=reason), _since(since))
        rows = [row_of(letter, after) for letter, after in zip(letters, log.aftermaths(letters), strict=True)]
    print_listing(COLUMNS, rows, as_json=as_json)
    return 0


@app.command()
def show(
    coordinates: Coordinates,
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> int:
    """Show a dead letter, the event that it is about as far as it can be read, and what became of it. Never a key."""
    source = coordinates_of(coordinates)
    with _log(settings, data, bootstrap) as log:
        letters = log.letters(Wanted(sources=(source,)))
        if not letters:
            raise UnknownKey(f"no dead letter is about {source}: `keymill dlq list` has all", field="coordinates")
        told = [_told(log, letter) for letter in letters]
    if as_json:
        print_json(told[-1])
        return 0
    for each in told:
        for name, value in each.items():
            if value not in (None, "", [], ()):
                typer.echo(f"{name:14} {value if isinstance(value, str) else msgspec.json.encode(value).decode()}")
    return 0


@app.command()
def redrive(
    coordinates: Annotated[list[str] | None, typer.Argument(help="of refused events, TOPIC/PARTITION/OFFSET")] = None,
    organization: Organization = None,
    asset: Asset = None,
    reason: Reason = None,
    since: Since = None,
    again: Annotated[bool, typer.Option("--again", help="also events that were accepted meanwhile")] = False,
    do_apply: Annotated[bool, typer.Option("--apply", help="do it; without, the plan is shown")] = False,
    wait: Annotated[float, typer.Option("--wait", min=0, help="seconds to wait for the outcomes")] = WAIT_S,
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> int:
    """
    Send refused events again, as new events at new places in the log, and tell what becomes of each.

    The letters stay: what was refused stays refused.
    """
    sources = tuple(coordinates_of(each) for each in coordinates or ())
    if not (sources or organization or asset or reason or since):
        raise Misconfigured("name the events: coordinates, --organization, --asset, --reason or --since")
    wanted = Wanted(organization=organization, asset=asset, reason=reason, sources=sources)
    with _log(settings, data, bootstrap) as log:
        letters = log.letters(wanted, _since(since))
        if missing := [str(each) for each in sources if each not in {letter.source for letter in letters}]:
            raise UnknownKey(f"no dead letter is about {missing[0]}: `keymill dlq list` has all", field="coordinates")
        decided = list(decide(log, letters, again=again or bool(sources)))
        if not do_apply:
            apply(decided, Plan())
            planned = [each for each, _, _ in decided]
            _print(planned, ("coordinates", "reason", "asset", "send", "note"), as_json=as_json)
            return 1 if any(each.send for each in planned) else 0
        counts = {name: topic.partitions for name, topic in log.adopted.items()}
        with application(log.bootstrap, counts) as changes:
            apply(decided, changes)
        done = await_outcomes(log, decided, wait)
    _print(done, ("coordinates", "asset", "at", "outcome", "outcome_reason", "note"), as_json=as_json)
    return _code(done)


def _log(file: Any, data: Any, bootstrap: str | None) -> LetterLog:
    return LetterLog(load(ProcessorSettings, file=file, data=data, bootstrap=bootstrap))


def _since(since: str | None) -> int:
    return epoch_ms_of(since, time.time_ns() // 1_000_000) if since else 0


def _print(redrives: list[Redrive], columns: tuple[str, ...], *, as_json: bool) -> None:
    print_listing(columns, [msgspec.to_builtins(each) for each in redrives], as_json=as_json)


def _code(done: list[Redrive]) -> int:
    outcomes = {each.outcome for each in done if each.send}
    if "refused" in outcomes:
        return 1
    return 3 if outcomes & {"pending", None} else 0


def _told(log: LetterLog, letter: Letter) -> dict[str, Any]:
    about, (message, trouble), (after,) = letter.about, log.source(letter), log.aftermaths([letter])
    event = log.event(message) if message is not None and trouble is None else None
    headers = headers_of(message) if message is not None and trouble is None else ()
    return row_of(letter, after) | {
        "message": about.message,
        "request_id": about.request_id,
        "letter": str(letter.at),
        "generation": about.generation,
        "value_size": about.value_size,
        "value_sha256": about.value_sha256.hex(),
        "stands": trouble is None,
        "source": trouble or ("it stands where it stood" if event else "it stands where it stood, and cannot be read"),
        "written": shown(about.timestamp),
        "headers": {name: _header(name, value) for name, value in headers},
        "event": masked(event) if event else None,
        "attempts": msgspec.to_builtins(after.attempts),
        "overtaken_by": after.overtaken_by,
    }


def _header(name: str, value: bytes) -> str:
    """Of other people's headers only the size."""
    return value[:128].decode("ascii", "replace") if name.lower() in _OURS else f"({len(value)} bytes)"
