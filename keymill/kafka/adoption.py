"""
Which topic ids the programs work with: read from and written to the status topic.

A topic that is deleted and created again has its old name and offsets that start over. Programs refuse it until
`keymill topics adopt` has counted one generation more, so that (generation, offset) still orders its events after
those of the lost topic (design 3, `applied`).
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from keymill.errors import Misconfigured
from keymill.kafka.cluster import TopicState
from keymill.kafka.producer import Publisher
from keymill.kafka.status_topic import ADOPTED, read_status
from schemas.codec import encode
from schemas.records import TopicAdopted
from schemas.topics import KEYS, POLICIES, STATUS

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
    return dict(read_status(bootstrap).adoptions)


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
            sent = [publisher.send(STATUS.name, ADOPTED + each.topic.encode(), encode(each)) for each in group]
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
