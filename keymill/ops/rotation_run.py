"""
A KEK rotation that is carried out: one step after the other until it is complete, or until a wait has run out.

What is due is decided in `keymill.ops.rotating`; here it is looked up and done. Nothing is remembered: a run that was
killed anywhere is continued by the next.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keymill.kafka.admin import end_offsets
from keymill.kafka.status_topic import AUDITED, must_verify, read_status
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.kms.provider import KekState
from keymill.kms.rotation import activate_kek, add_kek, retire_keks
from keymill.ops import owners, rotating
from keymill.ops.census import Partition, key_ends
from keymill.ops.changes import Changes
from keymill.ops.credential_rewrapping import lagging_credentials, rewrap_credentials
from keymill.ops.progress import Advance
from keymill.ops.rotating import Lagging, Line, Situation, Step
from schemas import topics
from schemas.operations import ProgramReport

POLL_S: Final = 0.5
TELL_S: Final = 10.0
"""Between two lines about the same wait."""
GONE: Final = f" (a program that is not heard of for {rotating.LIVE_MS // 1000} s is waited for no longer)"
SWITCH_S: Final = 1.0
"""Every writer has looked at the key file again within this (`keymill.kms.keyfile.LOOK_EVERY_S`)."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rotation happens. `partitions`: of the key topic; `group`: the processors' consumer group."""

    bootstrap: str
    key_file: Path
    organization: str
    partitions: int
    group: str


class WaitedInVain(Exception):
    """A wait ran out; what it waited for is the message."""


