"""
How everything stands, judged from what brokers and programs said at one moment. Pure.

A concern is a sentence and the section of docs/runbook.md that says what to do about it; no concern, all is well.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from keymill.kafka.drift import Difference
from keymill.kafka.latest import Unreadable
from keymill.kafka.overview import Offsets, Overview
from keymill.kafka.status_topic import Status
from keymill.ops.standing_programs import KekGap, ProgramLine, kek_gaps, line_of
from schemas import topics
from schemas.operations import AuditSummary
from schemas.values import Record

CONSUMED: Final = (topics.ASSETS.name, topics.POLICY_CHANGES.name, topics.REQUESTS.name)
"""What the processors' group commits."""
AUDIT_OLD_MS: Final = 8 * topics.DAY_MS
"""An audit is run every week at least, or followed."""
CUT_OFF: Final = "a-view-is-behind-or-cut-off"
ARCHIVE: Final = "the-archive-lags-or-stops"
AUDIT: Final = "records-are-missing-or-an-audit-says-so"
UNREADABLE: Final = "a-record-cannot-be-read"
WORDS_MAX: Final = 3
"""Of many like concerns this many are spelt out."""


class Limits(Record, frozen=True, kw_only=True):
    """
    From where on something is a concern.

    Args:
        lag: records that an archive may be behind.
        waiting_s: what an event may wait for the processors; a view's lag counts in seconds too.
        silent_s: age of the last report of a program that lives.
        stale_s: since a view last held all that the brokers had, as of its program's last report.
    """

    lag: int = 10_000
    waiting_s: float = 30.0
    silent_s: float = 30.0
    stale_s: float = 10.0


class Concern(Record, frozen=True, kw_only=True):
    """What needs attention, and where the runbook says what to do."""

    what: str
    runbook: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The whole judgement, as `keymill status --json` prints it."""

    at: int
    well: bool
    concerns: tuple[Concern, ...]
    brokers: Mapping[str, object]
    topics: Mapping[str, object]
    group: Mapping[str, object]
    programs: tuple[ProgramLine, ...]
    audit: AuditSummary | None
    dead_letters: int


def judge(
    seen: Overview, differences: tuple[Difference, ...], status: Status, unreadable: tuple[Unreadable, ...] = (), *,
    at: int, limits: Limits,
) -> Standing:  # fmt: skip
    """
    Judge a moment.

    Args:
        unreadable: records of the topics that are read whole.
        at: epoch ms.
    """
    lag = group_lag(seen)
    lines = tuple(
        line_of(report, seen.ends, at=at, silent_s=limits.silent_s) for _, report in sorted(status.reports.items())
    )
    gaps = kek_gaps(lines)
    concerns = (
        *_of_brokers(seen),
        *_of_topics(differences),
        *_of_group(seen, limits),
        *_of_programs(lines, limits),
        *_of_keks(gaps),
        *_of_unreadable(unreadable),
        *_of_audit(status.audit, at),
    )
    return Standing(
        at=at,
        well=not concerns,
        concerns=concerns,
        brokers={
            "nodes": seen.nodes,
            "controller": seen.controller,
            "away": seen.fenced,
            "under_replicated": seen.thin,
        },
        topics={"known": len(topics.CATALOGUE), "there": len(seen.topics), "differences": differences},
        group={"name": seen.group.name, "state": seen.group.state, "members": seen.group.members, "lag": lag},
        programs=lines,
        audit=status.audit,
        dead_letters=_between(seen.starts, seen.ends, topics.DEAD_LETTERS.name),
    )


def group_lag(seen: Overview) -> dict[str, int]:
    """Records between the group's commits and the end, by topic; where nothing was committed, all there are."""
    return _uncommitted(seen, seen.ends)


def overdue(seen: Overview) -> dict[str, int]:
    """Return how many records have waited for the group too long (`Overview.fresh`), by topic that has some."""
    return {topic: records for topic, records in _uncommitted(seen, seen.fresh).items() if records}


def _uncommitted(seen: Overview, until: Offsets) -> dict[str, int]:
    """Return how many records the group has not committed below those offsets, by topic."""
    found: dict[str, int] = {}
    for topic in CONSUMED:
        starts = seen.starts.get(topic, {})
        found[topic] = sum(
            max(0, offset - seen.committed.get((topic, number), starts.get(number, 0)))
            for number, offset in until.get(topic, {}).items()
        )
    return found


