"""
Which topic ids the programs work with: read from and written to the status topic.

A topic that is deleted and created again has its old name and offsets that start over. Programs refuse it until
`keymill topics adopt` has counted one generation more, so that (generation, offset) still orders its events after
those of the lost topic (design 3, `applied`).
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from confluent_kafka import Consumer, KafkaError, TopicPartition

from keymill.errors import Misconfigured, Unavailable
from keymill.kafka.cluster import TopicState, end_offsets
from keymill.kafka.producer import Publisher
from schemas.codec import decode, encode
from schemas.records import TopicAdopted
from schemas.topics import KEYS, POLICIES, STATUS

PREFIX: Final = b"topic/"
"""Of the record keys of adoptions; the other records of the status topic are reports of programs."""
STALL_S: Final = 10.0
READ_AT_ONCE: Final = 10_000
WRITE_S: Final = 10.0

Ends = Mapping[str, Mapping[int, int]]
"""End offset by topic and partition."""


@dataclass(frozen=True, slots=True)
class Takeover:
    """One topic id that an adoption takes over."""

    before: TopicAdopted | None
    after: TopicAdopted


def load_adoptions(bootstrap: str) -> dict[str, TopicAdopted]:
    """
    Read every adoption, by topic name; of several for one name the highest generation counts.

    Raises:
        Unavailable: no broker answers, or reading makes no progress for 10 s.
        Misconfigured: there is no status topic.
        InvalidRecord: an adoption that no released schema can read.
    """
    found: dict[str, TopicAdopted] = {}
    for record_key, value in _records(bootstrap, end_offsets(bootstrap, STATUS.name)):
        if record_key.startswith(PREFIX):
            adopted = decode(value, TopicAdopted)
            known = found.get(adopted.topic)
            if known is None or adopted.generation >= known.generation:
                found[adopted.topic] = adopted
    return found


def record_adoptions(bootstrap: str, partitions: int, adoptions: Iterable[TopicAdopted]) -> None:
    """
    Write adoptions and wait until the broker has them.

    The status topic's own stands alone first: with it an interrupted creation is finished by the next one.

    Args:
        partitions: the status topic's.
    """
    ordered = sorted(adoptions, key=lambda each: each.topic != STATUS.name)
    publisher = Publisher(bootstrap, {STATUS.name: partitions}, delivery_timeout_s=WRITE_S)
    try:
        for group in (ordered[:1], ordered[1:]):
            sent = [publisher.send(STATUS.name, PREFIX + each.topic.encode(), encode(each)) for each in group]
            publisher.flush_all(sent)
    finally:
        publisher.close()


def first_adoptions(
    states: Mapping[str, TopicState], adoptions: Mapping[str, TopicAdopted], ends: Ends
) -> list[TopicAdopted]:
    """
    The topics that are taken over as generation 0 without being asked: new ones, nothing ever written.

    None at all when the status topic is new but something was folded before: its adoptions are lost, and a 0
    could place new events before old ones.
    """
    if not generations_known(states, adoptions, ends):
        return []
    empty = [name for name in states if name not in adoptions and not any(ends[name].values())]
    return [_adopted(states[name], 0) for name in empty]


def generations_known(states: Mapping[str, TopicState], adoptions: Mapping[str, TopicAdopted], ends: Ends) -> bool:
    """Whether a topic without an adoption never had one: the status topic is the adopted one, or nothing was folded."""
    status = adoptions.get(STATUS.name)
    if status and STATUS.name in states and status.topic_id == states[STATUS.name].topic_id:
        return True
    return not any(any(ends.get(topic.name, {}).values()) for topic in (KEYS, POLICIES))


def takeovers(
    states: Mapping[str, TopicState], adoptions: Mapping[str, TopicAdopted], *, known: bool, generation: int | None
) -> list[Takeover]:
    """
    What adopting *states* would record; topics that are as adopted are left out.

    Args:
        known: see `generations_known`.
        generation: for topics without an adoption, where the generations are not known.

    Raises:
        Misconfigured: partitions were added to a topic, or the generation is needed and not given.
    """
    plan = []
    for name, state in states.items():
        before = adoptions.get(name)
        if before and before.topic_id == state.topic_id:
            if before.partitions != state.partitions:
                raise Misconfigured(
                    f"{name} had {before.partitions} partitions and has {state.partitions}: its record keys belong "
                    "elsewhere now. This cannot be adopted; create the topic anew and replay into it"
                )
            continue
        if before is None and generation is None and not known:
            raise Misconfigured(
                f"{name}: its generations are lost with the former {STATUS.name}. Give --generation, one more than the "
                "highest that `keymill explain` shows for the records derived from it"
            )
        count = before.generation + 1 if before else generation or 0
        plan.append(Takeover(before=before, after=_adopted(state, count)))
    return plan


def _adopted(state: TopicState, generation: int) -> TopicAdopted:
    return TopicAdopted(
        topic=state.name,
        topic_id=state.topic_id,
        generation=generation,
        partitions=state.partitions,
        adopted=int(time.time() * 1000),
    )


def _records(bootstrap: str, ends: Mapping[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """Every record of the status topic up to *ends* at least; tombstones are left out."""
    unread = {partition for partition, end in ends.items() if end}
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "keymill-adoptions",  # librdkafka wants one; nothing joins or commits
            "enable.auto.commit": "false",
            "auto.offset.reset": "earliest",
            "enable.partition.eof": "true",  # compaction leaves holes, so the end is where the broker says it is
            "fetch.wait.max.ms": 10,
        }
    )
    try:
        # Offset 0 and not OFFSET_BEGINNING: looking that up costs librdkafka half a second at every start.
        consumer.assign([TopicPartition(STATUS.name, partition, 0) for partition in unread])
        deadline = time.monotonic() + STALL_S
        while unread:
            for message in consumer.consume(READ_AT_ONCE, 0.05):
                deadline = time.monotonic() + STALL_S
                error = message.error()
                if error is None:
                    if (value := message.value()) is not None:
                        yield message.key() or b"", value
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(message.partition() or 0)
                else:
                    raise Unavailable(f"reading {STATUS.name} at {bootstrap}: {error.str()}")
            if time.monotonic() > deadline:
                raise Unavailable(f"reading {STATUS.name} at {bootstrap} makes no progress for {STALL_S:.0f} s")
    finally:
        consumer.close()
