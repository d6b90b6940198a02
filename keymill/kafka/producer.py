"""
The one way records are written: idempotent, acknowledged by all in-sync replicas, on an explicit partition.

    publisher = Publisher(bootstrap, {name: topic.partitions for name, topic in adopted.items()})
    offsets = await publisher.publish(records)

A batch keeps its records' order within each partition. After any failure the producer behind it is dropped with all
that it still holds, and the next batch gets a new one: what came after a lost record must not be written by itself,
and the broker never sees a retry from before (research/streaming-reliability.md 2.4).
"""

import asyncio
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from keymill.errors import Corrupt, Misconfigured, NotReady, Unavailable
from keymill.kafka.authentication import WrittenHeaders, with_authenticator
from keymill.kafka.delivery import Delivery
from keymill.kafka.outgoing import Headers, Outgoing, place
from keymill.kafka.session import Session
from schemas.topics import CATALOGUE

__all__ = ["Delivery", "Outgoing", "Publisher"]

DELIVERY_TIMEOUT_S: Final = 30.0
"""Below the processors' session timeout (45 s): a worker that lost its partitions has nothing under way any more."""
LINGER_MS: Final = 1
"""What a lone record waits for company; it is on the way from intake to license twice."""
BATCH_BYTES: Final = min(topic.max_message_bytes for topic in CATALOGUE)
"""The broker compares a whole batch with its topic's max.message.bytes; a larger single record travels alone."""
MESSAGE_BYTES: Final = max(topic.max_message_bytes for topic in CATALOGUE) + 4096
"""librdkafka's own limit, never the narrowest: `outgoing.place` applies the topic's."""
QUEUE_RECORDS: Final = 200_000
QUEUE_KIB: Final = 262_144
"""Bounds of what waits in memory; beyond them publishing slows down."""
QUEUE_FULL_PAUSE_S: Final = 0.005
SLICE: Final = 500
"""Records authenticated, or handed over, between two looks at the event loop: about 5 ms."""
GRACE_S: Final = 5.0
"""Beyond the delivery timeout nothing can be outstanding; then the client itself is broken."""


