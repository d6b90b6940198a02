"""`keymill status`: brokers, topics, group, programs, KEK epochs and the last audit at one glance, or all the while."""

import signal
import threading
import time
from contextlib import nullcontext
from typing import Annotated, Final

import typer
from rich.console import Console, Group
from rich.live import Live

from keymill.config import ProcessorSettings, load
from keymill.errors import Unavailable
from keymill.ops.address import bootstrap_of
from keymill.ops.listing import json_of, print_json
from keymill.ops.options import Bootstrap, Data, File, Json
from keymill.ops.standing import CONSUMED, Limits, Standing, judge
from keymill.ops.status_table import line_of, shown

ATTENTION: Final = 1
AWAY: Final = 3
"""Exit codes."""


def status(
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    watch: Annotated[bool, typer.Option("--watch", help="look again and again until Ctrl-C")] = False,
    interval: Annotated[float, typer.Option(min=0.5, max=3600, help="seconds between two looks of --watch")] = 2.0,
    max_lag: Annotated[int, typer.Option(min=0, help="records that an archive may be behind")] = Limits().lag,
    max_wait: Annotated[float, typer.Option(min=1, help="seconds that an event may wait for the processors")] = (
        Limits().waiting_s
    ),
    silent_after: Annotated[
        float, typer.Option(min=1, help="seconds without a report after which a program is silent")
    ] = Limits().silent_s,
    as_json: Json = False,
) -> int:
    """
    Show how everything stands: brokers, topics, processors' lag, every program, KEK epochs, the last audit.

    What needs attention is said with its section of docs/runbook.md. --watch ends with the exit code of its last look.
    """
    given = load(ProcessorSettings, file=settings, data=data, bootstrap=bootstrap)
    limits = Limits(lag=max_lag, waiting_s=max_wait, silent_s=silent_after)
    brokers = bootstrap_of(given)
    if watch:
        return _watch(brokers, given.group, limits, interval, as_json=as_json)
    standing = look(brokers, given.group, limits)
    if as_json:
        print_json(standing)
    else:
        _console().print(shown(standing))
    return 0 if standing.well else ATTENTION


def look(bootstrap: str, group: str, limits: Limits) -> Standing:
    """
    Ask brokers and status topic, and judge.

    Raises:
        Unavailable: no broker answers.
    """
    from keymill.kafka.adoption import Adoptions, read_adoptions
    from keymill.kafka.drift import differences
    from keymill.kafka.overview import overview
    from keymill.kafka.status_topic import Status, read_status
    from schemas.topics import ADOPTIONS, BY_NAME, STATUS

    seen = overview(bootstrap, group, consumed=CONSUMED, fresh_s=limits.waiting_s)
    told = read_status(bootstrap) if STATUS.name in seen.topics else Status({}, None, ())
    adoptions = read_adoptions(bootstrap) if ADOPTIONS.name in seen.topics else Adoptions({})
    found = differences(BY_NAME, seen.topics, adoptions.held)
    unreadable = (*adoptions.unreadable, *told.unreadable)
    return judge(seen, tuple(found), told, unreadable, at=time.time_ns() // 1_000_000, limits=limits)


def _watch(bootstrap: str, group: str, limits: Limits, interval: float, *, as_json: bool) -> int:
    console, code = _console(), AWAY
    live = Live(console=console, screen=False, auto_refresh=False) if console.is_terminal and not as_json else None
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with live or nullcontext():
        while not stop.is_set():
            picture: Group | str
            try:
                standing = look(bootstrap, group, limits)
                code = 0 if standing.well else ATTENTION
                picture = shown(standing) if live else _said(standing, as_json=as_json)
            except Unavailable as error:
                code, picture = AWAY, f"{_clock()} {error}"
            if live:
                live.update(Group(picture) if isinstance(picture, str) else picture, refresh=True)
            else:
                typer.echo(picture)
            stop.wait(interval)
    return code


def _said(standing: Standing, *, as_json: bool) -> str:
    return json_of(standing) if as_json else f"{_clock()} {line_of(standing)}"


def _clock() -> str:
    return time.strftime("%H:%M:%S", time.gmtime()) + "Z"


def _console() -> Console:
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 200
    return console
