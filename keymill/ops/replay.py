"""
`keymill replay`: decide the logs again and compare with what was made of them (ARCHITECTURE.md, step 9).

May run while everything serves. Verify and simulate write nothing, repair asks the owners for what is missing, and
`--into` writes another set of topics.
"""

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from keymill.config import ProcessorSettings, load
from keymill.errors import InvalidRecord
from keymill.ops.address import bootstrap_of
from keymill.ops.listing import print_differences, print_json
from keymill.ops.moment import FORMS, epoch_ms_of
from keymill.ops.options import Bootstrap, Data, File, Json
from keymill.ops.replay_into import into as write_into
from keymill.ops.replay_repair import repair as repair_missing
from keymill.ops.replay_scope import Asked, asked_assets
from keymill.ops.replay_simulate import simulate as list_effects
from keymill.ops.replay_verify import verify
from keymill.ops.report import Report

DIFFERENT = 1
WAIT_S = 60
Assets = Annotated[
    list[str] | None,
    typer.Option(
        "--assets",
        help="ORGANIZATION/ASSET, or a file with one a line; may be repeated. Policies: those that these refer to",
    ),
]
FromTime = Annotated[str | None, typer.Option("--from-time", help=f"only events from then on: {FORMS}")]
FromOffset = Annotated[int | None, typer.Option("--from-offset", min=0, help="only events from that offset on")]
Repair = Annotated[
    bool, typer.Option("--repair", help="ask the owners for the keys, policies and dead letters that are missing")
]
Apply = Annotated[bool, typer.Option("--apply", help="with --repair, --into: do it; without it the plan is shown")]
Wait = Annotated[int, typer.Option("--wait", min=0, help="with --repair: seconds until the owners must have done it")]
Simulate = Annotated[bool, typer.Option("--simulate", help="list what draft --policies or --schedule would change")]
Policies = Annotated[Path | None, typer.Option("--policies", help="with --simulate: draft policies, JSON")]
Schedule = Annotated[Path | None, typer.Option("--schedule", help="with --simulate: draft schedule of roots, JSON")]
Into = Annotated[str | None, typer.Option("--into", help="write to PREFIX.drm.keys.v1 and PREFIX.drm.policies.v1")]


def replay(
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    assets: Assets = None,
    from_time: FromTime = None,
    from_offset: FromOffset = None,
    repair: Repair = False,
    simulate: Simulate = False,
    policies: Policies = None,
    schedule: Schedule = None,
    into: Into = None,
    apply: Apply = False,
    wait_s: Wait = WAIT_S,
    as_json: Json = False,
) -> int:
    """
    Derive again what events and policy changes call for and compare it with keys and policies. Never changes a key.

    From a later time or offset on, the state before is taken from the records that are held. Each difference is listed.
    """
    if sum(map(bool, (repair, simulate, into))) > 1:
        raise InvalidRecord("give one of --repair, --simulate and --into", field="mode")
    if apply and not (repair or into):
        raise InvalidRecord("--apply goes with --repair or --into; the other modes write nothing", field="apply")
    loaded = load(ProcessorSettings, file=settings, data=data, bootstrap=bootstrap)
    from_ms = None if from_time is None else epoch_ms_of(from_time, time.time_ns() // 1_000_000, "from_time")
    brokers, asked = bootstrap_of(loaded), Asked(asked_assets(assets), from_ms, from_offset)
    if (into or simulate) and not asked.whole():
        raise InvalidRecord("--into and --simulate replay everything: leave --assets and --from-… out", field="mode")
    if simulate:
        return list_effects(brokers, policies, schedule, as_json)
    if into:
        return write_into(loaded, brokers, into, apply=apply, as_json=as_json)
    if repair:
        return repair_missing(loaded, brokers, asked, apply=apply, wait_s=wait_s, as_json=as_json)
    report, _ = verify(loaded, brokers, asked, Console(stderr=True))
    show(report, as_json)
    return 0 if report.clean() else DIFFERENT


def show(report: Report, as_json: bool) -> None:
    """Print a report."""
    if as_json:
        print_json(report)
        return
    print_differences(msgspec.to_builtins(report.differences))
    typer.echo(
        f"{report.events} events: {report.identical} records identical, {report.missing} missing, "
        f"{report.different} different, {report.unexpected} unexpected, {report.refused} events refused, "
        f"{report.pending} pending"
    )
