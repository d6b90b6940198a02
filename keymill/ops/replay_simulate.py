"""`keymill replay --simulate`: what draft policies, or a draft schedule of roots, would change. Writes nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import typer

from keymill.errors import InvalidRecord
from keymill.kafka.scan import Scanner
from keymill.ops import source
from keymill.ops.held import Held
from keymill.ops.listing import json_of
from keymill.ops.replaying_policies import HeldPolicies
from keymill.ops.report import Report
from keymill.ops.simulating import (
    Effect,
    Policies,
    Schedules,
    policy_effects,
    read_policies,
    read_schedules,
    root_effects,
)
from keymill.ops.source import Source
from schemas.ids import is_key_set
from schemas.records import AssetRecord

DIFFERENT: Final = 1


def simulate(bootstrap: str, policies: Path | None, schedule: Path | None, as_json: bool) -> int:
    """List every effect; exit code 1 if there is one."""
    if policies is None and schedule is None:
        raise InvalidRecord("--simulate needs --policies FILE or --schedule FILE", field="mode")
    drafts = read_policies(policies.read_bytes()) if policies else {}
    schedules = read_schedules(schedule.read_bytes()) if schedule else {}
    count = 0
    for effect in _effects(bootstrap, drafts, schedules):  # told as they are found: there may be one per asset
        if as_json:
            typer.echo(("," if count else "[") + json_of(effect), nl=False)
        else:
            typer.echo(_line(effect))
        count += 1
    typer.echo(("]" if count else "[]") if as_json else f"{count} effects; nothing was written")
    return DIFFERENT if count else 0


def _effects(bootstrap: str, drafts: Policies, schedules: Schedules) -> Iterator[Effect]:
    with Scanner(bootstrap) as scanner:
        assets = Source.open(scanner, bootstrap, source.ASSETS)
        stored = _stored(Source.open(scanner, bootstrap, source.POLICIES)) if drafts else {}
        for partition in range(assets.partitions):
            records = _assets(assets, partition)
            yield from policy_effects(records, stored, drafts)
            if schedules:
                yield from root_effects(records, _times(assets, partition), schedules)


def _stored(changes: Source) -> Policies:
    held = HeldPolicies()
    for partition in range(changes.partitions):
        for record_key, value in changes.held(partition):
            held.add(record_key, value, Report())
    return {(each.organization, each.policy_id): each.policy for each in held.records.values()}


def _assets(assets: Source, partition: int) -> list[AssetRecord]:
    held = Held(partition)
    for record_key, value in assets.held(partition):
        if not is_key_set(record_key):
            held.add(record_key, value, Report())
    return [asset for name in list(held.values) if (asset := held.asset(name, Report())) is not None]


def _times(assets: Source, partition: int) -> dict[tuple[int, int], int]:
    generation = assets.adopted.generation
    return {(generation, event.offset): event.timestamp_ms for event in assets.events(partition)}


def _line(effect: Effect) -> str:
    version = f" version {effect.key_version}" if effect.key_version else ""
    return f"{effect.organization}/{effect.asset}{version}: {effect.what}: {effect.now} -> {effect.then}"
