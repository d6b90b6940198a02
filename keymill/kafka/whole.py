"""The tail of topics with all that stands beside a record: its time and its headers."""

from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import Message

from keymill.kafka.positions import Whole
from keymill.kafka.scan import headers_of
from keymill.kafka.tail import Tail


class WholeTail(Tail):
    """A `Tail` whose batches hold at most *most* records, each a `Whole`."""

    def __init__(self, client: Mapping[str, Any], topics: Sequence[str], *, most: int) -> None:
        super().__init__(client, topics)
        self._limit = most

    def records(self, timeout_s: float) -> list[Whole]:
        """See `Tail.poll`."""
        return [record for record in self.poll(timeout_s) if isinstance(record, Whole)]

    def _most(self, live: bool) -> int:
        return max(1, self._limit - 1)  # the one that ended the wait comes on top

    def _form(self, message: Message, topic: str, partition: int, offset: int) -> Whole:
        _, timestamp = message.timestamp()
        return Whole(topic, partition, offset, message.key(), message.value(), timestamp, headers_of(message))
