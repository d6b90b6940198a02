"""
The asset endpoints: each makes one event, publishes it, and answers what became of it.

    1. ready, authenticated, body within its limit and of its form
    2. an idempotency key that the asset's record knows: its first coordinates, or 409 when it asked for something else,
       or when the key may be one that is forgotten (`keymill.core.idempotency`)
    3. what would be refused for certain (unknown asset or policy) is refused at once
    4. the event is published; 202 with its coordinates, or with ?wait=1:
    5. 201 when the view holds it, 409 or 422 when it became a dead letter, 202 when neither came in time
"""

import time
import uuid
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

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
    read_body,
    request_hash,
)
from keymill.core.idempotency import accepted_before, require_new
from keymill.errors import Conflict
from keymill.gateway.answers import AcceptedAnswer, KeyAnswers, asset_answer, lacks_keys, provisioned_answer
from keymill.gateway.assignment import check_assignment
from keymill.gateway.auth import admit
from keymill.gateway.key_reads import of_all_time, pages
from keymill.gateway.requests import Asked, asked_by, flag, read_limited
from keymill.gateway.service import Service
from keymill.gateway.waiting import Published, Settled
from keymill.http.problems import problem
from schemas import ids, topics
from schemas.events import AssetEvent
from schemas.records import AssetRecord, DeadLetter
from schemas.values import LogPosition, Record

CONFLICTS: Final = frozenset({"conflict", "idempotency_conflict", "version_gap", "kid_taken"})
"""Reasons of dead letters that contradict an earlier event: 409. All others are 422."""
RETRY_AFTER_S: Final = 1


class Wanted(Record, frozen=True, kw_only=True):
    """A request, read: what it asks for, of which asset, under which event id."""

    organization: str
    asset: str
    event_id: str
    repeatable: bool
    request_hash: bytes
    body: Body


