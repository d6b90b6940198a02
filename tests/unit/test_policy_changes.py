"""The fold of policy changes: ids, versions, repeats, refusals, and what always fits its topic."""

import msgspec
import pytest

from keymill.core.folding import MAX_AHEAD_MS
from keymill.core.policy import BUILT_IN_DEFAULT
from keymill.core.policy_changes import MAX_POLICY_RECORD, Policies, fold, request_hash
from keymill.errors import Conflict, InvalidRecord, Reject, UnknownKey
from keymill.kafka.outgoing import Outgoing, place
from keymill.telemetry import REQUEST_ID_HEADER
from schemas import topics
from schemas.codec import encode
from schemas.events import PolicyChange
from schemas.ids import scoped_key
from schemas.policy import MAX_TOKEN, Policy, PolicySource, SessionInit
from schemas.records import AcceptedRequest, PolicyRecord, PolicyState
from schemas.values import MAX_COUNT, MAX_INT, MAX_TEXT, LogPosition
from streams.raw import MAX_MESSAGE
from tests.builders import NOW, at, create_policy, delete_policy, update_policy

STRICT = Policy(can_play=True, license_duration_s=60)


def folded(*changes: PolicyChange, start: int = 0, held: Policies | None = None) -> Policies:
    """The policies after *changes* at consecutive offsets."""
    held = held or Policies()
    for offset, change in enumerate(changes, start):
        record = fold(change, at=at(offset), held=held)
        assert record is not None
        held.take(record)
    return held


def test_a_create_is_the_next_policy_in_its_first_version() -> None:
    """Its id counts the creates before; its times are the log's, its request is kept with its hash."""
    change = create_policy(name="gold", policy=STRICT, request_id="r-1", request_hash=b"h" * 32)
    held = folded(create_policy(), update_policy(0))
    expected = PolicyRecord(
        organization="demo",
        policy_id=2,
        version=1,
        state=PolicyState.READY,
        name="gold",
        policy=STRICT,
        applied=LogPosition(generation=0, offset=7),
        created_by=AcceptedRequest(request_id="r-1", request_hash=b"h" * 32),
        created=NOW + 5,
        changed=NOW + 5,
    )
    assert expected == fold(change, at=at(7, timestamp=NOW + 5), held=held)


def test_a_change_is_the_next_version() -> None:
    """Name and content are the update's, the rest stays; a deletion keeps even those."""
    held = folded(create_policy(request_id="r-1"))
    before = held.get(1)
    assert before is not None
    change = update_policy(1, policy=STRICT, name="strict", request_id="r-2")
    updated = fold(change, at=at(3, timestamp=NOW + 9), held=held)
    by = AcceptedRequest(request_id="r-2", request_hash=request_hash(change))
    members = {"version": 2, "applied": at(3).position, "changed": NOW + 9, "changed_by": by}
    assert updated == msgspec.structs.replace(before, name="strict", policy=STRICT, **members)
    held.take(updated)
    deleted = fold(delete_policy(1), at=at(4), held=held)
    members = {"version": 3, "applied": at(4).position, "changed": NOW, "changed_by": None}
    assert deleted == msgspec.structs.replace(updated, state=PolicyState.DELETED, **members)


def test_policy_0_is_there_before_anybody_changed_it() -> None:
    """Its first update is version 1 of it, one more than the built-in one; it is nobody's create."""
    zero = folded(update_policy(0, policy=STRICT, request_id="r-1")).get(0)
    assert zero is not None and (zero.policy_id, zero.version, zero.policy) == (0, 1, STRICT)
    assert zero.created_by is None and zero.changed_by is not None and zero.changed_by.request_id == "r-1"
    assert folded(update_policy(0), update_policy(0, policy=BUILT_IN_DEFAULT)).get(0).version == 2  # type: ignore[union-attr]


def test_a_deleted_policy_keeps_its_id() -> None:
    """The next create gets another one."""
    held = folded(create_policy(), create_policy(), delete_policy(2), create_policy())
    assert [held.get(number).state for number in (1, 2, 3)] == [  # type: ignore[union-attr]
        PolicyState.READY,
        PolicyState.DELETED,
        PolicyState.READY,
    ]


@pytest.mark.parametrize(
    ("change", "kind", "code"),
    [
        (update_policy(9), UnknownKey, "policy_unknown"),
        (delete_policy(9), UnknownKey, "policy_unknown"),
        (update_policy(2), Conflict, "policy_deleted"),
        (update_policy(2, request_id="r-9"), Conflict, "policy_deleted"),
    ],
)
def test_what_cannot_be_changed_is_refused(change: PolicyChange, kind: type[Reject], code: str) -> None:
    """A policy that nobody created, and one that is deleted."""
    held = folded(create_policy(), create_policy(), delete_policy(2))
    with pytest.raises(kind) as refused:
        fold(change, at=at(3), held=held)
    assert (refused.value.code, refused.value.field) == (code, "policy_id")


