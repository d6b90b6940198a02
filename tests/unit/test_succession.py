"""Which topics took the place of those that a view has read."""

import pytest

from keymill.kafka.cluster import TopicState
from keymill.kafka.positions import Checkpoint, Described, Slot
from keymill.kafka.succession import Succession, spelt, taken_over
from schemas import topics
from schemas.records import TopicAdopted

KEYS = topics.KEYS.name
KNOWN = {KEYS: Checkpoint(topic=Described(topic_id="a+b/c", partitions=2), slots={0: Slot(5), 1: Slot(7)})}


def state(topic_id: str, partitions: int = 2) -> TopicState:
    return TopicState(name=KEYS, topic_id=topic_id, partitions=partitions, replicas=1, configs={})


def adopted(topic_id: str, generation: int, partitions: int = 2) -> TopicAdopted:
    return TopicAdopted(topic=KEYS, topic_id=topic_id, generation=generation, partitions=partitions, adopted=1)


def test_an_id_has_one_spelling() -> None:
    """librdkafka's and Kafka's own are told to be the same."""
    assert "a-b_c" == spelt("a+b/c") == spelt("a-b_c")


def test_an_adopted_successor_is_taken_over() -> None:
    """By its id as it now is."""
    found = taken_over(frozenset({KEYS}), {KEYS: state("new")}, KNOWN, {KEYS: adopted("new", 1)})
    assert {KEYS: "new"} == found
    assert Succession(frozenset({KEYS}), found).complete()


@pytest.mark.parametrize(
    ("there", "told"),
    [
        (state("new"), None),
        (state("new"), adopted("new", 0)),
        (state("newer"), adopted("new", 1)),
        (state("new", 3), adopted("new", 1, 3)),
        (state("new", 3), adopted("new", 1)),
    ],
    ids=["not adopted", "a first generation", "replaced once more", "other partitions", "partitions added since"],
)
def test_nothing_else_is_taken_over(there: TopicState, told: TopicAdopted | None) -> None:
    """What nobody meant, or what would move record keys, keeps the view waiting."""
    found = taken_over(frozenset({KEYS}), {KEYS: there}, KNOWN, {KEYS: told} if told else {})
    assert {} == found
    assert not Succession(frozenset({KEYS}), found).complete()


def test_nothing_replaced_is_no_succession() -> None:
    """The trouble is another one."""
    assert not Succession(frozenset(), {}).complete()
