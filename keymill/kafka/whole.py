"""The tail of topics with all that stands beside a record: its time and its headers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from confluent_kafka import Message

from keymill.kafka.positions import Checkpoint, Whole
from keymill.kafka.scan import headers_of
from keymill.kafka.succession import spelt
from keymill.kafka.tail import Tail


class WholeTail(Tail):
    """
    A `Tail` whose batches hold at most *most* records, each a `Whole`.

    Its topic ids are spelt as adoptions spell them; librdkafka has another base64 alphabet.
    """

    def __init__(self, client: Mapping[str, Any], topics: Sequence[str], *, most: int) -> None:
        super().__init__(client, topics)
        self._limit = most

    def start(self, known: Mapping[str, Checkpoint]) -> dict[str, Checkpoint]:
        """See `Tail`."""
        theirs = {name: _with_id(each, lambda i: i.replace("-", "+").replace("_", "/")) for name, each in known.items()}
        return {name: _with_id(each, spelt) for name, each in super().start(theirs).items()}

    def records(self, timeout_s: float) -> list[Whole]:
        """See `Tail.poll`."""
        return [record for record in self.poll(timeout_s) if isinstance(record, Whole)]

    def _most(self, live: bool) -> int:
        return max(1, self._limit - 1)  # the one that ended the wait comes on top

    def _form(self, message: Message, topic: str, partition: int, offset: int) -> Whole:
        _, timestamp = message.timestamp()
        key, value, headers = message.key(), message.value(), headers_of(message)
        return Whole(topic, partition, offset, key, value, timestamp=timestamp, headers=headers)


def _with_id(place: Checkpoint, spell: Callable[[str], str]) -> Checkpoint:
    topic = msgspec.structs.replace(place.topic, topic_id=spell(place.topic.topic_id))
    return msgspec.structs.replace(place, topic=topic)
