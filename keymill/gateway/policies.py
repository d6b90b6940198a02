"""
Policies through the gateway: each change is a record of the log, and the answer is what the view then holds.

    1. a request id that the view or this gateway knows: what came of it, or 409 when it asked for something else
    2. the change is published
    3. its policy's record when the view has it; its dead letter as a refusal; 503 when neither comes in time

The processor decides, so nothing is refused here that it would accept; two gateways give one policy one id.
"""

import time
import uuid
from typing import Final

import msgspec

from keymill.core.bodies import policy_request_id_of
from keymill.core.folding import DEFAULT_POLICY
from keymill.core.policy_changes import request_hash
from keymill.core.policy_records import built_in
from keymill.errors import Conflict, NotReady, UnknownKey
from keymill.gateway.policy_effects import changed, created
from keymill.gateway.service import APPEAR_S, Service
from keymill.gateway.waiting import Published
from keymill.http.problems import HttpReject
from schemas.events import PolicyChange, PolicyCreated, PolicyDeleted, PolicyUpdated
from schemas.policy import Policy
from schemas.records import DeadLetter, PolicyRecord, PolicyState

STATUSES: Final = {"policy_unknown": 404, "policy_deleted": 409, "idempotency_conflict": 409}
"""Of dead letters; all others are 422."""


class Policies:
    """An organization's policies, over one `Service`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def one(self, organization: str, policy_id: int) -> PolicyRecord:
        """
        A policy; waits a moment for one that another gateway may just have created.

        Raises:
            UnknownKey: `policy_unknown`.
            NotReady: the view is behind.
        """
        reader = self._service.reader
        found = reader.policy(organization, policy_id)
        if found is None and policy_id == DEFAULT_POLICY:
            return built_in(organization)
        if found is None:
            deadline = time.monotonic() + APPEAR_S
            found = await self._service.waiter.until(lambda: reader.policy(organization, policy_id), deadline)
        if found is None:
            message = f"organization {organization} has no policy {policy_id}"
            unknown = UnknownKey(message, field="policy_id", code="policy_unknown")
            raise await self._service.absent(unknown, "a policy")
        return found

    async def create(self, organization: str, name: str, policy: Policy, key: str | None) -> PolicyRecord:
        """A new policy. *key* is the caller's Idempotency-Key; so in the others."""
        change = _change(organization, key, PolicyCreated(name=name, policy=policy))
        return await self._settle(change, repeatable=key is not None)

    async def update(
        self, organization: str, policy_id: int, name: str | None, policy: Policy, key: str | None
    ) -> PolicyRecord:
        """Another content for a policy, and another name if one is given."""
        before = await self.one(organization, policy_id)
        body = PolicyUpdated(policy_id=policy_id, name=name or before.name, policy=policy)
        return await self._settle(_change(organization, key, body), repeatable=key is not None)

    async def delete(self, organization: str, policy_id: int, key: str | None) -> PolicyRecord:
        """Mark a policy as deleted; a deleted one is answered as it is."""
        if policy_id == DEFAULT_POLICY:
            message = "policy 0 is the organization's default: it can be changed, not deleted"
            raise Conflict(message, field="policy_id", code="default_policy")
        before = await self.one(organization, policy_id)
        if before.state is PolicyState.DELETED:
            return before
        change = _change(organization, key, PolicyDeleted(policy_id=policy_id))
        return await self._settle(change, repeatable=key is not None)

    async def _settle(self, change: PolicyChange, *, repeatable: bool) -> PolicyRecord:
        service = self._service
        known = self._repeated(change) if repeatable else None
        if isinstance(known, PolicyRecord):
            return known
        service.waiter.require_room()
        published = known or await service.changes.publish(change)
        if isinstance(change.body, PolicyCreated):
            effect = created(service.reader, change)
        else:
            effect = changed(service.reader, change, published)
        deadline = time.monotonic() + service.settings.wait_s
        outcome = await service.waiter.outcome(published, service.letters, deadline, effect)
        match outcome or service.reader.policy_of_request(change.organization, change.request_id or ""):
            case PolicyRecord() as record:
                return record
            case DeadLetter() as letter:
                status = STATUSES.get(letter.reason, 422)
                raise HttpReject(status, letter.reason, letter.message, field=letter.field)
        message = f"the change at offset {published.position.offset} is not processed yet"
        raise NotReady(f"{message}: send it again, with the same Idempotency-Key")

    def _repeated(self, change: PolicyChange) -> PolicyRecord | Published | None:
        """What came of the first request with this id, in the view or on its way there."""
        request_id = change.request_id or ""
        held = self._service.reader.policy_of_request(change.organization, request_id)
        sent = self._service.changes.repeat_of(request_id)
        if held is not None:
            accepted = [each for each in (held.created_by, held.changed_by) if each]
            first_hash = next(each.request_hash for each in accepted if each.request_id == request_id)
        elif sent is not None:
            first_hash = sent[1]
        else:
            return None
        if first_hash != change.request_hash:
            message = "the Idempotency-Key was used with another request"
            raise Conflict(message, field="Idempotency-Key", code="idempotency_conflict")
        return held or (sent[0] if sent else None)


def _change(organization: str, key: str | None, body: PolicyCreated | PolicyUpdated | PolicyDeleted) -> PolicyChange:
    change = PolicyChange(
        organization=organization,
        request_id=f"r-{uuid.uuid4().hex}" if key is None else policy_request_id_of(organization, key),
        event_time=time.time_ns() // 1_000_000,
        body=body,
    )
    return msgspec.structs.replace(change, request_hash=request_hash(change))
