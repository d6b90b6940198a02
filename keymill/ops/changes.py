"""
What a command that writes does with each record it has decided on: count it for the plan, or send it.

Both are a `Changes`, so the plan is made by the very code that applies; only `--apply` tells which one it gets.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from keymill.kafka.producer import Delivery, Outgoing, Publisher

BATCH: Final = 500
"""Records handed over at once."""
UNDER_WAY: Final = 8
"""Batches that may wait for their acknowledgement: bounds memory, and what a kill repeats."""


class Changes(Protocol):
    """Where decided records go, in their order within a partition."""

    def make(self, record: Outgoing, why: str) -> None:
        """Take one record; *why* is a short fixed phrase that the plan counts by."""
        ...

    def finish(self) -> None:
        """Everything was taken; returns when it is done for good."""
        ...


class Plan:
    """A `Changes` that only counts, by topic and reason."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def make(self, record: Outgoing, why: str) -> None:
        """See `Changes`."""
        self.counts[record.topic, why] += 1

    def finish(self) -> None:
        """See `Changes`."""


class Application(Plan):
    """
    A `Changes` that publishes, and returns from `finish` when every record is acknowledged.

    Args:
        rate: records per second at most; None for as fast as the brokers take them.
    """

    def __init__(self, publisher: Publisher, *, rate: float | None = None) -> None:
        super().__init__()
        self._publisher = publisher
        self._rate = rate
        self._batch: list[Outgoing] = []
        self._waiting: list[Delivery] = []
        self._due = time.monotonic()

    def make(self, record: Outgoing, why: str) -> None:
        """See `Changes`. Raises what `Publisher.publish` raises, for a record of an earlier batch too."""
        super().make(record, why)
        self._batch.append(record)
        if len(self._batch) >= self._size():
            self._send()

    def finish(self) -> None:
        """See `Changes`."""
        self._send()
        self._publisher.flush_all(self._waiting)
        self._waiting.clear()

    def _size(self) -> int:
        """A bounded rate goes out in tenths of a second."""
        return BATCH if self._rate is None else max(1, min(BATCH, int(self._rate / 10)))

    def _send(self) -> None:
        if not self._batch:
            return
        if self._rate is not None:
            time.sleep(max(0.0, self._due - time.monotonic()))
            self._due = max(self._due, time.monotonic()) + len(self._batch) / self._rate
        self._waiting.append(self._publisher.send_batch(self._batch))
        self._batch = []
        if len(self._waiting) > UNDER_WAY:
            self._publisher.flush_all([self._waiting.pop(0)])


@contextmanager
def application(bootstrap: str, partitions: dict[str, int], *, rate: float | None = None) -> Iterator[Application]:
    """An `Application` with a publisher of its own. *partitions*: by topic, from `require_topics`."""
    publisher = Publisher(bootstrap, partitions)
    try:
        yield Application(publisher, rate=rate)
    finally:
        publisher.close()
