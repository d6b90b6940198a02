"""What an audit reads: every log and every topic made of it, from where it was read to before, to its end now."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, Self

from confluent_kafka import Message

from keymill.errors import InvalidRecord
from keymill.kafka.batch import Batch
from keymill.kafka.cluster import connected, describe_with, end_offsets_with, group_offsets
from keymill.kafka.scan import Scanner
from keymill.ops.auditing import Audit
from keymill.ops.source import Pair, Source, letter_of
from schemas import topics
from schemas.codec import decode
from schemas.records import Claim, TopicAdopted
from schemas.topics import Topic
from streams.raw import UNREADABLE_BATCH
from streams.reread import raw_record
from streams.runs import UNPACKED_MAX, RawRecord

ACCESS: Final = (topics.CREDENTIALS, topics.SERVICES, topics.ENTITLEMENTS)
"""Who may ask for what: no log gives it back, so each record is judged by itself and by the one before it."""
READ_IN_ORDER: Final = (
    (topics.KEYS.name, topics.POLICIES.name),
    (topics.ASSETS.name, topics.POLICY_CHANGES.name),
    (topics.DEAD_LETTERS.name,),
    (topics.CLAIMS.name,),
    tuple(topic.name for topic in ACCESS),
)
"""Ends are taken in this order: what comes between is pending, and each record finds its event and its claim."""
NAMES: Final = tuple(name for names in READ_IN_ORDER for name in names)


class Ends(NamedTuple):
    """
    How far the topics reach: end offsets by topic and partition, and the topics' ids.

    Args:
        done: what the processors have committed, asked for first: whatever it calls for was acknowledged before.
    """

    ids: Mapping[str, str]
    of: Mapping[str, Mapping[int, int]]
    done: Mapping[tuple[str, int], int] = MappingProxyType({})

    @classmethod
    def take(cls, bootstrap: str, group: str) -> Self:
        """Ask the brokers. Raises what `keymill.kafka.cluster.connected` does; `Misconfigured` where a topic is not."""
        done = group_offsets(bootstrap, group)
        ends: dict[str, Mapping[int, int]] = {}
        with connected(bootstrap) as client:
            ids = {name: state.topic_id for name, state in describe_with(client, NAMES).items()}
            for names in READ_IN_ORDER:
                ends |= end_offsets_with(client, names)
        return cls(ids, ends, done)


class Came(NamedTuple):
    """
    What came on the partitions of one number.

    Args:
        done: the events below that offset are decided.
        policies: whether anything that the policies are made of, or that was made of it, is new.
    """

    made: list[tuple[bytes, bytes | None]]
    refused: list[int]
    events: list[RawRecord]
    done: int
    policies: bool


class Logs:
    """
    All of them, from the first record to `ends`, once each, however often it is asked.

    Args:
        adopted: by topic; their ids are those that are read.
    """

    def __init__(self, scanner: Scanner, adopted: Mapping[str, TopicAdopted], ends: Ends) -> None:
        self.ends = ends
        self.scanner = scanner
        self._adopted = adopted
        self._read: dict[tuple[str, int], int] = {}
        self._passed: dict[tuple[str, int, int], Batch] = {}
        self._told: set[tuple[str, int, int]] = set()

    def lost(self) -> list[Batch]:
        """The batches that could not be read, and that no dead letter tells of."""
        self._passed |= {(each.topic, each.partition, each.first): each for each in self.scanner.passed}
        self.scanner.passed.clear()
        return [self._passed[place] for place in sorted(self._passed.keys() - self._told)]

    @property
    def partitions(self) -> int:
        """Of each of the topics."""
        return self._adopted[topics.ASSETS.name].partitions

    def follows(self, ends: Ends) -> bool:
        """Whether *ends* are of the same topics, and nowhere before what was read."""
        same = all(ends.ids.get(name) == self._adopted[name].topic_id for name in NAMES)
        return same and all(
            ends.of[topic].get(partition, 0) >= end
            for topic, known in self.ends.of.items()
            for partition, end in known.items()
        )

    def source(self, pair: Pair) -> Source:
        """A pair of topics as replays read them, from the beginning."""
        letters = self.ends.of[topics.DEAD_LETTERS.name]
        adopted, ends = self._adopted[pair.source.name], self.ends.of
        return Source(self.scanner, pair, adopted, ends[pair.source.name], ends[pair.made.name], letters)

    def came(self, partition: int) -> Came:
        """What is new on the partitions of that number."""
        made = [(each.key() or b"", each.value()) for each in self._new(topics.KEYS.name, partition)]
        letters = [letter_of(each.value()) for each in self._new(topics.DEAD_LETTERS.name, partition)]
        found: dict[str, list[int]] = {topics.ASSETS.name: [], topics.POLICY_CHANGES.name: []}
        for letter in letters:
            if letter and (letter.reason == UNREADABLE_BATCH or letter.value_size > UNPACKED_MAX):
                self._told.add((letter.topic, letter.partition, letter.offset))
            if letter is None or letter.partition != partition or letter.topic not in found:
                continue
            if letter.generation == self._adopted[letter.topic].generation:
                found[letter.topic].append(letter.offset)
        events = [raw_record(each) for each in self._new(topics.ASSETS.name, partition)]
        moved = [self._moved(each.name, partition) for each in (topics.POLICY_CHANGES, topics.POLICIES)]
        policies = any(moved) or bool(found[topics.POLICY_CHANGES.name])
        policies |= self._moved_to(("done", partition), self.done(topics.POLICY_CHANGES.name, partition))
        return Came(made, found[topics.ASSETS.name], events, self.done(topics.ASSETS.name, partition), policies)

    def done(self, topic: str, partition: int) -> int:
        """The records of a source below this offset are decided."""
        return self.ends.done.get((topic, partition), 0)

    def claims(self) -> Iterator[tuple[int, Message]]:
        """The new ones, with their partitions."""
        for partition in self.ends.of[topics.CLAIMS.name]:
            for message in self._new(topics.CLAIMS.name, partition):
                yield partition, message

    def mark(self) -> tuple[Ends, dict[tuple[str, int], int]]:
        """Where reading stands."""
        return self.ends, dict(self._read)

    def reset(self, mark: tuple[Ends, dict[tuple[str, int], int]]) -> None:
        """Read again what came since."""
        self.ends, self._read = mark

    def access(self) -> Iterator[tuple[Topic, int, Message]]:
        """The new records that say who may ask, with their topics and partitions."""
        for topic in ACCESS:
            for partition in self.ends.of[topic.name]:
                for message in self._new(topic.name, partition):
                    yield topic, partition, message

    def _new(self, topic: str, partition: int) -> Iterator[Message]:
        start, end = self._read.get((topic, partition)), self.ends.of[topic][partition]
        if end and start != end:
            yield from self.scanner.read(topic, partition, start=start, end=end)
        self._read[topic, partition] = end

    def _moved(self, topic: str, partition: int) -> bool:
        return self._moved_to((topic, partition), self.ends.of[topic][partition])

    def _moved_to(self, what: tuple[str, int], end: int) -> bool:
        before, self._read[what] = self._read.get(what), end
        return before != end


def take_claim(audit: Audit, partition: int, message: Message, partitions: int) -> None:
    """What stands on a wrong partition, or cannot be read, wins nothing and is told."""
    record_key, place = message.key() or b"", ("claim", partition, message.offset())
    if topics.partition_of(topics.CLAIMS, record_key, partitions) != partition:
        audit.note(place, "misplaced", record_key, f"a claim stands on partition {partition}")
        return
    try:
        audit.claims.add(decode(message.value() or b"", Claim))
    except InvalidRecord as error:
        audit.note(place, "different", record_key, str(error))