class Publisher:
    """
    Publishes records; any thread and any event loop of one process may share it.

    Args:
        partitions: partition count by topic, from `require_topics`.
        delivery_timeout_s: after this a record that is not acknowledged has failed; below the group's session timeout.
        compression: wrapped keys do not compress; worth it for large asset events.
        client: further librdkafka properties, such as those of TLS and SASL.
    """

    def __init__(
        self, bootstrap: str, partitions: Mapping[str, int], *, delivery_timeout_s: float = DELIVERY_TIMEOUT_S,
        linger_ms: float = LINGER_MS, compression: str = "none", client: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._partitions = dict(partitions)
        self._patience_s = delivery_timeout_s + GRACE_S
        self._settings: dict[str, str | int | float] = {
            **(client or {}),
            "bootstrap.servers": bootstrap,
            "enable.idempotence": "true",
            "acks": "all",
            "delivery.timeout.ms": int(delivery_timeout_s * 1000),
            "linger.ms": linger_ms,
            "compression.type": compression,
            "batch.size": BATCH_BYTES,
            "message.max.bytes": MESSAGE_BYTES,
            "queue.buffering.max.messages": QUEUE_RECORDS,
            "queue.buffering.max.kbytes": QUEUE_KIB,
        }
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._closed = False

    def start(self) -> None:
        """Connect now; otherwise the first batch does, and waits half a second for its producer id."""
        self._current()

    async def publish(self, records: Sequence[Outgoing]) -> list[int]:
        """
        Publish a batch; returns the offsets, in the records' order, when every record is acknowledged.

        After an error any part of the batch may have been written; publishing it again is always right. Cancelled,
        it stops handing over and leaves what was handed over to the broker.

        Raises:
            Unavailable: not acknowledged within the delivery timeout.
            NotReady: the publisher is closed.
            InvalidRecord: a record is too large, before anything was sent; or the broker refuses one.
            Misconfigured: a topic, its limits or this program's rights are not what they must be.
            Corrupt: idempotence is lost; the program must end.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        delivery = Delivery(records, partial(_wake, loop, future))
        for pause_s in self._hand_over(delivery):
            await asyncio.sleep(pause_s)
        try:
            await asyncio.wait_for(future, self._patience_s)
        except TimeoutError:
            raise self._stuck() from None
        return delivery.result()

    def send(
        self, topic: str, record_key: bytes, value: bytes | None, headers: Headers = (), partition: int | None = None
    ) -> Delivery:
        """Hand over one record; `flush_all` waits for it. Raises what `publish` raises before sending."""
        record = Outgoing(topic=topic, record_key=record_key, value=value, headers=headers, partition=partition)
        return self.send_batch([record])

    def send_batch(self, records: Sequence[Outgoing]) -> Delivery:
        """Hand over a batch, blocking while the queue is full."""
        delivery = Delivery(records)
        for pause_s in self._hand_over(delivery):
            if pause_s:
                time.sleep(pause_s)
        return delivery

    def flush_all(self, deliveries: Iterable[Delivery]) -> None:
        """Wait until every record is acknowledged; raises the first batch's failure, when all have ended."""
        waiting = list(deliveries)
        deadline = time.monotonic() + self._patience_s
        if not all(delivery.wait(max(0.0, deadline - time.monotonic())) for delivery in waiting):
            raise self._stuck()
        for delivery in waiting:
            delivery.result()

    def abandon(self) -> None:
        """Drop what is not acknowledged; whoever waits for it gets `Unavailable`."""
        with self._lock:
            if self._session:
                self._session.drop()

    def close(self, timeout_s: float = 0.0) -> None:
        """Take no more, give what is under way *timeout_s*, abandon the rest. Repeatable; blocks for as long."""
        with self._lock:
            self._closed = True
            session, self._session = self._session, None
        if session:
            session.end(timeout_s)

    def _hand_over(self, delivery: Delivery) -> Iterator[float]:
        """Give the records to the client; yields seconds to pause for, 0 now and then so that others may run."""
        records = delivery.records
        sent, size = 0, len(records)
        placed: list[tuple[int, WrittenHeaders | None]] = []
        for start in range(0, size, SLICE):  # the whole batch first: nothing is sent if one record is refused
            part = records[start : start + SLICE]
            placed += [(place(record, self._partitions), with_authenticator(record)) for record in part]
            if len(placed) < size:
                yield 0.0
        session = self._current()
        deadline = time.monotonic() + self._patience_s
        try:
            while sent < size:
                stop = min(sent + SLICE, size)
                sent = session.produce(delivery, placed, sent, stop)
                if sent < stop and time.monotonic() > deadline:
                    raise Unavailable("the publisher's queue does not drain: publish again")
                if sent < size:
                    yield 0.0 if sent == stop else QUEUE_FULL_PAUSE_S
        except Unavailable as failure:
            session.drop()
            delivery.doom(failure)
        finally:
            delivery.sent(sent)

    def _current(self) -> Session:
        with self._lock:
            if self._closed:
                raise NotReady("the publisher is closed: the program is stopping")
            if self._session and self._session.pid != os.getpid():
                raise Misconfigured("the publisher was used before a fork: make one in the child")
            if self._session and self._session.fatal:
                raise Corrupt(f"the idempotent producer has failed for good: {self._session.trouble}")
            if self._session is None or self._session.dropped:
                self._session = Session(self._settings)
            return self._session

    def _stuck(self) -> Unavailable:
        self.abandon()
        return Unavailable(f"no answer from the Kafka client within {self._patience_s:.0f} s: publish it again")


def _wake(loop: asyncio.AbstractEventLoop, future: "asyncio.Future[None]") -> None:
    with suppress(RuntimeError):  # the loop is closed, so nobody waits
        loop.call_soon_threadsafe(_resolve, future)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