class Assets:
    """Handlers over one `Service`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def show(self, request: Request, organization: str, asset: str) -> Response:
        """GET an asset: state, key versions with tracks and KIDs, policy, coordinates."""
        service = self._service
        await admit(self._service, request, organization)
        with service.reader.at_once() as view:
            held = view.asset(organization, asset)
            place = view.coordinates(topics.KEYS.name, ids.asset_key(organization, asset)) if held else None
            stored = view.policy(organization, held.policy_id) if held else None
        if held is None or place is None:
            raise await service.missing(organization, asset)
        keys = KeyAnswers()
        async for page in pages(service.reader, organization, asset):
            for record in page:
                keys.take(record)
        return _json(200, asset_answer(held, keys, stored, place.partition, place.offset))

    async def ingest(self, request: Request, organization: str) -> Response:
        """POST an asset."""
        asked = await self._asked(request, organization)
        body = read_body(asked.body, IngestBody)
        self._check_ids(organization, body.asset_id)
        return await self._submit(request, _wanted("ingest", organization, body.asset_id, asked, body))

    async def rotate(self, request: Request, organization: str, asset: str) -> Response:
        """POST a rotation."""
        return await self._change(request, organization, asset, "rotate", RotateBody)

    async def assign_policy(self, request: Request, organization: str, asset: str) -> Response:
        """POST another policy."""
        return await self._change(request, organization, asset, "policy", PolicyBody)

    async def revoke(self, request: Request, organization: str, asset: str) -> Response:
        """POST a revocation."""
        return await self._change(request, organization, asset, "revoke", RevokeBody)

    async def restore(self, request: Request, organization: str, asset: str) -> Response:
        """POST the end of a revocation."""
        return await self._change(request, organization, asset, "restore", RestoreBody)

    async def _change(
        self, request: Request, organization: str, asset: str, operation: str, kind: type[Body]
    ) -> Response:
        asked = await self._asked(request, organization)
        self._check_ids(organization, asset)
        body = read_body(asked.body, kind)
        return await self._submit(request, _wanted(operation, organization, asset, asked, body))

    async def _asked(self, request: Request, organization: str) -> Asked:
        await admit(self._service, request, organization)
        return asked_by(request, await read_limited(request, self._service.settings.max_body_bytes))

    def _check_ids(self, organization: str, asset: str) -> None:
        ids.check_organization(organization)
        ids.check_asset(asset, "asset_id")

    async def _submit(self, request: Request, wanted: Wanted) -> Response:
        waits = flag(request, "wait")
        if waits:
            self._service.waiter.require_room()
        published = self._repeat_of(wanted)
        if published is None:
            published = await self._service.intake.publish(await self._event(wanted))
        if not waits:
            return self._accepted(published)
        return await self._settle(published, wanted.body)

    def _repeat_of(self, wanted: Wanted) -> Published | None:
        """The first event of the request's id, when the asset's record or this gateway remembers one."""
        if not wanted.repeatable:
            return None
        held = self._service.reader.asset(wanted.organization, wanted.asset)
        before = accepted_before(held, wanted.event_id)
        if before is not None:
            first, asked_first = self._published(wanted, before.at), before.request_hash
        elif sent := self._service.intake.repeat_of(wanted.event_id):
            first, asked_first = sent
        else:
            require_new(held, wanted.body, time.time_ns() // 1_000_000)
            return None
        if asked_first != wanted.request_hash:
            message = f"the Idempotency-Key was used with another request, at offset {first.position.offset}"
            raise Conflict(message, field="Idempotency-Key", code="idempotency_conflict")
        return first

    def _published(self, wanted: Wanted, at: LogPosition) -> Published:
        return Published(
            organization=wanted.organization,
            asset=wanted.asset,
            event_id=wanted.event_id,
            partition=self._service.intake.partition_of(ids.asset_key(wanted.organization, wanted.asset)),
            position=at,
        )

    async def _event(self, wanted: Wanted) -> AssetEvent:
        service, body = self._service, wanted.body
        held: AssetRecord | None = None
        if not isinstance(body, IngestBody):
            held = await service.known(wanted.organization, wanted.asset)
        to_version = len(held.versions) + 1 if held else 1
        if isinstance(body, RotateBody) and body.to_version is None:
            to_version = await service.next_version(wanted.organization, wanted.asset)
        if isinstance(body, IngestBody | PolicyBody):
            await check_assignment(service, wanted.organization, wanted.asset, body)
        return AssetEvent(
            organization=wanted.organization,
            asset=wanted.asset,
            event_id=wanted.event_id,
            request_hash=wanted.request_hash,
            event_time=event_time_of(body, time.time_ns() // 1_000_000),
            body=event_body_of(body, lambda: to_version),
        )

    async def _settle(self, published: Published, body: Body) -> Response:
        outcome = await self._service.outcome(published, self._service.settings.wait_s)
        match outcome:
            case Settled():
                return self._provisioned(published, outcome, body)
            case DeadLetter():
                return refused(outcome)
        return self._accepted(published)

    def _provisioned(self, published: Published, outcome: Settled, body: Body) -> Response:
        name = (published.organization, published.asset)
        with self._service.reader.at_once() as view:
            asset = view.asset(*name) or outcome.asset
            key_version = _version_of(body, asset)
            version = asset.versions[key_version - 1]
            keys = of_all_time(view, asset, version)
            stored = view.policy(published.organization, asset.policy_id)
        first = msgspec.structs.replace(published, position=outcome.at)
        if lacks_keys(version, keys):
            return self._accepted(first)
        answer = provisioned_answer(_accepted_answer(first), key_version, asset, keys, stored)
        return _json(201, answer, {"location": _location(published)})

    def _accepted(self, published: Published) -> Response:
        headers = {"location": _location(published), "retry-after": str(RETRY_AFTER_S)}
        return _json(202, _accepted_answer(published), headers)


def refused(letter: DeadLetter) -> Response:
    """The answer to an event that became a dead letter: why, and where the event stands."""
    return problem(
        409 if letter.reason in CONFLICTS else 422,
        letter.reason,
        letter.message,
        field=letter.field,
        event_id=letter.event_id,
        event={"topic": letter.topic, "partition": letter.partition, "offset": letter.offset},
    )


def _wanted(operation: str, organization: str, asset: str, asked: Asked, body: Body) -> Wanted:
    key = asked.idempotency_key
    return Wanted(
        organization=organization,
        asset=asset,
        event_id=f"e-{uuid.uuid4().hex}" if key is None else event_id_of(organization, asset, key),
        repeatable=key is not None,
        request_hash=request_hash(operation, organization, asset, body),
        body=body,
    )


def _version_of(body: Body, asset: AssetRecord) -> int:
    newest = len(asset.versions)
    named = getattr(body, "to_version", None) or getattr(body, "key_version", None) or newest
    return min(named, newest)


def _accepted_answer(published: Published) -> AcceptedAnswer:
    return AcceptedAnswer(
        event_id=published.event_id or "",
        topic=topics.ASSETS.name,
        partition=published.partition,
        offset=published.position.offset,
    )


def _location(published: Published) -> str:
    return f"/v1/organizations/{published.organization}/assets/{published.asset}"


def _json(status: int, value: Record, headers: dict[str, str] | None = None) -> Response:
    content = msgspec.json.encode(value)
    return Response(content, status, {"cache-control": "no-store"} | (headers or {}), "application/json")