@pytest.mark.parametrize(
    ("change", "policy_id"),
    [
        (create_policy(request_id="r-1"), 1),
        (update_policy(2, name="other", request_id="r-2"), 2),
        (delete_policy(3, request_id="r-3"), 3),
        (delete_policy(3), 3),
        (delete_policy(3, request_id="r-new"), 3),
    ],
)
def test_a_repeat_changes_nothing_but_applied(change: PolicyChange, policy_id: int) -> None:
    """A request id that is known with its content, and the deletion of what is deleted."""
    held = folded(
        create_policy(request_id="r-1"),
        create_policy(),
        create_policy(),
        update_policy(2, name="other", request_id="r-2"),
        delete_policy(3, request_id="r-3"),
    )
    before = held.get(policy_id)
    assert before is not None
    again = fold(msgspec.structs.replace(change, event_time=NOW - 1), at=at(8), held=held)
    assert again == msgspec.structs.replace(before, applied=at(8).position)


@pytest.mark.parametrize(
    "change",
    [
        create_policy(name="other", request_id="r-1"),
        create_policy(request_id="r-1", request_hash=b"x" * 32),
        update_policy(1, request_id="r-1"),
        delete_policy(1, request_id="r-2"),
        create_policy("demo", STRICT, request_id="r-2"),
    ],
)
def test_a_request_id_of_something_else_is_a_conflict(change: PolicyChange) -> None:
    """Another content, another policy, or another kind of change."""
    held = folded(create_policy(request_id="r-1"), update_policy(1, request_id="r-2"))
    with pytest.raises(Conflict) as refused:
        fold(change, at=at(2), held=held)
    assert (refused.value.code, refused.value.field) == ("idempotency_conflict", "request_id")


def test_a_request_hash_decides_over_the_content() -> None:
    """The sender says what makes two requests the same; defaults that it fills in may differ."""
    held = folded(create_policy(name="a", request_id="r-1", request_hash=b"h" * 32))
    again = create_policy(name="b", request_id="r-1", request_hash=b"h" * 32)
    assert fold(again, at=at(1), held=held).name == "a"  # type: ignore[union-attr]


def test_what_was_folded_before_is_nothing() -> None:
    """At or below the highest `applied` of any policy, of this or a former generation, even what would be refused."""
    held = folded(create_policy(), create_policy(), update_policy(1))
    for offset in range(3):
        for change in (create_policy(), update_policy(9), create_policy(event_time=NOW + 2 * MAX_AHEAD_MS)):
            assert None is fold(change, at=at(offset), held=held)
    later = fold(create_policy(), at=at(0, generation=1), held=held)
    assert later is not None and later.policy_id == 3


def test_a_time_far_ahead_is_refused() -> None:
    """Seconds taken for milliseconds never pass; a clock that is a little fast does."""
    assert fold(create_policy(event_time=NOW + MAX_AHEAD_MS), at=at(0), held=Policies())
    with pytest.raises(InvalidRecord) as refused:
        fold(create_policy(event_time=NOW + MAX_AHEAD_MS + 1), at=at(0), held=Policies())
    assert refused.value.field == "event_time"


ORGANIZATION, REQUESTS, SPARE = "o" * 63, ["r" * 127 + str(number) for number in range(2)], 1000


def filling(spare: int) -> PolicyChange:
    """A create with the longest names, whose policy has *spare* bytes more than one that just fits."""
    token = SessionInit(provider_session_token=b"t" * (SPARE + spare))
    policy = Policy(source=PolicySource(format="f", document="ä" * 30_500), session_init=token)
    return create_policy(ORGANIZATION, policy, name="n" * MAX_TEXT, request_id=REQUESTS[0])


def room() -> int:
    """How many bytes `filling(0)` leaves free."""
    return MAX_POLICY_RECORD - len(encode(folded(filling(0)).get(1)))  # type: ignore[arg-type]


def test_a_policy_that_would_outgrow_its_topic_is_refused() -> None:
    """One byte more than the limit; the refusal repeats nothing of it."""
    assert 0 < room() + SPARE < MAX_TOKEN
    assert MAX_POLICY_RECORD == len(encode(folded(filling(room())).get(1)))  # type: ignore[arg-type]
    with pytest.raises(Reject) as refused:
        folded(filling(room() + 1))
    assert (refused.value.code, len(str(refused.value)) < MAX_MESSAGE) == ("policy_too_large", True)


def test_the_largest_policy_can_be_deleted() -> None:
    """At the end of the longest log, by the longest request id, its record still fits its topic."""
    largest = msgspec.structs.replace(folded(filling(room())).get(1), policy_id=MAX_COUNT, version=MAX_INT - 1)
    end = msgspec.structs.replace(at(0), position=LogPosition(generation=MAX_INT, offset=2**62))
    change = delete_policy(MAX_COUNT, ORGANIZATION, request_id=REQUESTS[1])
    deleted = fold(change, at=end, held=Policies([largest]))
    assert deleted is not None
    outgoing = Outgoing(
        topic=topics.POLICIES.name,
        record_key=scoped_key(ORGANIZATION, str(MAX_COUNT)),
        value=encode(deleted),
        headers=((REQUEST_ID_HEADER, b"i" * 128),),
    )
    assert place(outgoing, {topics.POLICIES.name: 4}) < 4
