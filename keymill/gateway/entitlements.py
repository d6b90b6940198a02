"""
Entitlements over HTTP: who may play what until when, a record of the compacted topic each; its end is one more.

200 or 204 says that this gateway's own view has it, 202 that the broker does and the view is behind. Both calls may be
repeated: the last one holds.
"""

import time
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from keymill import telemetry
from keymill.core.bodies import Time, epoch_ms, read_json
from keymill.gateway import asking
from keymill.gateway.answers import rfc3339
from keymill.gateway.auth import admit
from keymill.gateway.policy_answers import EntitlementAnswer
from keymill.gateway.requests import read_limited
from keymill.gateway.service import Service
from keymill.kafka.producer import Outgoing
from schemas import topics
from schemas.access import Entitlement
from schemas.audit import EventPlace, What
from schemas.codec import encode
from schemas.ids import scoped_key

TOPIC: Final = topics.ENTITLEMENTS
ATTEMPTS: Final = 5
"""Gateways that change one entitlement in the same moment take turns; more of them than this are not waited for."""


class EntitlementBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Until when the user may play the product; for ever if absent."""

    valid_until: Time | None = None


class Entitlements:
    """Handlers over one `Service`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def put(self, request: Request, organization: str, user: str, product: str) -> Response:
        """PUT an entitlement."""
        await admit(self._service, request, organization)
        data = await read_limited(request, self._service.settings.max_body_bytes)
        until = epoch_ms(read_json(data or b"{}", EntitlementBody).valid_until, "valid_until")
        record = Entitlement(organization=organization, user=user, product=product, valid_until=until)
        answer = EntitlementAnswer(organization=organization, user=user, product=product, valid_until=rfc3339(until))
        seen = await self._publish(record)
        content = msgspec.json.encode(answer)
        return Response(content, 200 if seen else 202, {"cache-control": "no-store"}, "application/json")

    async def delete(self, request: Request, organization: str, user: str, product: str) -> Response:
        """DELETE an entitlement, whether there is one or not."""
        await admit(self._service, request, organization)
        record = Entitlement(organization=organization, user=user, product=product, deleted=True)
        return Response(status_code=204 if await self._publish(record) else 202)

    async def _publish(self, record: Entitlement) -> bool:
        """Publish it; tell whether the view holds it after the wait, as the broker does."""
        self._service.waiter.require_room()
        for _ in range(ATTEMPTS):
            written, seen = await self._write(record)
            if not seen or self._held(record) == written:
                break  # another gateway's change of the same moment has a higher sequence: this one follows it
        return seen

    def _held(self, record: Entitlement) -> Entitlement | None:
        with self._service.reader.at_once() as view:
            return view.entitlement_record(record.organization, record.user, record.product)

    async def _write(self, record: Entitlement) -> tuple[Entitlement, bool]:
        service, key = self._service, scoped_key(record.organization, record.user, record.product)
        held = self._held(record)
        sequence = max(held.sequence + 1 if held else 1, time.time_ns() // 1_000_000)
        written = msgspec.structs.replace(record, sequence=sequence)
        request_id = telemetry.request_id.get()
        headers = ((telemetry.REQUEST_ID_HEADER, request_id.encode("ascii")),) if request_id else ()
        outgoing = Outgoing(topic=TOPIC.name, record_key=key, value=encode(written), headers=headers)
        (offset,) = await service.publisher.publish([outgoing])
        telemetry.PUBLISHED.labels(TOPIC.name).inc()
        adopted = service.entitlements
        partition = topics.partition_of(TOPIC, key, adopted.partitions)
        place = EventPlace(topic=TOPIC.name, partition=partition, generation=adopted.generation, offset=offset)
        what, now_ms = What.WITHDRAWAL if record.deleted else What.ENTITLEMENT, time.time_ns() // 1_000_000
        service.audit.note(asking.published(what, record.organization, "", place, now_ms, user=record.user))

        def look() -> bool | None:
            with service.reader.at_once() as view:
                return view.positions().get(TOPIC.name, {}).get(partition, 0) > offset or None

        deadline = time.monotonic() + service.settings.wait_s
        return written, await service.waiter.until(look, deadline) is True
