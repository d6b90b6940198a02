"""What shows that a policy change was processed, on a view that holds what it is told to hold."""

from contextlib import contextmanager

import msgspec
import pytest

from keymill.core.assignment import assignable, check_tracks
from keymill.core.policy import BUILT_IN_DEFAULT
from keymill.core.policy_records import all_policies, built_in, requested
from keymill.errors import InvalidRecord, Reject
from keymill.gateway import policy_effects
from keymill.gateway.policy_effects import changed, created
from keymill.gateway.waiting import Published
from schemas import topics
from schemas.events import PolicyChange, PolicyCreated, PolicyDeleted, PolicyUpdated
from schemas.policy import Policy, TrackTerms
from schemas.records import AcceptedRequest, PolicyRecord, PolicyState
from schemas.values import LogPosition
from tests.builders import folded, ingest

REPLACE = msgspec.structs.replace


def record(policy_id, *, by="", last="", applied=0, state=PolicyState.READY, policy=None):
    return PolicyRecord(
        organization="acme",
        policy_id=policy_id,
        version=1,
        state=state,
        name="p",
        policy=policy or Policy(can_play=True),
        applied=LogPosition(generation=0, offset=applied),
        created_by=AcceptedRequest(request_id=by) if by else None,
        changed_by=AcceptedRequest(request_id=last) if last else None,
        created=1,
        changed=1,
    )


class View:
    """A small real view: records by id."""

    def __init__(self, *records):
        self.held = {each.policy_id: each for each in records}

    def policy(self, _organization, policy_id):
        return self.held.get(policy_id)

    def policy_of_request(self, _organization, request_id):
        return next((each for each in self.held.values() if requested(each, request_id)), None)

    @contextmanager
    def at_once(self):
        yield self


def change(body, request_id="mine"):
    return PolicyChange(organization="acme", request_id=request_id, event_time=0, body=body)


def published(offset):
    at = LogPosition(generation=0, offset=offset)
    return Published(organization="acme", event_id="mine", topic=topics.POLICY_CHANGES.name, partition=0, position=at)


def test_a_create_is_found_by_its_request_id():
    """Among those of others, and when a later change went over it."""
    look = created(view := View(record(1, by="another")), change(PolicyCreated(name="p", policy=Policy())))
    assert look() is None
    view.held |= {2: record(2, by="another"), 3: record(3, by="mine")}
    assert look() == view.held[3]
    view.held[3] = record(3, by="mine", last="later")
    assert look() == view.held[3]


@pytest.mark.parametrize("body", [PolicyUpdated(policy_id=4, name="p", policy=Policy()), PolicyDeleted(policy_id=4)])
def test_a_change_is_seen_by_its_id_or_its_place(body):
    """Below its place nothing counts, not even its id; at its place a repeat counts."""
    look = changed(view := View(record(4, last="before", applied=6)), change(body), published(7))
    assert look() is None
    view.held[4] = record(4, last="mine", applied=6)
    assert look() is None
    view.held[4] = record(4, last="before", applied=7)
    assert look() == view.held[4]
    view.held[4] = record(4, last="mine", applied=9)
    assert look() == view.held[4]


def test_a_change_that_went_under_takes_half_a_second(monkeypatch):
    """A later change went over it, or it was refused: the dead letter gets time to come."""
    now = [100.0]
    monkeypatch.setattr(policy_effects.time, "monotonic", lambda: now[0])
    body = PolicyDeleted(policy_id=4)
    look = changed(view := View(record(4, last="later", applied=9)), change(body), published(7))
    assert look() is None
    now[0] += 0.4
    assert look() is None
    now[0] += 0.1
    assert look() == view.held[4]


def test_policy_0_is_there_without_a_record():
    """Version 0, first in the list, replaced by its record once there is one."""
    assert all_policies("acme", [record(2), record(1)]) == [built_in("acme"), record(1), record(2)]
    assert all_policies("acme", [record(0)]) == [record(0)]
    assert built_in("acme").policy == BUILT_IN_DEFAULT
    assert requested(record(1, by="a", last="b"), "a") and requested(record(1, by="a", last="b"), "b")
    assert not requested(built_in("acme"), "")


def test_what_may_be_assigned():
    """What exists and is not deleted; policy 0 always."""
    assert assignable("acme", 0, None) == BUILT_IN_DEFAULT
    assert assignable("acme", 3, record(3)) == Policy(can_play=True)
    for stored, code in ((None, "policy_unknown"), (record(3, state=PolicyState.DELETED), "policy_deleted")):
        with pytest.raises(Reject) as refusal:
            assignable("acme", 3, stored)
        assert (refusal.value.code, refusal.value.field) == (code, "policy_id")


def test_declared_tracks_must_be_named():
    """Those of the asset and those of the request, each once; tracks that were only defaulted need not."""
    policy = Policy(can_play=True, tracks=(TrackTerms(label="SD"),))
    asset = folded(ingest("SD", "HD"))
    check_tracks(3, policy, folded(ingest(tracks=None)))
    check_tracks(3, policy, None, ["SD"])
    check_tracks(3, Policy(can_play=True), asset, ["UHD1"])
    with pytest.raises(InvalidRecord, match="HD, AUDIO missing") as refusal:
        check_tracks(3, policy, asset, ["HD", "AUDIO", "SD"])
    assert refusal.value.code == "tracks_not_named"
