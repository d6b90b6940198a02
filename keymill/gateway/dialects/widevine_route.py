"""
The packager door: POST /widevine/{organization}.

    1. wait until the gateway is ready: a packager takes any HTTP error for the end, and does not come again
    2. verify the signature over the exact bytes with the organization's signer
    3. read what is asked for; refuse an unknown policy, a revoked asset
    4. all keys are in the view and no other policy is named: answer from there, without an event
    5. else publish the event, and wait until the view holds its keys or its dead letter
    6. unwrap, build the PSSH, answer

Every refusal has a status that the packager knows, and no tracks.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from keymill import telemetry
from keymill.core.assignment import check_tracks
from keymill.core.credentials import ORGANIZATION_ID, SIGNER_IV_SIZE, SIGNER_KEY_SIZE, signer_identity
from keymill.core.envelope import unwrap_keys, unwrap_secret
from keymill.core.licensable import period_key
from keymill.errors import InvalidRecord, NotReady, Reject, Retry, Unavailable
from keymill.gateway import asking
from keymill.gateway.assignment import policy_to_assign
from keymill.gateway.dialects import widevine
from keymill.gateway.dialects.widevine import Asked, PackagedTrack, Refusal, Status
from keymill.gateway.intake import Intake
from keymill.gateway.key_reads import of_all_time
from keymill.gateway.requests import read_limited
from keymill.gateway.service import Service
from keymill.gateway.waiting import Published, settled
from keymill.http.health import Readiness
from keymill.secret import Secret
from keymill.snapshot.reads import Reads
from keymill.trail.line import GRANTED, name_of
from schemas import topics
from schemas.access import WidevineSigner
from schemas.events import AssetEvent, AssetIngested, TrackWish
from schemas.records import AssetRecord, AssetState, DeadLetter, KeyRecord, KeyVersion

REPUBLISH_S: Final = 0.5
"""Pause before an event is published again that the broker did not acknowledge."""
_NOBODY: Final = Secret(bytes(SIGNER_KEY_SIZE + SIGNER_IV_SIZE))
"""An unknown signer's signature is computed too, so that the answer takes as long."""

log = telemetry.logger("gateway.widevine")


class Found(NamedTuple):
    """A track that was asked for, in its key record."""

    label: str
    record: KeyRecord
    at: int


