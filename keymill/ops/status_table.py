"""The judgement of `keymill status` as people read it: tables, or one line."""

import time
from collections.abc import Mapping
from typing import Any, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from keymill.ops.standing import Standing
from keymill.ops.standing_programs import ProgramLine

COLUMNS: Final = ("program", "instance", "version", "state", "report", "behind", "heard", "KEK epochs", "waits for")
NEVER_S: Final = 10**9
"""A view that never heard from the brokers says so with more than this."""


def shown(standing: Standing) -> Group:
    """Everything, what needs attention last."""
    return Group(_facts(standing), Text(), _programs(standing.programs), Text(), *_concerns(standing))


def line_of(standing: Standing) -> str:
    """One line: the first concern if there is one."""
    alive = sum(line.alive for line in standing.programs)
    lag = sum(_lags(standing.group).values())
    facts = f"{len(_list(standing.brokers, 'nodes'))} brokers, {alive} programs, lag {lag}"
    if standing.well:
        return f"well: {facts}"
    first, more = standing.concerns[0], len(standing.concerns) - 1
    return f"attention: {first.what}{f' and {more} more' if more else ''} ({facts})"


def _facts(standing: Standing) -> Table:
    brokers, known, group = standing.brokers, standing.topics, standing.group
    lag = ", ".join(f"{topic} {records}" for topic, records in _lags(group).items())
    rows = {
        "brokers": f"{', '.join(map(str, _list(brokers, 'nodes')))}; controller {brokers['controller']}; "
        f"{len(_list(brokers, 'under_replicated'))} partitions under-replicated",
        "topics": f"{known['there']} of {known['known']}; {len(_list(known, 'differences'))} differences",
        "processors": f"group {group['name']}: {group['state']}, {group['members']} members; lag: {lag}",
        "dead letters": str(standing.dead_letters),
        "last audit": _audit(standing),
    }
    table = Table(box=None, show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _programs(lines: tuple[ProgramLine, ...]) -> Table:
    table = Table(*COLUMNS, box=None)
    for line in lines:
        if line.state == "gone":
            continue
        table.add_row(
            line.program, line.instance, line.version, line.state, f"{line.age_s:.0f} s ago", str(line.lag),
            "never" if line.staleness_s > NEVER_S else f"{line.staleness_s:.1f} s ago", _keks(line),
            line.waits_for or "",
        )  # fmt: skip
    return table


def _keks(line: ProgramLine) -> str:
    return " ".join(f"{name}:{','.join(map(str, epochs))}" for name, epochs in sorted(line.keks.items()))


def _concerns(standing: Standing) -> list[Text]:
    if standing.well:
        return [Text("all is well", style="green")]
    return [
        Text.assemble((each.what, "bold red"), f"  -> docs/runbook.md#{each.runbook}") for each in standing.concerns
    ]


def _audit(standing: Standing) -> str:
    audit = standing.audit
    if audit is None:
        return "never"
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(audit.at / 1000))
    found = "clean" if audit.clean else f"{audit.differences} differences"
    return f"{when}Z: {found}; {audit.events} events, {audit.assets} assets, {audit.key_records} key records"


def _lags(group: Mapping[str, Any]) -> Mapping[str, int]:
    lags: Mapping[str, int] = group["lag"]
    return lags


def _list(facts: Mapping[str, Any], name: str) -> tuple[Any, ...]:
    return tuple(facts[name])
