"""A source's records read again by offset: near ones with one fetch, far ones without what lies between."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Final

from confluent_kafka import Message

from keymill.errors import Corrupt
from keymill.kafka.admin import end_offsets
from keymill.kafka.scan import headers_of, scan_partition
from streams.runs import RawRecord

NEAR: Final = 20_000
"""Records that are read and dropped rather than skipped: about 50 ms, as much as another consumer costs."""


def read_events(bootstrap: str, topic: str, partition: int, offsets: Sequence[int]) -> dict[int, RawRecord]:
    """Those of *offsets* (ascending) of a partition of a topic that exist, by offset."""
    end = end_offsets(bootstrap, topic)[partition]
    found: dict[int, RawRecord] = {}
    for near in clusters([offset for offset in offsets if offset < end]):
        inside = set(near)
        with suppress(Corrupt):  # the log begins later: whoever names what is gone is told that it is missing
            for message in scan_partition(bootstrap, topic, partition, start=near[0], end=near[-1] + 1):
                if message.offset() in inside:
                    found[message.offset() or 0] = raw_record(message)
    return found


def clusters(offsets: Sequence[int], near: int = NEAR) -> Iterator[list[int]]:
    """*offsets*, ascending, cut where two neighbours are further apart than *near*."""
    cuts = [0, *(index for index, (a, b) in enumerate(pairwise(offsets), 1) if b - a > near), len(offsets)]
    return (list(offsets[a:b]) for a, b in pairwise(cuts) if b > a)


def raw_record(message: Message) -> RawRecord:
    """A scanned record as agents see it."""
    kind, timestamp = message.timestamp()
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    if topic is None or partition is None or offset is None:
        raise TypeError("a record that was never sent")
    return RawRecord(topic, partition, offset, timestamp, kind, message.key(), message.value(), headers_of(message))
