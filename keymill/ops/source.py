"""What a replay reads: a source topic, the topic made of it, the dead letters; each to its end at the beginning."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Self

from keymill.errors import InvalidRecord
from keymill.kafka.admin import describe, end_offsets, require_topics
from keymill.kafka.scan import Scanner
from schemas import topics
from schemas.codec import decode
from schemas.records import DeadLetter, TopicAdopted
from schemas.topics import Topic
from streams.reread import raw_record
from streams.runs import RawRecord


class Pair(NamedTuple):
    """A source topic and the topic that the processors make of it."""

    source: Topic
    made: Topic

    def into(self, prefix: str) -> "Pair":
        """The same source, and the topic of another set."""
        return Pair(self.source, topics.in_set(self.made, prefix))


ASSETS = Pair(topics.ASSETS, topics.KEYS)
POLICIES = Pair(topics.POLICY_CHANGES, topics.POLICIES)


class Source(NamedTuple):
    """
    One pair of topics, to be read partition by partition.

    `made_ends` were taken before the source's, so that what comes meanwhile counts as pending; empty where the topic is
    not there.
    """

    scanner: Scanner
    pair: Pair
    adopted: TopicAdopted
    source_ends: Mapping[int, int]
    made_ends: Mapping[int, int]
    letter_ends: Mapping[int, int]

    @classmethod
    def open(cls, scanner: Scanner, bootstrap: str, pair: Pair, *, made: bool = True) -> Self:
        """
        Check the topics and take their ends.

        Args:
            made: the made topic must be there, as adopted; otherwise whatever is there is taken, or nothing.
        """
        needed = [pair.source.name, topics.DEAD_LETTERS.name]
        adopted = require_topics(bootstrap, [*needed, pair.made.name] if made else needed)
        there = made or pair.made.name in describe(bootstrap, [pair.made.name])
        made_ends = end_offsets(bootstrap, pair.made.name) if there else {}
        source_ends = end_offsets(bootstrap, pair.source.name)
        letter_ends = end_offsets(bootstrap, topics.DEAD_LETTERS.name)
        return cls(scanner, pair, adopted[pair.source.name], source_ends, made_ends, letter_ends)

    @property
    def partitions(self) -> int:
        """How many there are, of each topic."""
        return self.adopted.partitions

    def held(self, partition: int) -> Iterator[tuple[bytes, bytes | None]]:
        """Yield every record that was made, by record key; what does not verify is passed over, as views do."""
        end = self.made_ends.get(partition, 0)
        for message in self.scanner.read(self.pair.made.name, partition, end=end) if end else ():
            yield message.key() or b"", message.value()

    def events(self, partition: int, start: int | None = None) -> Iterator[RawRecord]:
        """Every record of the source from *start* on."""
        end = self.source_ends[partition]
        return map(raw_record, self.scanner.read(self.pair.source.name, partition, start=start, end=end))

    def refused(self, partition: int) -> frozenset[int]:
        """Offsets of the source that have a dead letter, which stands on the partition of the same number."""
        at = (self.pair.source.name, partition, self.adopted.generation)
        found = self.scanner.read(topics.DEAD_LETTERS.name, partition, end=self.letter_ends[partition])
        letters = [letter for message in found if (letter := letter_of(message.value()))]
        return frozenset(each.offset for each in letters if (each.topic, each.partition, each.generation) == at)


def letter_of(value: bytes | None) -> DeadLetter | None:
    """A record of the dead letters, or None."""
    try:
        return decode(value or b"", DeadLetter)
    except InvalidRecord:
        return None  # somebody else's record: what it might refuse shows up as missing
