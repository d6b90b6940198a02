"""
KEK rotation, what is due next: a function of the KMS's epochs, the programs' reports and what is still wrapped.

    announce → every live program holds it → activate → wrap again → every live view has passed that → retire

Each step is decided anew from what is so, never from what a former run remembers; so a run that was killed is
continued by the next one.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final

from keymill.kafka.status_topic import HOLDERS
from keymill.kms.provider import KekEpoch, KekState
from schemas.operations import ProgramReport
from schemas.values import Record

LIVE_MS: Final = 60_000
"""A report that is older is of a program that is gone, or cut off: it is not waited for."""


class Step(StrEnum):
    """What a rotation does, in this order."""

    ANNOUNCE = "announce"
    HOLD = "hold"
    ACTIVATE = "activate"
    REWRAP = "rewrap"
    FOLLOW = "follow"
    RETIRE = "retire"


class Line(Record, frozen=True, kw_only=True):
    """A step of the plan: done, or due and what it will do or waits for."""

    step: Step
    done: bool
    detail: str


class Lagging(Record, frozen=True, kw_only=True):
    """What is wrapped under an epoch below the target; `unreadable` key records may be."""

    key_records: int = 0
    assets: int = 0
    credentials: tuple[str, ...] = ()
    unreadable: int = 0

    def none(self) -> bool:
        """Whether nothing stands in the way of retiring the older epochs."""
        return not (self.key_records or self.credentials or self.unreadable)

    def only_unreadable(self) -> bool:
        """Whether all that is left is what nobody can wrap again."""
        return self.unreadable > 0 and not (self.key_records or self.credentials)


class Situation(Record, frozen=True, kw_only=True):
    """
    What a rotation is decided on.

    Args:
        ends: of the topics that views must have passed, per topic and partition.
        unverified: programs whose last report cannot be read or believed: whether they live, nobody knows.
    """

    organization: str
    target: int
    epochs: tuple[KekEpoch, ...]
    reports: tuple[ProgramReport, ...]
    lagging: Lagging
    ends: Mapping[str, Mapping[int, int]] = {}
    unverified: tuple[str, ...] = ()

    @property
    def state(self) -> KekState | None:
        """Of the target; None while there is no such epoch."""
        return next((each.state for each in self.epochs if each.epoch == self.target), None)


def target_of(epochs: Sequence[KekEpoch], lagging: bool) -> int:
    """The epoch that an unfinished rotation leads to, else the next one. *lagging*: something is below the newest."""
    newest = epochs[-1]
    unfinished = newest.state is KekState.ANNOUNCED or any(
        each.state is not KekState.RETIRED for each in epochs if each.epoch < newest.epoch
    )
    return newest.epoch if unfinished or lagging else newest.epoch + 1


def live(reports: Iterable[ProgramReport], now_ms: int) -> tuple[ProgramReport, ...]:
    """The last reports of programs that run and could be heard a moment ago."""
    return tuple(each for each in reports if each.stopped is None and each.at >= now_ms - LIVE_MS)


def without(reports: Iterable[ProgramReport], organization: str, epoch: int) -> list[str]:
    """Live programs that would have to hold the epoch and do not; a rotation needs a processor, so it lacks without."""
    holders = [each for each in reports if each.program in HOLDERS]
    held = {
        (each.program, each.instance)
        for each in holders
        for keks in each.keks
        if keks.organization == organization and epoch in keks.epochs
    }
    missing = [f"{each.program}/{each.instance}" for each in holders if (each.program, each.instance) not in held]
    return missing if any(each.program == "processor" for each in holders) else ["processor: none is live", *missing]


def behind(reports: Iterable[ProgramReport], ends: Mapping[str, Mapping[int, int]]) -> list[str]:
    """Live proxies whose view has not passed *ends*, or whose report does not say so."""
    found = []
    for report in reports:
        if report.program != "proxy":
            continue
        reached = {each.topic: {at.partition: at.position for at in each.positions} for each in report.progress}
        if any(reached.get(topic, {}).get(at, 0) < end for topic, places in ends.items() for at, end in places.items()):
            found.append(f"proxy/{report.instance}")
    return found


def plan(at: Situation) -> list[Line]:
    """Every step in order; the first that is not done is due."""
    wraps = at.state in (KekState.ACTIVE, KekState.RETIRED)
    older = [each.epoch for each in at.epochs if each.epoch < at.target and each.state is not KekState.RETIRED]
    missing = [*without(at.reports, at.organization, at.target), *at.unverified]
    late = [*behind(at.reports, at.ends), *at.unverified]
    lag = at.lagging
    return [
        _line(Step.ANNOUNCE, at.state is not None, f"KEK epoch {at.target} is known and wraps nothing yet"),
        _line(Step.HOLD, wraps or (at.state is not None and not missing), _held(missing)),
        _line(Step.ACTIVATE, wraps, f"processors wrap under epoch {at.target}"),
        _line(
            Step.REWRAP,
            wraps and lag.none(),
            f"{lag.key_records} key records of {lag.assets} assets and {len(lag.credentials)} credentials are below"
            + (f", {lag.unreadable} records cannot be read: `keymill audit`" if lag.unreadable else ""),
        ),
        _line(Step.FOLLOW, wraps and (not older or (lag.none() and not late)), _followed(late)),
        _line(Step.RETIRE, wraps and not older, _retired(older)),
    ]


def due(lines: Iterable[Line]) -> Step | None:
    """The step to do next; None when the rotation is complete."""
    return next((line.step for line in lines if not line.done), None)


def _line(step: Step, done: bool, detail: str) -> Line:
    return Line(step=step, done=done, detail=detail)


def _held(missing: Sequence[str]) -> str:
    return f"waits for {', '.join(missing)}" if missing else "every live program holds it"


def _followed(late: Sequence[str]) -> str:
    return f"waits for the views of {', '.join(late)}" if late else "every live proxy has read all that was written"


def _retired(older: Sequence[int]) -> str:
    if not older:
        return "no older epoch is handed to proxies"
    return f"proxies are handed epoch {', '.join(map(str, older))} no longer; it opens what is old"
