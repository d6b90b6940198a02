"""Requests with an Idempotency-Key, repeated at any time among other events: none has a second effect within a day."""

from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from keymill.core.bodies import (
    Body,
    IngestBody,
    PolicyBody,
    RestoreBody,
    RevokeBody,
    RotateBody,
    event_body_of,
    event_id_of,
    event_time_of,
    request_hash,
)
from keymill.core.folding import fold
from keymill.core.idempotency import SKEW_MS, WINDOW_MS, accepted_before, require_new
from keymill.errors import Conflict, Reject
from schemas.events import AssetEvent
from schemas.records import AssetRecord
from schemas.values import MAX_RECENT
from tests.builders import NOW, assign, at, folded, ingest
from tests.examples import examples

HOUR = 3_600_000
KEYS = [f"key-{number}" for number in range(5)]
BODIES = st.one_of(
    st.just(RotateBody()),
    st.builds(RotateBody, to_version=st.integers(1, 4)),
    st.builds(PolicyBody, policy_id=st.integers(0, 3)),
    st.just(RevokeBody()),
    st.just(RestoreBody()),
    st.builds(IngestBody, asset_id=st.just("bbb"), policy_id=st.integers(0, 3)),
    st.builds(IngestBody, asset_id=st.just("bbb"), key_version=st.none() | st.integers(1, 3)),
)


def event_of(asset: AssetRecord, key: str, body: Body, now_ms: int) -> AssetEvent:
    """The event that the gateway publishes."""
    return AssetEvent(
        organization="demo",
        asset="bbb",
        event_id=event_id_of("demo", "bbb", key),
        request_hash=request_hash("operation", "demo", "bbb", body),
        event_time=event_time_of(body, now_ms),
        body=event_body_of(body, lambda: len(asset.versions) + 1),
    )


def state_of(asset: AssetRecord) -> AssetRecord:
    """What an event may have an effect on."""
    return msgspec.structs.replace(asset, applied=at(0).position, recent=())


@dataclass
class World:
    """A log, the asset's record, and a gateway that remembers nothing but what the record says."""

    now_ms: int = NOW
    offset: int = 1
    asset: AssetRecord = field(default_factory=lambda: folded(ingest("SD", "HD")))
    refused: int = 0

    def publish(self, event: AssetEvent) -> bool:
        """Fold an event; whether it had an effect."""
        before = state_of(self.asset)
        place = at(self.offset, timestamp=self.now_ms)
        self.offset += 1
        try:
            self.asset = fold(event, at=place, held=self.asset, root_version=1).asset
        except Reject:
            return False
        return state_of(self.asset) != before

    def request(self, key: str, body: Body) -> bool:
        """One request with a key; whether it had an effect."""
        event = event_of(self.asset, key, body, self.now_ms)
        if accepted_before(self.asset, event.event_id or "") is not None:
            return False
        try:
            require_new(self.asset, body, self.now_ms)
        except Conflict as refusal:
            assert refusal.code == "idempotency_unknown"
            self.refused += 1
            return False
        return self.publish(event)

    def others(self, count: int, policy_id: int = 7) -> None:
        """Events of other callers."""
        for _ in range(count):
            self.publish(assign(policy_id, event_id=f"other-{self.offset}"))


class Repeats(RuleBasedStateMachine):
    """Clients that repeat what they like, when they like, at a gateway that was just started."""

    @initialize()
    def begin(self) -> None:
        """An asset that is new."""
        self.world = World()
        self.bodies: dict[str, Body] = {}
        self.effects: dict[str, list[int]] = {key: [] for key in KEYS}

    @rule(key=st.sampled_from(KEYS), body=BODIES, timed=st.booleans())
    def send(self, key: str, body: Body, timed: bool) -> None:
        """A key's request, always the same one; the first may say when it happened."""
        said = msgspec.structs.replace(body, event_time=self.world.now_ms) if timed else body
        if self.world.request(key, self.bodies.setdefault(key, said)):
            self.effects[key].append(self.world.now_ms)

    @rule(count=st.sampled_from([1, 5, MAX_RECENT - 1, MAX_RECENT, 40]), policy_id=st.integers(0, 3))
    def others_come(self, count: int, policy_id: int) -> None:
        """Events that push ids out."""
        self.world.others(count, policy_id)

    @rule(passed_ms=st.sampled_from([1, 1000, HOUR, 11 * HOUR, WINDOW_MS - SKEW_MS, WINDOW_MS + 2 * SKEW_MS]))
    def time_passes(self, passed_ms: int) -> None:
        """A while."""
        self.world.now_ms += passed_ms

    @invariant()
    def no_second_effect_within_the_window(self) -> None:
        """Two effects of one key are more than a day apart."""
        for times in getattr(self, "effects", {}).values():
            assert all(later - earlier > WINDOW_MS for earlier, later in pairwise(times))


TestRepeats = Repeats.TestCase
TestRepeats.settings = examples(2)


def test_a_rotation_that_is_forgotten_is_not_made_again() -> None:
    """R1 makes version 2; 40 events later, at a new gateway, R1 is refused and says since when ids are remembered."""
    world = World()
    assert world.request("R1", RotateBody())
    world.others(40)
    assert not world.request("R1", RotateBody())
    assert (2, 1) == (len(world.asset.versions), world.refused)
    with pytest.raises(Conflict, match=r"more than 32 events in 24 hours.*forgotten.*to_version") as refused:
        require_new(world.asset, RotateBody(), world.now_ms)
    assert ("idempotency_unknown", "Idempotency-Key") == (refused.value.code, refused.value.field)


def test_what_says_what_it_leads_to_is_taken() -> None:
    """A rotation that names its version is taken any time: once it is there, it is a repeat."""
    world = World()
    assert world.request("R1", RotateBody(to_version=2))
    world.others(40)
    assert not world.request("R1", RotateBody(to_version=2))
    assert world.request("R2", RotateBody(to_version=3))
    assert (3, 0) == (len(world.asset.versions), world.refused)


@pytest.mark.parametrize(
    ("body", "taken"),
    [
        (PolicyBody(policy_id=3), False),
        (PolicyBody(policy_id=3, event_time=NOW + 60_000), True),
        (PolicyBody(policy_id=3, event_time=NOW + SKEW_MS), False),
        (PolicyBody(policy_id=3, event_time=NOW + 60_000 + SKEW_MS + 1), False),
        (RestoreBody(), False),
        (IngestBody(asset_id="bbb", policy_id=3), False),
    ],
    ids=["no time", "since then", "as old as what is forgotten", "ahead", "restore", "ingest"],
)
def test_what_happened_after_all_that_is_forgotten_is_new(body: Body, taken: bool) -> None:
    """Its time says so, unless clocks might; what has not happened yet says nothing."""
    world = World()
    world.others(MAX_RECENT)
    world.now_ms += 60_000
    assert taken == world.request("new", body)
    world.now_ms += WINDOW_MS
    assert world.request("later", PolicyBody(policy_id=2))


def test_nothing_is_refused_while_nothing_is_forgotten() -> None:
    """31 other ids, or an asset that nobody knows yet."""
    world = World()
    world.others(MAX_RECENT - 1)
    assert world.request("new", PolicyBody(policy_id=3))
    require_new(None, PolicyBody(policy_id=3), NOW)
