"""What an audit reads on: from where it was read to, of the same topics, and again what could not be read."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pytest

from keymill.errors import Unavailable
from keymill.ops.audit_logs import NAMES, Ends, Logs
from schemas import topics
from schemas.codec import encode
from schemas.records import DeadLetter, TopicAdopted

ASSETS, KEYS = topics.ASSETS.name, topics.KEYS.name
CHANGES, LETTERS = topics.POLICY_CHANGES.name, topics.DEAD_LETTERS.name
ADOPTED = {
    name: TopicAdopted(topic=name, topic_id=f"id-{name}", generation=1, partitions=2, adopted=0) for name in NAMES
}
IDS = {name: f"id-{name}" for name in NAMES}


class Record(NamedTuple):
    """As a client hands it out."""

    where: tuple[str, int, int]
    content: bytes

    def key(self) -> bytes:
        return b"demo/bbb"

    def value(self) -> bytes:
        return self.content

    def topic(self) -> str:
        return self.where[0]

    def partition(self) -> int:
        return self.where[1]

    def offset(self) -> int:
        return self.where[2]

    def timestamp(self) -> tuple[int, int]:
        return 1, 0

    def headers(self) -> None:
        return None


class Topics:
    """A `Scanner` over topics whose every offset has a record."""

    def __init__(self) -> None:
        self.away: set[str] = set()
        self.values: dict[tuple[str, int, int], bytes] = {}

    def read(self, topic: str, partition: int, *, start: int | None = None, end: int) -> Iterator[Record]:
        for offset in range(start or 0, end):
            if topic in self.away:
                raise Unavailable("no broker")
            yield Record((topic, partition, offset), self.values.get((topic, partition, offset), b"value"))


def reaching(**more: Mapping[int, int]) -> Ends:
    """Every partition has 3 records, but for these topics."""
    named = {topic.name: topic for topic in topics.CATALOGUE}
    changed = {getattr(topics, name).name: ends for name, ends in more.items()}
    assert changed.keys() <= named.keys()
    return Ends(IDS, {name: {0: 3, 1: 3} for name in NAMES} | changed)


def letter(topic: str, partition: int, generation: int, offset: int) -> bytes:
    return encode(
        DeadLetter(
            topic=topic, partition=partition, generation=generation, offset=offset, timestamp=0, reason="r", field="",
            message="m", value_size=0, value_sha256=bytes(32),
        )
    )  # fmt: skip


def test_everything_is_read_once() -> None:
    """From the first record to the end, and then from there on."""
    logs = Logs(Topics(), ADOPTED, reaching())  # type: ignore[arg-type]
    came = [logs.came(partition) for partition in range(logs.partitions)]
    assert [3, 3] == [len(each.made) for each in came] == [len(each.events) for each in came]
    assert 6 == len(list(logs.claims())) and [True, True] == [each.policies for each in came]
    again = logs.came(0)
    assert ([], [], [], 0, False) == again and [] == list(logs.claims())
    logs.ends = reaching(KEYS={0: 5, 1: 3}, ASSETS={0: 4, 1: 3}, CLAIMS={0: 3, 1: 4})
    came = [logs.came(partition) for partition in range(logs.partitions)]
    assert ([2, 0], [1, 0], [3]) == (
        [len(each.made) for each in came], [len(each.events) for each in came], [each.offset for each in came[0].events]
    )  # fmt: skip
    assert 1 == len(list(logs.claims()))


def test_what_is_committed_is_told_with_what_came() -> None:
    """Of the events as a number; a commit beyond a policy change has its partition judged again, once."""
    logs = Logs(Topics(), ADOPTED, reaching())  # type: ignore[arg-type]
    logs.came(0)
    logs.ends = reaching()._replace(done={(ASSETS, 0): 2, (CHANGES, 0): 3, (ASSETS, 1): 9})
    assert [(2, True), (2, False)] == [(came.done, came.policies) for came in (logs.came(0), logs.came(0))]


def test_dead_letters_are_sorted_by_what_they_refuse() -> None:
    """Of this partition and generation: offsets of events; a policy change's has its partition judged again."""
    scanner = Topics()
    logs = Logs(scanner, ADOPTED, reaching())  # type: ignore[arg-type]
    logs.came(0)
    wanted = [
        letter(topics.ASSETS.name, 0, 1, 7), letter(topics.ASSETS.name, 0, 0, 8), letter(topics.ASSETS.name, 1, 1, 9),
        letter(topics.REQUESTS.name, 0, 1, 4), b"somebody else's",
    ]  # fmt: skip
    scanner.values |= {(LETTERS, 0, 3 + number): value for number, value in enumerate(wanted)}
    logs.ends = reaching(DEAD_LETTERS={0: 8, 1: 3})
    came = logs.came(0)
    assert ([7], False) == (came.refused, came.policies)
    scanner.values[LETTERS, 0, 8] = letter(CHANGES, 0, 1, 2)
    logs.ends = reaching(DEAD_LETTERS={0: 9, 1: 3})
    came = logs.came(0)
    assert ([], True) == (came.refused, came.policies)


@pytest.mark.parametrize("name", ["POLICIES", "POLICY_CHANGES"])
def test_a_policy_topic_that_moved_has_its_partition_judged_again(name: str) -> None:
    """No other one."""
    logs = Logs(Topics(), ADOPTED, reaching())  # type: ignore[arg-type]
    for partition in range(2):
        logs.came(partition)
    logs.ends = reaching(**{name: {0: 3, 1: 4}})
    assert [False, True] == [logs.came(partition).policies for partition in range(2)]


def test_what_could_not_be_read_is_read_again() -> None:
    """The brokers went away between two topics."""
    scanner = Topics()
    logs = Logs(scanner, ADOPTED, reaching())  # type: ignore[arg-type]
    logs.came(0)
    mark, before = logs.mark(), logs.ends
    logs.ends = reaching(KEYS={0: 4, 1: 3}, ASSETS={0: 4, 1: 3})
    scanner.away.add(topics.ASSETS.name)
    with pytest.raises(Unavailable):
        logs.came(0)
    logs.reset(mark)
    assert before == logs.ends
    scanner.away.clear()
    logs.ends = reaching(KEYS={0: 4, 1: 3}, ASSETS={0: 4, 1: 3})
    came = logs.came(0)
    assert (1, 1) == (len(came.made), len(came.events))


def gone(ends: Ends, name: str) -> Ends:
    return Ends({topic: each for topic, each in ends.ids.items() if topic != name}, ends.of)


@pytest.mark.parametrize(
    ("ends", "follows"),
    [
        (reaching(), True),
        (reaching(KEYS={0: 9, 1: 3}), True),
        (reaching(KEYS={0: 2, 1: 3}), False),
        (reaching(CLAIMS={0: 3, 1: 2}), False),
        (reaching(KEYS={0: 3}), False),
        (Ends(IDS | {KEYS: "another"}, reaching().of), False),
        (gone(reaching(), CHANGES), False),
    ],
    ids=["the same", "later", "earlier", "claims earlier", "a partition less", "created again", "gone"],
)
def test_only_the_same_topics_are_read_on(ends: Ends, follows: bool) -> None:
    """Whatever else they are now, a whole pass must tell."""
    assert follows is Logs(Topics(), ADOPTED, reaching()).follows(ends)  # type: ignore[arg-type]
