"""How everything stands: what is a concern, and that each one leads to a section of the runbook."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from keymill.kafka.cluster import GroupState
from keymill.kafka.drift import Difference
from keymill.kafka.latest import Unreadable
from keymill.kafka.overview import Overview
from keymill.kafka.status_topic import Status
from keymill.ops.standing import AUDIT_OLD_MS, Limits, Standing, judge
from keymill.ops.standing_programs import GONE_MS
from keymill.ops.status_table import line_of, shown
from schemas.operations import AuditSummary, KekEpochs, PartitionPosition, ProgramReport, TopicProgress
from schemas.topics import ASSETS, DEAD_LETTERS, KEYS

ROOT = Path(__file__).parents[2]
NOW = 1_800_000_000_000


def overview(**given: Any) -> Overview:
    """A cluster on which all is well."""
    whole: dict[str, Any] = {
        "nodes": (1, 2, 3),
        "fenced": (),
        "controller": 2,
        "thin": (),
        "topics": {},
        "starts": {ASSETS.name: {0: 0, 1: 0}, KEYS.name: {0: 0}, DEAD_LETTERS.name: {0: 3}},
        "ends": {ASSETS.name: {0: 100, 1: 50}, KEYS.name: {0: 300}, DEAD_LETTERS.name: {0: 5}},
        "fresh": {ASSETS.name: {0: 100, 1: 50}},
        "group": GroupState(name="g", state="Stable", members=2),
        "committed": {(ASSETS.name, 0): 100, (ASSETS.name, 1): 50},
    }
    return Overview(**whole | given)


def report(program: str = "proxy", **given: Any) -> ProgramReport:
    """A program that is well."""
    progress = TopicProgress(topic=KEYS.name, positions=(PartitionPosition(partition=0, position=300),))
    whole: dict[str, Any] = {
        "program": program, "instance": "one", "version": "1", "started": NOW - 90_000, "at": NOW - 2_000,
        "progress": (progress,), "keks": (KekEpochs(organization="demo", epochs=(1, 2)),),
    }  # fmt: skip
    return ProgramReport(**whole | given)


def standing(
    *reports: ProgramReport, audit: AuditSummary | None = None, differences: tuple[Difference, ...] = (), **given: Any
) -> Standing:
    """The judgement of a cluster with one proxy and these."""
    every = (report(), *reports)
    status = Status({f"{each.program}/{each.instance}": each for each in every}, audit, ())
    unreadable = given.pop("unreadable", ())
    return judge(overview(**given), differences, status, unreadable, at=NOW, limits=Limits(lag=10))


def unreadable(*, newer: bool = False) -> Unreadable:
    return Unreadable("drm.status.v1", 2, 7, "x/y", "no report", newer)


def audited(**given: Any) -> AuditSummary:
    whole = {"at": NOW - 1000, "took_ms": 5, "clean": True, "differences": 0, "events": 1, "assets": 1}
    return AuditSummary(**whole | {"key_records": 1, "policies": 1} | given)


BEHIND = (TopicProgress(topic=KEYS.name, positions=(PartitionPosition(partition=0, position=289),)),)
DRIFT = Difference(topic=KEYS.name, what="segment.ms", expected="1", found="2", fatal=False)
CASES: dict[str, tuple[str, Standing]] = {
    "a broker that is away": ("broker 3 is registered", standing(nodes=(1, 2), fenced=(3,))),
    "a thin partition": ("1 partitions have fewer replicas", standing(thin=("drm.keys.v1/0",))),
    "no controller": ("no controller", standing(controller=-1)),
    "a topic that drifted": ("segment.ms must be 1", standing(differences=(DRIFT,))),
    "an empty group": ("no processor", standing(group=GroupState(name="g", state="Empty", members=0))),
    "a rebalance": ("PreparingRebalance", standing(group=GroupState(name="g", state="PreparingRebalance", members=1))),
    "old events": (
        "1 records of drm.assets.v1 have waited",
        standing(committed={(ASSETS.name, 0): 99, (ASSETS.name, 1): 50}),
    ),
    "old events before any commit": ("150 records of drm.assets.v1 have waited", standing(committed={})),
    "a silent program": ("has not reported for 40 s", standing(report("gateway", at=NOW - 40_000))),
    "a program that waits": ("not ready: the view", standing(report("gateway", waits_for="the view is behind"))),
    "an archive that is behind": (
        "connect-sql-archive/one is 11",
        standing(report("connect-sql-archive", progress=BEHIND)),
    ),
    "a view that is old": ("view of gateway/one is 11 s old", standing(report("gateway", staleness_ms=11_000))),
    "a missing epoch": (
        "processor/one lacks KEK epoch 2 of demo",
        standing(report("processor", keks=(KekEpochs(organization="demo", epochs=(1,)),))),
    ),
    "a report of a newer release": ("newer release", standing(unreadable=(unreadable(newer=True),))),
    "an unreadable record": (
        "1 records are passed over: x/y (drm.status.v1-2 offset 7)",
        standing(unreadable=(unreadable(),)),
    ),
    "an audit with differences": ("found 3 differences", standing(audit=audited(clean=False, differences=3))),
    "an old audit": ("8 days old", standing(audit=audited(at=NOW - AUDIT_OLD_MS - 1))),
}


@pytest.mark.parametrize("name", CASES)
def test_each_thing_that_needs_attention_is_said(name: str) -> None:
    """One concern and no other, in words, with a section that the runbook has."""
    words, found = CASES[name]
    (concern,) = found.concerns
    assert words in concern.what
    assert not found.well
    assert concern.runbook in anchors(), concern.runbook
    assert words in line_of(found)


def anchors() -> set[str]:
    """The anchors of the runbook's sections, as GitHub makes them."""
    headings = re.findall(r"^##+ (.+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_all_well_is_no_concern() -> None:
    """Two programs, a clean audit, dead letters that somebody has seen; a view counts in seconds, not in records."""
    found = standing(report("gateway", progress=BEHIND, staleness_ms=900), audit=audited())
    assert found.well, found.concerns
    assert 2 == found.dead_letters
    assert line_of(found).startswith("well: 3 brokers, 2 programs, lag 0")


@pytest.mark.parametrize(
    ("given", "state"),
    [
        ({"stopped": NOW - 1000}, "stopped"),
        ({"stopped": NOW - 90_000, "at": NOW - 90_000}, "stopped"),
        ({"at": NOW - GONE_MS - 1}, "gone"),
        ({"waits_for": None}, "ready"),
    ],
)
def test_who_said_goodbye_or_is_long_gone_is_no_concern(given: dict[str, Any], state: str) -> None:
    """Neither is one whose view is old by then."""
    found = standing(report("gateway", progress=BEHIND if state != "ready" else report().progress, **given))
    assert found.well, found.concerns
    assert state == next(line.state for line in found.programs if line.program == "gateway")


def test_without_a_proxy_nobody_plays() -> None:
    """A proxy that stopped in order is none."""
    status = Status({"proxy/one": report(stopped=NOW)}, None, ())
    found = judge(overview(), (), status, at=NOW, limits=Limits())
    assert ["no proxy reports, so players get no license"] == [concern.what for concern in found.concerns]


def test_a_topic_that_was_created_anew_makes_no_negative_lag() -> None:
    """A view that is further than the new topic waits for its adoption; its lag is nothing."""
    found = standing(ends=overview().ends | {KEYS.name: {0: 5}})
    assert {0} == {line.lag for line in found.programs}


def test_a_retired_epoch_that_leaves_is_no_concern() -> None:
    """Only the newest epoch must be everywhere."""
    assert standing(report("processor", keks=(KekEpochs(organization="demo", epochs=(2,)),))).well


def test_it_is_json_and_a_table() -> None:
    """Everything that is judged is printed, for programs and for people."""
    found = standing(report("gateway", waits_for="reasons"), audit=audited())
    parsed = msgspec.json.decode(msgspec.json.encode(found))
    assert {field.name for field in dataclasses.fields(Standing)} == set(parsed)
    console = Console(width=200, record=True, file=open("/dev/null", "w"))
    console.print(shown(found))
    text = console.export_text()
    for word in ("proxy", "reasons", "demo:1,2", "drm.assets.v1 0", "runbook.md#a-program-is-not-ready"):
        assert word in text, word
