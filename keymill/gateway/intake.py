"""The gateway's ways into the logs: one event, acknowledged, with its request id in the header."""

import time
from collections import OrderedDict
from typing import Final

from keymill import telemetry
from keymill.gateway import asking
from keymill.gateway.waiting import Published
from keymill.kafka.producer import Outgoing, Publisher
from keymill.trail.recorder import Recorder
from schemas import topics
from schemas.audit import EventPlace, What
from schemas.codec import encode
from schemas.events import AssetEvent, PolicyChange
from schemas.ids import asset_key
from schemas.topics import Topic
from schemas.values import LogPosition

REMEMBERED: Final = 10_000
"""Assets whose last event, and events whose request, is remembered: about 10 MB."""
Event = AssetEvent | PolicyChange


class Intake:
    """
    Publishes asset events or policy changes, and remembers the last one of each asset or organization.

    Args:
        topic: which of the two logs.
        partitions, generation: of the topic, as adopted.
        audit: who said each event is noted there.
    """

    def __init__(
        self, publisher: Publisher, *, topic: Topic, partitions: int, generation: int, audit: Recorder
    ) -> None:
        self._publisher = publisher
        self._audit = audit
        self._topic = topic
        self._partitions = partitions
        self._generation = generation
        self._last: OrderedDict[tuple[str, str], Published] = OrderedDict()
        self._by_id: OrderedDict[str, tuple[Published, bytes]] = OrderedDict()

    def partition_of(self, record_key: bytes) -> int:
        """The partition of the events with that record key."""
        return topics.partition_of(self._topic, record_key, self._partitions)

    def last(self, organization: str, asset: str = "") -> Published | None:
        """The last event of an asset, or change of an organization, that this gateway published and remembers."""
        return self._last.get((organization, asset))

    def repeat_of(self, event_id: str) -> tuple[Published, bytes] | None:
        """The event of that id and its request's hash, while the view may not have it yet."""
        return self._by_id.get(event_id)

    async def publish(self, event: Event) -> Published:
        """
        Publish; returns when the broker has it.

        Raises:
            Unavailable: not acknowledged in time; it may be in the log all the same.
        """
        record_key, asset, event_id = _named(event)
        partition = self.partition_of(record_key)
        request_id = telemetry.request_id.get()
        outgoing = Outgoing(
            topic=self._topic.name,
            record_key=record_key,
            value=encode(event),
            headers=((telemetry.REQUEST_ID_HEADER, request_id.encode("ascii")),) if request_id else (),
            partition=partition,
        )
        (offset,) = await self._publisher.publish([outgoing])
        telemetry.PUBLISHED.labels(self._topic.name).inc()
        published = Published(
            organization=event.organization,
            asset=asset,
            event_id=event_id,
            topic=self._topic.name,
            partition=partition,
            position=LogPosition(generation=self._generation, offset=offset),
        )
        self._remember(published, event.request_hash)
        self._note(published)
        return published

    def close(self, timeout_s: float) -> None:
        """Take no more events; blocks until what is under way is acknowledged or given up."""
        self._publisher.close(timeout_s)

    def _note(self, event: Published) -> None:
        place = EventPlace(
            topic=event.topic, partition=event.partition, generation=self._generation, offset=event.position.offset
        )
        what = What.ASSET_EVENT if event.asset else What.POLICY_CHANGE
        now_ms = time.time_ns() // 1_000_000
        self._audit.note(asking.published(what, event.organization, event.asset, place, now_ms))

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


def _named(event: Event) -> tuple[bytes, str, str | None]:
    """Record key, asset and event or request id."""
    if isinstance(event, AssetEvent):
        return asset_key(event.organization, event.asset), event.asset, event.event_id
    return event.organization.encode("ascii"), "", event.request_id
