"""
The fold of an organization's policy changes into its policy records (ARCHITECTURE.md, the life of a policy).

A policy's id is 1 + the number of creates accepted earlier in the log. Policies are never removed, so that is 1 + the
highest id that exists; policy 0 exists from the start, as `policy.BUILT_IN_DEFAULT` in version 0 without a record.
"""

import hashlib
from collections.abc import Iterable
from typing import Final, Protocol, assert_never

import msgspec

from keymill.core.folding import DEFAULT_POLICY, Coordinates, check_event_time
from keymill.errors import Conflict, Reject, UnknownKey
from schemas.codec import encode
from schemas.events import PolicyChange, PolicyCreated, PolicyDeleted, PolicyUpdated
from schemas.policy import Policy
from schemas.records import AcceptedRequest, PolicyRecord, PolicyState
from schemas.values import LogPosition

MAX_POLICY_RECORD: Final = 63_500
"""
Creates and updates may fill the record up to here.

Below the policy topic's 64 KiB: 500 bytes are left for the request id and the numbers of later changes, so that a
deletion is never refused for size, and 1,500 for the record key, headers and framing.
"""


class Stored(Protocol):
    """An organization's policy records where they are kept, found by id and by request id."""

    @property
    def newest(self) -> int:
        """The highest id that exists, 0 where there is none."""
        ...

    @property
    def applied(self) -> LogPosition | None:
        """Where the newest change stands that was folded into any of them; None where there is none."""
        ...

    def get(self, policy_id: int) -> PolicyRecord | None:
        """The record of a policy."""
        ...

    def by_request(self, request_id: str) -> PolicyRecord | None:
        """The policy that the request created, or that it changed last."""
        ...


class Policies:
    """
    The policy records of one organization, found by id and by request id.

    `newest` is the highest id that exists, `applied` where the newest change stands that was folded into any of them.

    Args:
        stored: what is not among *records*; asked for what is needed, never for all.
    """

    def __init__(self, records: Iterable[PolicyRecord] = (), stored: Stored | None = None) -> None:
        self._stored = stored
        self._by_id: dict[int, PolicyRecord] = {}
        self._by_request: dict[str, PolicyRecord] = {}
        self.newest = stored.newest if stored else DEFAULT_POLICY
        self.applied: LogPosition | None = stored.applied if stored else None
        for record in records:
            self.take(record)

    def get(self, policy_id: int) -> PolicyRecord | None:
        """The record of a policy; None for one that nobody created, or a policy 0 that nobody changed."""
        held = self._by_id.get(policy_id)
        return self._stored.get(policy_id) if held is None and self._stored else held

    def by_request(self, request_id: str | None) -> PolicyRecord | None:
        """The policy that the request created, or that it changed last."""
        if request_id is None:
            return None
        held = self._by_request.get(request_id)
        if held is not None or self._stored is None:
            return held
        found = self._stored.by_request(request_id)
        return None if found is None or found.policy_id in self._by_id else found  # what is held here is newer

    def take(self, record: PolicyRecord) -> None:
        """Hold *record* in place of what was held of its policy."""
        if held := self._by_id.get(record.policy_id):
            for accepted in _accepted(held):
                self._by_request.pop(accepted.request_id, None)
        self._by_id[record.policy_id] = record
        self._by_request |= {accepted.request_id: record for accepted in _accepted(record)}
        self.newest = max(self.newest, record.policy_id)
        self.applied = record.applied if self.applied is None else max(self.applied, record.applied)


def fold(change: PolicyChange, *, at: Coordinates, held: Policies) -> PolicyRecord | None:
    """
    The policy record after one change, to be published; None when the change was folded before.

    That is so at or below `held.applied`, which holds only if records are published one by one, in the order of their
    changes: what is durable is then always what the beginning of the log calls for. A repeat writes the record again
    with its own place as `applied`, and nothing else.

    Args:
        held: every policy record of the change's organization.

    Raises:
        Reject: the change can never succeed; nothing changes and the message is safe to publish.
    """
    if held.applied is not None and at.position <= held.applied:
        return None
    check_event_time(change.event_time, at)
    if repeated := _repeated(change, held):
        return msgspec.structs.replace(repeated, applied=at.position)
    record = _apply(change, at, held)
    if not isinstance(change.body, PolicyDeleted) and len(encode(record)) > MAX_POLICY_RECORD:
        message = f"the policy's record would exceed {MAX_POLICY_RECORD} bytes: shorten its document or its tokens"
        raise Reject(message, field="policy", code="policy_too_large")
    return record


def request_hash(change: PolicyChange) -> bytes:
    """What tells two requests with one request id apart, 32 bytes: the request's hash, or the body's own."""
    plain = msgspec.structs.replace(change, request_id=None, request_hash=None, event_time=0)
    return change.request_hash or hashlib.sha256(encode(plain)).digest()


def _accepted(record: PolicyRecord) -> tuple[AcceptedRequest, ...]:
    return tuple(accepted for accepted in (record.created_by, record.changed_by) if accepted)


def _repeated(change: PolicyChange, held: Policies) -> PolicyRecord | None:
    """The policy that *change* asks nothing new of."""
    if known := held.by_request(change.request_id):
        if _request(change) not in _accepted(known):
            message = f"request_id {change.request_id} was used with another content, for policy {known.policy_id}"
            raise Conflict(message, field="request_id", code="idempotency_conflict")
        return known
    if isinstance(change.body, PolicyDeleted):
        found = held.get(change.body.policy_id)
        return found if found and found.state is PolicyState.DELETED else None
    return None


def _request(change: PolicyChange) -> AcceptedRequest | None:
    if change.request_id is None:
        return None
    return AcceptedRequest(request_id=change.request_id, request_hash=request_hash(change))


def _apply(change: PolicyChange, at: Coordinates, held: Policies) -> PolicyRecord:
    body = change.body
    match body:
        case PolicyCreated():
            new = _first(change, held.newest + 1, body.name, body.policy, at)
            return msgspec.structs.replace(new, created_by=_request(change))
        case PolicyUpdated():
            before = held.get(body.policy_id)
            if before is None and body.policy_id == DEFAULT_POLICY:
                new = _first(change, DEFAULT_POLICY, body.name, body.policy, at)
                return msgspec.structs.replace(new, changed_by=_request(change))
            return _changed(before, change, at, body.policy_id, name=body.name, policy=body.policy)
        case PolicyDeleted():
            before = held.get(body.policy_id)
            return _changed(before, change, at, body.policy_id, state=PolicyState.DELETED)
        case _:
            assert_never(body)


def _first(change: PolicyChange, policy_id: int, name: str, policy: Policy, at: Coordinates) -> PolicyRecord:
    return PolicyRecord(
        organization=change.organization,
        policy_id=policy_id,
        version=1,
        state=PolicyState.READY,
        name=name,
        policy=policy,
        applied=at.position,
        created=at.timestamp,
        changed=at.timestamp,
    )


def _changed(
    before: PolicyRecord | None, change: PolicyChange, at: Coordinates, policy_id: int, **members: object
) -> PolicyRecord:
    """The next version of a policy that exists and is not deleted."""
    if before is None:
        message = f"organization {change.organization} has no policy {policy_id}"
        raise UnknownKey(message, field="policy_id", code="policy_unknown")
    if before.state is PolicyState.DELETED:
        message = f"policy {policy_id} of organization {change.organization} is deleted: create another"
        raise Conflict(message, field="policy_id", code="policy_deleted")
    return msgspec.structs.replace(
        before,
        version=before.version + 1,
        applied=at.position,
        changed=at.timestamp,
        changed_by=_request(change),
        **members,
    )
