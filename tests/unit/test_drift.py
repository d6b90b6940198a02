"""What of a topic's differences a command may set."""

from keymill.kafka.drift import Difference, settable
from schemas.topics import CATALOGUE, KEYS


def difference(what: str, topic: str = KEYS.name) -> Difference:
    """One that is not as it must be."""
    return Difference(topic=topic, what=what, expected="a", found="b", fatal=False)


def test_configs_are_settable_and_nothing_else() -> None:
    """Ids, counts and records are for people; so is a topic that is not ours."""
    others = [difference(what) for what in ("topic", "topic id", "partitions", "replication factor", "records")]
    foreign = difference("retention.ms", "somebody.else")
    for topic in CATALOGUE:
        mine = [difference(what, topic.name) for what in topic.all_configs(3)]
        assert mine and mine == settable([*others, *mine, foreign])