class Looking:
    """What a rotation is decided on, looked up."""

    def __init__(self, place: Place, to: int | None) -> None:
        self.place = place
        self._to = to

    def target(self) -> int:
        """The epoch that this rotation leads to."""
        if self._to is None:
            epochs = KeyFile(self.place.key_file).epochs(self.place.organization)
            wraps = max(each.epoch for each in epochs if each.state is KekState.ACTIVE)
            self._to = rotating.target_of(epochs, lagging=not self.lagging(wraps).none())
        return self._to

    def reports(self) -> tuple[tuple[ProgramReport, ...], tuple[str, ...]]:
        """Return the reports of every live program, and the programs whose report cannot be believed."""
        status = read_status(self.place.bootstrap)
        bad = [each.record_key for each in status.unreadable if must_verify(each.record_key.encode())]
        unverified = [
            f"{each} (its report is not believed: `keymill status`)" for each in bad if each != AUDITED.decode()
        ]
        return rotating.live(status.reports.values(), time.time_ns() // 1_000_000), tuple(unverified)

    def waited_for(self, judge: Callable[[tuple[ProgramReport, ...]], list[str]]) -> list[str]:
        """Return whom *judge* names, and the programs whose report cannot be believed."""
        reports, unverified = self.reports()
        return [*judge(reports), *unverified]

    def lagging(self, epoch: int, ends: Mapping[int, int] | None = None) -> Lagging:
        """What is wrapped below an epoch."""
        where, ends = self.place, ends or key_ends(self.place.bootstrap)
        records = assets = unreadable = 0
        with Advance("looking at key records, partitions", len(ends)) as advance:
            for number in sorted(ends):
                here = Partition(where.bootstrap, number, where.organization, epoch)
                here.read(ends)
                records += len(here.lagging) - here.unreadable()
                assets, unreadable = assets + len(here.assets()), unreadable + here.unreadable()
                advance.step()
        held = lagging_credentials(where.bootstrap, where.organization, epoch)
        names = tuple(sorted(each.credential for each in held))
        return Lagging(key_records=records, assets=assets, credentials=names, unreadable=unreadable)

    def situation(self, *, counted: bool = True) -> Situation:
        """All of it; without the count of what is lagging, before anything can be."""
        where, target = self.place, self.target()
        ends = {topic.name: end_offsets(where.bootstrap, topic.name) for topic in (topics.KEYS, topics.CREDENTIALS)}
        reports, unverified = self.reports()
        return Situation(
            organization=where.organization,
            target=target,
            epochs=KeyFile(where.key_file).epochs(where.organization),
            reports=reports,
            unverified=unverified,
            lagging=self.lagging(target, ends[topics.KEYS.name]) if counted else Lagging(),
            ends=ends,
        )


class Rotation:
    """
    Carries a rotation out.

    Args:
        changes: where requests and credentials go.
        say: told every step before it is done.
        wait_s: how long each wait may take without getting any further.
    """

    def __init__(self, looking: Looking, changes: Changes, say: Callable[[Line], None], *, wait_s: float) -> None:
        self._looking = looking
        self._place = looking.place
        self._changes = changes
        self._say = say
        self._wait_s = wait_s
        self._passed = False
        """Whether every owner has passed the activation in this run."""
        self.rewrapped = 0

    def run(self) -> None:
        """
        Return when the rotation is complete.

        Raises:
            WaitedInVain: a step waits for somebody; a later run continues with it.
        """
        while True:
            situation = self._situation()
            lines = rotating.plan(situation)
            step = rotating.due(lines)
            if step is None:
                return
            self._say(next(line for line in lines if line.step is step))
            if step is Step.REWRAP and situation.lagging.only_unreadable():
                unreadable = f"{situation.lagging.unreadable} key records cannot be read, `keymill audit`"
                raise WaitedInVain(f"leaves the older epochs: {unreadable} names them")
            self._do(step, situation)

    def _situation(self) -> Situation:
        """Counted only from the activation on, and only when no owner writes under an older epoch any more."""
        early = self._looking.situation(counted=False)
        if early.state is not KekState.ACTIVE:
            return early
        if not self._passed:
            self._pass_activation(early.target)
        return self._looking.situation()

    def _do(self, step: Step, at: Situation) -> None:
        where = self._place
        match step:
            case Step.ANNOUNCE:
                add_kek(where.key_file, where.organization)
            case Step.HOLD:
                self._wait(
                    step,
                    lambda: self._looking.waited_for(
                        lambda heard: rotating.without(heard, where.organization, at.target)
                    ),
                    hint=GONE,
                )
            case Step.ACTIVATE:
                activate_kek(where.key_file, where.organization, at.target)
            case Step.REWRAP:
                self._rewrap_keys(at)
                keyring = Keyring(KeyFile(where.key_file))
                rewrap_credentials(where.bootstrap, where.organization, at.target, keyring, self._changes)
            case Step.FOLLOW:
                self._wait(
                    step, lambda: self._looking.waited_for(lambda heard: rotating.behind(heard, at.ends)), hint=GONE
                )
                retire_keks(where.key_file, where.organization, below=at.target)
            case Step.RETIRE:
                retire_keks(where.key_file, where.organization, below=at.target)

    def _pass_activation(self, target: int) -> None:
        """Wait until every owner has written what it decided under an older epoch."""
        where = self._place
        time.sleep(SWITCH_S)
        owners.send_barriers(self._changes, where.organization, target, where.partitions)
        ends = owners.request_ends(where.bootstrap)
        self._wait(
            Step.ACTIVATE,
            lambda: [
                f"the owner of partition {each}" for each in owners.unexecuted(where.bootstrap, where.group, ends)
            ],
        )
        self._passed = True

    def _rewrap_keys(self, at: Situation) -> None:
        where = self._place
        with Advance("wrapping key records again", at.lagging.key_records) as advance:
            for number in range(where.partitions):
                here = Partition(where.bootstrap, number, where.organization, at.target)
                here.read(key_ends(where.bootstrap))
                for asset in here.assets():
                    self._changes.make(owners.rewrap_request(where.organization, asset, at.target), owners.WHY_REWRAP)
                self._changes.finish()
                self._await(here, number, advance)

    def _await(self, here: Partition, number: int, advance: Advance) -> None:
        """Until none is left; the dead letters say why one stays."""

        def left() -> list[str]:
            before = len(here.lagging)
            here.read(key_ends(self._place.bootstrap))
            advance.step(before - len(here.lagging))
            self.rewrapped += before - len(here.lagging)
            return here.assets()

        what = f"key records of partition {number} (`keymill dlq list` says what was refused), assets "
        self._wait(Step.REWRAP, left, what)

    def _wait(self, step: Step, open_: Callable[[], list[str]], what: str = "", *, hint: str = "") -> None:
        """Until nothing is open; in vain when the list has not become shorter for `wait_s`. Told now and then."""
        left = open_()
        told = time.monotonic()
        deadline, fewest = told + self._wait_s, len(left)
        while left:
            now = time.monotonic()
            if now > deadline:
                raise WaitedInVain(f"waited {self._wait_s:.0f} s in vain for {what}{_some(left)}")
            if now - told >= TELL_S:
                told = now
                self._say(Line(step=step, done=False, detail=f"still waits for {what}{_some(left)}{hint}"))
            time.sleep(POLL_S)
            left = open_()
            if len(left) < fewest:
                deadline, fewest = time.monotonic() + self._wait_s, len(left)


def _some(names: list[str]) -> str:
    """The first few, and how many there are."""
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
