"""
Whether a topic that was read before has a successor: deleted, created again under its name, and adopted.

Only `keymill topics adopt` and the rebuild commands record such an adoption, so nobody's accident is taken for one.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from keymill.errors import Misconfigured
from keymill.kafka.adoption import load_adoptions
from keymill.kafka.cluster import TopicState, describe
from keymill.kafka.positions import Checkpoint
from schemas.records import TopicAdopted

FIRST_SUCCESSOR: Final = 1
"""Generation 0 is given without asking; what counts higher was taken over by somebody who meant it."""


def spelt(topic_id: str) -> str:
    """A topic id as Kafka's tools spell it; librdkafka, whose spelling views keep, has another base64 alphabet."""
    return topic_id.replace("+", "-").replace("/", "_")


class Succession(NamedTuple):
    """`replaced`: topics that are gone, or have another id than was read; `adopted`: the ids of those taken over."""

    replaced: frozenset[str]
    adopted: dict[str, str]

    def complete(self) -> bool:
        """Whether something was replaced, and all of it was taken over."""
        return bool(self.replaced) and self.replaced == self.adopted.keys()


def succession(bootstrap: str, known: Mapping[str, Checkpoint]) -> Succession:
    """
    Ask the brokers what became of the topics that *known* has read.

    Raises:
        Unavailable: they do not answer.
    """
    states = describe(bootstrap, known)
    replaced = frozenset(
        name
        for name, point in known.items()
        if name not in states or states[name].topic_id != spelt(point.topic.topic_id)
    )
    if not replaced or not replaced <= states.keys():
        return Succession(replaced, {})
    return Succession(replaced, taken_over(replaced, states, known, _adoptions(bootstrap)))


def taken_over(
    replaced: frozenset[str],
    states: Mapping[str, TopicState],
    known: Mapping[str, Checkpoint],
    adoptions: Mapping[str, TopicAdopted],
) -> dict[str, str]:
    """The ids of those topics that were adopted as they are now, with as many partitions as before."""
    found = {}
    for name in replaced:
        adopted, state = adoptions.get(name), states[name]
        if adopted is None or adopted.generation < FIRST_SUCCESSOR or adopted.topic_id != state.topic_id:
            continue
        if state.partitions == adopted.partitions == known[name].topic.partitions:
            found[name] = state.topic_id
    return found


def _adoptions(bootstrap: str) -> dict[str, TopicAdopted]:
    try:
        return load_adoptions(bootstrap)
    except Misconfigured:  # no topic of adoptions: none that counts
        return {}
