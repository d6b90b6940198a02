"""Dead letters in the log: the letters, the events that they are about, and what came after these."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Final, NamedTuple, Self

from confluent_kafka import Message

from keymill.config import ProcessorSettings
from keymill.errors import Corrupt, InvalidRecord, Reject
from keymill.kafka.admin import end_offsets, group_offsets, require_topics
from keymill.kafka.cluster import offsets_since
from keymill.kafka.scan import Scanner, headers_of
from keymill.ops.address import bootstrap_of
from keymill.ops.letters import (
    REDRIVE_OF,
    SOURCES,
    Aftermath,
    Coordinates,
    Later,
    Letter,
    Refused,
    Wanted,
    aftermath,
    record_key_of,
)
from keymill.ops.progress import Advance
from schemas import topics
from schemas.codec import decode
from schemas.events import AssetEvent, PolicyChange
from schemas.framing import decode_event
from schemas.operations import OwnerRequest
from schemas.records import DeadLetter
from streams.registry import registry_lookup

STEP: Final = 1_000


class Source(NamedTuple):
    """The refused event as it stands: its record, or why it cannot be sent again."""

    message: Message | None
    trouble: str | None


class LetterLog:
    """The dead letters of a cluster. A context manager."""

    def __init__(self, settings: ProcessorSettings) -> None:
        self.bootstrap = bootstrap_of(settings)
        self._group = settings.group
        self.adopted = require_topics(self.bootstrap, [*SOURCES, topics.DEAD_LETTERS.name])
        self._scanner = Scanner(self.bootstrap)
        self._decode = partial(decode_event, registry=registry_lookup(settings.registry_url))
        self._refused: dict[Coordinates, str] = {}
        self._reached: dict[str, dict[int, int]] = {}
        self._keys: set[bytes] = set()
        self._later: list[Later] = []

    def letters(self, wanted: Wanted, since_ms: int = 0) -> list[Letter]:
        """The letters that are meant, in the order in which they were written; a letter that stands twice once."""
        found: dict[tuple[Coordinates, int], Letter] = {}
        for letter in self._read(since_ms):
            about = letter.about
            if self._is_current(about):
                self._refused[letter.source] = about.reason
            if wanted.covers(about):
                found.setdefault((letter.source, about.generation), letter)
        return sorted(found.values(), key=lambda each: (each.recorded, each.at.partition, each.at.offset))

    def source(self, letter: Letter) -> Source:
        """The event that a letter is about."""
        about = letter.about
        if not self._is_current(about):
            return Source(None, f"{about.topic} was created again since")
        try:
            reading = self._scanner.read(about.topic, about.partition, start=about.offset, end=about.offset + 1)
            message = next(reading, None)
        except Corrupt as error:
            return Source(None, str(error))
        if message is None:
            return Source(None, "no record stands there any more")
        if hashlib.sha256(message.value() or b"").digest() != about.value_sha256:
            return Source(message, "another record stands there: its SHA-256 is not the letter's")
        return Source(message, None)

    def event(self, message: Message) -> Refused | None:
        """What an event says; None when it cannot be read."""
        value = message.value() or b""
        try:
            match message.topic():
                case topics.POLICY_CHANGES.name:
                    return decode(value, PolicyChange)
                case topics.REQUESTS.name:
                    return decode(value, OwnerRequest)
                case _:
                    return self._decode(value, headers_of(message))
        except Reject:
            return None

    def aftermaths(self, letters: Sequence[Letter]) -> list[Aftermath]:
        """
        What came after each letter's event.

        Reads the source topics from the oldest of them on; asked again about some of the same letters, from where it
        stopped.
        """
        if not letters:
            return []
        for topic in sorted({letter.about.topic for letter in letters}):
            concerned = [letter for letter in letters if letter.about.topic == topic]
            if topic not in self._reached:
                oldest = min(letter.about.timestamp for letter in concerned)
                self._reached[topic] = offsets_since(self.bootstrap, topic, oldest)
            self._keys |= {key for letter in concerned if (key := record_key_of(letter.about)) is not None}
            self._follow(topic)
        # Before the letters: what is committed was decided, so its letter, if it has one, is there by now.
        committed = group_offsets(self.bootstrap, self._group)
        for letter in self._read(min(letter.recorded for letter in letters)):
            if self._is_current(letter.about):
                self._refused[letter.source] = letter.about.reason
        return [aftermath(letter, self._later, self._refused, committed) for letter in letters]

    def _follow(self, topic: str) -> None:
        """Take note of events that were sent again, or have the record key of a letter's, up to the topic's end."""
        ends, reached = end_offsets(self.bootstrap, topic), self._reached[topic]
        with Advance(
            f"reading {topic}", sum(end - reached.get(number, end) for number, end in ends.items())
        ) as advance:
            for number, end in ends.items():
                start = reached.get(number, end)
                for count, message in enumerate(self._scanner.read(topic, number, start=start, end=end), 1):
                    if count % STEP == 0:
                        advance.step(STEP)
                    record_key, redrive_of = message.key() or b"", _redrive_of(message)
                    if redrive_of is not None or record_key in self._keys:
                        self._later.append(self._noted(message, record_key, redrive_of))
                reached[number] = end

    def _noted(self, message: Message, record_key: bytes, redrive_of: str | None) -> Later:
        event = self.event(message)
        event_id = event.event_id if isinstance(event, AssetEvent) else event.request_id if event else None
        return Later(at=coordinates(message), record_key=record_key, redrive_of=redrive_of, event_id=event_id)

    def _read(self, since_ms: int) -> Iterator[Letter]:
        topic = topics.DEAD_LETTERS.name
        ends, starts = end_offsets(self.bootstrap, topic), offsets_since(self.bootstrap, topic, since_ms)
        for number, start in starts.items():
            for message in self._scanner.read(topic, number, start=start, end=max(start, ends[number])):
                try:
                    about = decode(message.value() or b"", DeadLetter)
                except InvalidRecord:
                    continue  # somebody else's record
                yield Letter(about=about, at=coordinates(message), recorded=message.timestamp()[1])

    def _is_current(self, about: DeadLetter) -> bool:
        return about.topic in self.adopted and self.adopted[about.topic].generation == about.generation

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scanner.close()


def coordinates(message: Message) -> Coordinates:
    """Where a record stands."""
    return Coordinates(topic=str(message.topic()), partition=message.partition() or 0, offset=message.offset() or 0)


def _redrive_of(message: Message) -> str | None:
    if not message.headers():
        return None
    return dict(headers_of(message)).get(REDRIVE_OF, b"").decode("ascii", "replace") or None