def _between(starts: Offsets, ends: Offsets, topic: str) -> int:
    return sum(end - starts.get(topic, {}).get(number, 0) for number, end in ends.get(topic, {}).items())


def _of_brokers(seen: Overview) -> Iterator[Concern]:
    if seen.fenced:
        away = ", ".join(map(str, seen.fenced))
        yield Concern(what=f"broker {away} is registered and not there", runbook="a-broker-is-missing")
    if seen.thin:
        yield Concern(
            what=f"{len(seen.thin)} partitions have fewer replicas than they should: {_some(seen.thin)}",
            runbook="a-broker-is-missing",
        )
    if seen.controller < 0:
        yield Concern(what="the brokers have no controller", runbook="a-broker-is-missing")


def _of_topics(differences: tuple[Difference, ...]) -> Iterator[Concern]:
    for difference in differences:
        yield Concern(what=str(difference), runbook="a-topic-is-not-what-the-catalogue-says")


def _of_group(seen: Overview, limits: Limits) -> Iterator[Concern]:
    group = seen.group
    if group.members == 0:
        yield Concern(what=f"no processor is in the group {group.name}", runbook="events-wait")
    elif group.state != "Stable":
        yield Concern(what=f"the group {group.name} is in state {group.state}", runbook="events-wait")
    for topic, records in overdue(seen).items():
        what = f"{records} records of {topic} have waited for the processors for more than {limits.waiting_s:.0f} s"
        yield Concern(what=what, runbook="events-wait")


def _of_programs(lines: tuple[ProgramLine, ...], limits: Limits) -> Iterator[Concern]:
    for line in lines:
        name = f"{line.program}/{line.instance}"
        if line.state == "silent":
            yield Concern(what=f"{name} has not reported for {line.age_s:.0f} s", runbook="a-program-is-silent")
        if not line.alive:
            continue
        if line.waits_for:
            yield Concern(what=f"{name} is not ready: {line.waits_for}", runbook="a-program-is-not-ready")
        if line.lag > limits.lag and line.program.startswith("connect-"):
            yield Concern(what=f"{name} is {line.lag} records behind", runbook=ARCHIVE)
        if line.staleness_s > limits.stale_s:
            yield Concern(what=f"the view of {name} is {line.staleness_s:.0f} s old", runbook=CUT_OFF)
    if not any(line.alive and line.program == "proxy" for line in lines):
        yield Concern(what="no proxy reports, so players get no license", runbook="a-program-is-silent")


def _of_keks(gaps: tuple[KekGap, ...]) -> Iterator[Concern]:
    for gap in gaps:
        yield Concern(
            what=f"{gap.program}/{gap.instance} lacks KEK epoch {gap.epoch} of {gap.organization}, which others hold",
            runbook="a-program-lacks-a-kek",
        )


def _of_unreadable(records: tuple[Unreadable, ...]) -> Iterator[Concern]:
    newer = tuple(each.record_key for each in records if each.newer)
    if newer:
        yield Concern(
            what=f"reports of a newer release cannot be read: {_some(newer)}; use its `keymill status`",
            runbook="upgrading-and-the-way-back",
        )
    bad = tuple(f"{each}: {each.reason}" for each in records if not each.newer)
    if bad:
        yield Concern(what=f"{len(bad)} records are passed over: {_some(bad)}", runbook=UNREADABLE)


def _of_audit(audit: AuditSummary | None, at: int) -> Iterator[Concern]:
    if audit is None:
        return
    if not audit.clean:
        yield Concern(what=f"the last audit found {audit.differences} differences", runbook=AUDIT)
    if at - audit.at > AUDIT_OLD_MS:
        days = (at - audit.at) // topics.DAY_MS
        yield Concern(what=f"the last audit is {days} days old", runbook=AUDIT)


def _some(names: tuple[str, ...]) -> str:
    more = len(names) - WORDS_MAX
    return ", ".join(names[:WORDS_MAX]) + (f" and {more} more" if more > 0 else "")
