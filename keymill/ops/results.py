"""An event published from the command line, and what the processor makes of it."""

import time
from collections.abc import Callable
from contextlib import closing
from typing import Final, TypeVar

from confluent_kafka import Message

from keymill.errors import InvalidRecord, Reject, Unavailable
from keymill.kafka.admin import end_offsets, require_topics
from keymill.kafka.producer import Publisher
from keymill.kafka.scan import scan_partition
from schemas import topics
from schemas.codec import decode, encode
from schemas.events import AssetEvent, PolicyChange
from schemas.records import DeadLetter
from schemas.topics import Topic
from schemas.values import LogPosition, Record

R = TypeVar("R", bound=Record)

WAIT_S: Final = 30.0
"""A processor that runs answers within a second; one that starts again, within this."""
POLL_S: Final = 0.1


def result_of(
    bootstrap: str,
    event: AssetEvent | PolicyChange,
    *,
    on: tuple[Topic, bytes],
    result: tuple[Topic, bytes],
    look: Callable[[Message, LogPosition], R | None],
    wait_s: float,
) -> R:
    """
    Publish *event*; what *look* makes of the first message that it takes, given the event's place too.

    Args:
        on: topic and record key of the event.
        result: topic, and a record key that stands on the partition where the result will.

    Raises:
        Reject: the event became a dead letter; the code is its reason.
        Unavailable: no result in time; the event stays in the log.
    """
    adopted = require_topics(bootstrap, [on[0].name, result[0].name, topics.DEAD_LETTERS.name])
    source, target = (
        topics.partition_of(topic, record_key, adopted[topic.name].partitions) for topic, record_key in (on, result)
    )
    places = {result[0].name: target, topics.DEAD_LETTERS.name: source}
    starts = {topic: end_offsets(bootstrap, topic)[partition] for topic, partition in places.items()}
    with closing(Publisher(bootstrap, {name: topic.partitions for name, topic in adopted.items()})) as publisher:
        delivery = publisher.send(on[0].name, on[1], encode(event))
        publisher.flush_all([delivery])
    at = LogPosition(generation=adopted[on[0].name].generation, offset=delivery.result()[0])
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        ends = {topic: end_offsets(bootstrap, topic)[partition] for topic, partition in places.items()}
        for topic, partition in reversed(places.items()):  # a dead letter is there before what came after its event
            for message in scan_partition(bootstrap, topic, partition, start=starts[topic], end=ends[topic]):
                if topic == topics.DEAD_LETTERS.name:
                    _raise_refusal(message, on[0].name, at)
                elif (found := look(message, at)) is not None:
                    return found
        starts = ends
        time.sleep(POLL_S)
    where = f"{on[0].name}-{source} at offset {at.offset}"
    raise Unavailable(f"{where} is not processed after {wait_s:.0f} s: does a processor run?")


def _raise_refusal(message: Message, topic: str, at: LogPosition) -> None:
    try:
        letter = decode(message.value() or b"", DeadLetter)
    except InvalidRecord:
        return
    if letter.topic == topic and (letter.generation, letter.offset) == (at.generation, at.offset):
        raise Reject(letter.message, field=letter.field, code=letter.reason)
