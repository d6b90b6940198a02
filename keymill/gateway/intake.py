"""The gateway's way into the asset log: one event, acknowledged, with its request id in the header."""

from collections import OrderedDict
from typing import Final

from keymill import telemetry
from keymill.gateway.waiting import Published
from keymill.kafka.producer import Outgoing, Publisher
from schemas import topics
from schemas.codec import encode
from schemas.events import AssetEvent
from schemas.ids import asset_key
from schemas.values import LogPosition

REMEMBERED: Final = 10_000
"""Assets whose last event, and events whose request, is remembered: about 10 MB."""


class Intake:
    """
    Publishes asset events, and remembers the last one of each asset.

    Args:
        partitions, generation: of the asset topic, as adopted.
    """

    def __init__(self, publisher: Publisher, *, partitions: int, generation: int) -> None:
        self._publisher = publisher
        self._partitions = partitions
        self._generation = generation
        self._last: OrderedDict[tuple[str, str], Published] = OrderedDict()
        self._by_id: OrderedDict[str, tuple[Published, bytes]] = OrderedDict()

    def partition_of(self, organization: str, asset: str) -> int:
        """The partition of an asset's events and records."""
        return topics.partition_of(topics.ASSETS, asset_key(organization, asset), self._partitions)

    def last(self, organization: str, asset: str) -> Published | None:
        """The last event of an asset that this gateway published, if it is among the remembered ones."""
        return self._last.get((organization, asset))

    def repeat_of(self, event_id: str) -> tuple[Published, bytes] | None:
        """The event of that id and its request's hash, while the view may not have it yet."""
        return self._by_id.get(event_id)

    async def publish(self, event: AssetEvent) -> Published:
        """
        Publish; returns when the broker has it.

        Raises:
            Unavailable: not acknowledged in time; it may be in the log all the same.
        """
        partition = self.partition_of(event.organization, event.asset)
        request_id = telemetry.request_id.get()
        outgoing = Outgoing(
            topic=topics.ASSETS.name,
            record_key=asset_key(event.organization, event.asset),
            value=encode(event),
            headers=((telemetry.REQUEST_ID_HEADER, request_id.encode("ascii")),) if request_id else (),
            partition=partition,
        )
        (offset,) = await self._publisher.publish([outgoing])
        telemetry.PUBLISHED.labels(topics.ASSETS.name).inc()
        published = Published(
            organization=event.organization,
            asset=event.asset,
            event_id=event.event_id,
            partition=partition,
            position=LogPosition(generation=self._generation, offset=offset),
        )
        self._remember(published, event.request_hash)
        return published

    def close(self, timeout_s: float) -> None:
        """Take no more events; blocks until what is under way is acknowledged or given up."""
        self._publisher.close(timeout_s)

    def _remember(self, published: Published, request_hash: bytes | None) -> None:
        name = (published.organization, published.asset)
        held = self._last.get(name)
        self._last[name] = published if held is None or held.position < published.position else held
        self._last.move_to_end(name)
        if published.event_id is not None and request_hash is not None:
            self._by_id.setdefault(published.event_id, (published, request_hash))
        for memory in (self._last, self._by_id):
            if len(memory) > REMEMBERED:
                memory.popitem(last=False)