class WidevineDoor:
    """The route's handler over one `Service`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request, organization: str) -> Response:
        """POST a signed key request."""
        service = self._service
        envelope = widevine.read_envelope(await read_limited(request, service.settings.max_body_bytes))
        deadline = time.monotonic() + service.settings.packager_wait_s
        asked: Asked | None = None
        try:
            await self._wait_ready(deadline)
            self._verify(organization, envelope)
            asked = widevine.read_inner(envelope.request)
            found, already_used = await self._find(organization, asked, deadline)
            body = widevine.answer(asked, self._unwrapped(found), already_used=already_used)
            self._note(organization, asked.asset, found, GRANTED)
        except Refusal as refusal:
            self._note(organization, asked.asset if asked else "", [], refusal.status.lower())
            log.warning(
                "packager refused", organization=name_of(organization), status=refusal.status, reason=str(refusal)
            )
            body = widevine.refusal(refusal.status)
        return Response(body, 200, {"cache-control": "no-store"}, "application/json")

    def _note(self, organization: str, asset: str, found: Sequence[Found], reason: str) -> None:
        kids = tuple(dict.fromkeys(each.record.tracks[each.at].kid for each in found))
        versions = tuple(sorted({each.record.key_version for each in found}))
        now_ms = time.time_ns() // 1_000_000
        self._service.audit.note(asking.delivered(organization, asset, kids, versions, reason, now_ms))

    async def _wait_ready(self, deadline: float) -> None:
        readiness = self._service.readiness
        if await self._service.waiter.until(lambda: readiness.reason() is None or None, deadline) is None:
            raise Refusal(Status.INTERNAL_ERROR, f"not ready: {readiness.reason()}")

    def _verify(self, organization: str, envelope: widevine.Envelope) -> None:
        with self._service.reader.at_once() as view:
            itself = view.credential(organization, ORGANIZATION_ID)
            signer = view.credential(organization, envelope.signer)
        secret = _NOBODY
        if signer is not None and isinstance(signer.body, WidevineSigner) and not signer.revoked:
            kek = self._service.keyring.kek(organization, signer.body.kek_epoch)
            secret = unwrap_secret(kek, signer.body.wrapped, *signer_identity(organization, signer.credential))
        signed = widevine.is_signed(envelope, secret)
        if signer is None and not self._service.reader.state().live:
            raise Refusal(Status.INTERNAL_ERROR, "not ready: the view is behind, so a signer that it lacks may exist")
        if not signed or secret is _NOBODY:
            raise Refusal(Status.SIGNATURE_FAILED, "unknown signer, or its signature does not cover the request")
        asking.caller.set(envelope.signer)
        if itself is not None and itself.revoked:
            raise Refusal(Status.ACCESS_DENIED, "the organization is revoked")

    async def _find(self, organization: str, asked: Asked, deadline: float) -> tuple[list[Found], bool]:
        asset, found = self._held(organization, asked)
        await self._check_policy(organization, asked, asset)
        if asset is not None and found and asked.policy_id in (None, asset.policy_id):
            return found, True
        event, service = _event(organization, asked), self._service
        try:
            service.waiter.require_room()
        except NotReady as error:
            raise Refusal(Status.INTERNAL_ERROR, f"not ready: {error}") from None
        published = await publish_until(deadline, event, service.intake, service.readiness)
        outcome: DeadLetter | list[Found] | None = await self._service.waiter.until(
            lambda: self._outcome(published, asked), deadline
        )
        if outcome is None:
            raise Refusal(
                Status.INTERNAL_ERROR, f"the event at offset {published.position.offset} is not processed yet"
            )
        if isinstance(outcome, DeadLetter):
            raise Refusal(Status.INVALID_ARGUMENT, f"the event became a dead letter: {outcome.message}")
        return outcome, False

    def _outcome(self, published: Published, asked: Asked) -> DeadLetter | list[Found] | None:
        place = (topics.ASSETS.name, published.partition, published.position.offset)
        if letter := self._service.letters.find(*place):
            return letter
        asset, found = self._held(published.organization, asked)
        return found if settled(published, asset) and found else None

    def _held(self, organization: str, asked: Asked) -> tuple[AssetRecord | None, list[Found]]:
        """The asset, and all that was asked for if the view has all of it."""
        with self._service.reader.at_once() as view:
            asset = view.asset(organization, asked.asset)
            if asset is None:
                return None, []
            if asset.state is AssetState.REVOKED:
                raise Refusal(Status.ACCESS_DENIED, f"asset {asked.asset} is revoked")
            version = asset.versions[-1]
            if asked.periods is None:
                return asset, _complete(of_all_time(view, asset, version), asked)
            indexes = range(asked.periods.first_index, asked.periods.first_index + asked.periods.count)
            if version.live is None or version.live.period_s != asked.periods.period_s:
                return asset, []
            periods = [_complete(_of_period(view, asset, version, index), asked) for index in indexes]
            return asset, [each for period in periods for each in period] if all(periods) else []

    async def _check_policy(self, organization: str, asked: Asked, asset: AssetRecord | None) -> None:
        if asked.policy_id is None or (asset is not None and asked.policy_id == asset.policy_id):
            return
        try:
            policy = await policy_to_assign(self._service, organization, asked.policy_id)
            check_tracks(asked.policy_id, policy, asset, asked.labels)
        except InvalidRecord as error:
            raise Refusal(Status.INVALID_ARGUMENT, str(error)) from None
        except Reject as error:
            raise Refusal(Status.POLICY_UNKNOWN, str(error)) from None
        except Retry as error:
            raise Refusal(Status.INTERNAL_ERROR, str(error)) from None

    def _unwrapped(self, found: Sequence[Found]) -> list[PackagedTrack]:
        keyring = self._service.keyring
        opened = {}
        for _, record, _ in found:
            if id(record) not in opened:
                kek = keyring.kek(record.organization, record.kek_epoch)
                opened[id(record)] = unwrap_keys(kek, keyring.k_fp(record.organization), record)
        return [
            PackagedTrack(
                label=each.label,
                key=each.record.tracks[each.at],
                clear=opened[id(each.record)][each.at],
                period_index=each.record.period.index if each.record.period else None,
            )
            for each in found
        ]


def _event(organization: str, asked: Asked) -> AssetEvent:
    """
    The event that a packager's request is.

    It has no event id: it says nothing that saying twice would change, and a live packager would push the ids of
    others out of the asset's record.
    """
    wishes = tuple(TrackWish(label=label, scheme=asked.scheme) for label in asked.labels)
    body = AssetIngested(tracks=wishes, policy_id=asked.policy_id, periods=asked.periods)
    now_ms = time.time_ns() // 1_000_000
    return AssetEvent(organization=organization, asset=asked.asset, event_time=now_ms, body=body)


def _of_period(view: Reads, asset: AssetRecord, version: KeyVersion, index: int) -> list[KeyRecord]:
    record = view.key_record(period_key(asset, version, index))
    return [record] if record else []


def _complete(records: Sequence[KeyRecord], asked: Asked) -> list[Found]:
    """The tracks asked for, in the order asked; empty when one is missing."""
    by_track = {
        (track.label, track.scheme): (record, index) for record in records for index, track in enumerate(record.tracks)
    }
    found = [
        Found(label, *by_track[label, asked.scheme]) for label in asked.labels if (label, asked.scheme) in by_track
    ]
    return found if len(found) == len(asked.labels) else []


async def publish_until(deadline: float, event: AssetEvent, intake: Intake, readiness: Readiness) -> Published:
    """
    Publish an event, again and again while the brokers do not answer, until *deadline* (`time.monotonic`).

    Raises:
        Refusal: not acknowledged by then, or the gateway stops. It may be in the log all the same.
    """
    while True:
        try:
            return await asyncio.wait_for(intake.publish(event), max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise Refusal(Status.INTERNAL_ERROR, "the brokers did not acknowledge the event in time") from None
        except Unavailable as error:
            await asyncio.sleep(min(REPUBLISH_S, max(0.0, deadline - time.monotonic())))
            if readiness.stopping:
                raise Refusal(Status.INTERNAL_ERROR, str(error)) from None
