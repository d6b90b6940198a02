"""One program at one moment, judged from its last report. Pure."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final, Literal

from keymill.kafka.latest import printable
from keymill.kafka.overview import Offsets
from schemas.operations import ProgramReport
from schemas.topics import DAY_MS
from schemas.values import Record

GONE_MS: Final = DAY_MS
"""A program that is silent for this long was taken away, or people know by now."""
State = Literal["ready", "waits", "silent", "stopped", "gone"]


class ProgramLine(Record, frozen=True, kw_only=True):
    """
    What is known of a program.

    Args:
        state: `silent` when it said no goodbye and reports no more, `gone` when that is a day ago.
        lag: records between its view and the end of the topics now.
        behind, staleness_s: as it said itself.
    """

    program: str
    instance: str
    version: str
    state: State
    age_s: float
    waits_for: str | None
    lag: int
    behind: int
    staleness_s: float
    keks: dict[str, tuple[int, ...]]

    @property
    def alive(self) -> bool:
        """It reports."""
        return self.state in ("ready", "waits")


class KekGap(Record, frozen=True, kw_only=True):
    """A KEK epoch that a live program lacks and another one holds."""

    program: str
    instance: str
    organization: str
    epoch: int


def line_of(report: ProgramReport, ends: Offsets, *, at: int, silent_s: float) -> ProgramLine:
    """
    Judge a report.

    Args:
        at: epoch ms, now.
    """
    age_s = max(0.0, (at - report.at) / 1000)
    return ProgramLine(
        program=printable(report.program),
        instance=printable(report.instance),
        version=printable(report.version),
        state=_state(report, at, silent_s),
        age_s=age_s,
        waits_for=printable(report.waits_for) if report.waits_for else None,
        lag=_lag(report, ends),
        behind=report.behind,
        staleness_s=report.staleness_ms / 1000,
        keks={each.organization: each.epochs for each in report.keks},
    )


def kek_gaps(lines: Iterable[ProgramLine]) -> tuple[KekGap, ...]:
    """
    Newest epochs that some live program holds and another one, which holds KEKs at all, does not.

    Older ones are no concern: a retired epoch leaves one program before the other.
    """
    keyed = [line for line in lines if line.alive and line.keks]
    newest: dict[str, int] = defaultdict(int)
    for line in keyed:
        for organization, epochs in line.keks.items():
            newest[organization] = max((newest[organization], *epochs))
    return tuple(
        KekGap(program=line.program, instance=line.instance, organization=organization, epoch=epoch)
        for line in keyed
        for organization, epoch in sorted(newest.items())
        if epoch not in line.keks.get(organization, ())
    )


def _state(report: ProgramReport, at: int, silent_s: float) -> State:
    if report.stopped is not None:
        return "stopped"
    if at - report.at > GONE_MS:
        return "gone"
    if at - report.at > silent_s * 1000:
        return "silent"
    return "waits" if report.waits_for else "ready"


def _lag(report: ProgramReport, ends: Offsets) -> int:
    return sum(
        max(0, ends.get(progress.topic, {}).get(place.partition, 0) - place.position)
        for progress in report.progress
        for place in progress.positions
    )
