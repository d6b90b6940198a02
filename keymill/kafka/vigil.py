"""
Watches topics beside the tail that reads them, without ever making it wait: contact, ends, identity.

Answers are collected when they are there. A contradiction counts when it was seen three times in a row, since a broker
that has just started may know less than it did.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from confluent_kafka import TopicPartition

from keymill.errors import Misconfigured, Unavailable
from keymill.kafka.lens import Lens, Question, described, offsets
from keymill.kafka.positions import Described, topic_contradiction, truncation

CONTACT_EVERY_S: Final = 1.0
RECHECK_EVERY_S: Final = 5.0
STRIKES: Final = 3


class Vigil:
    """What is known of the followed topics from asking, as of `contact`."""

    def __init__(self, lens: Lens, topics: Mapping[str, Described], ends: Mapping[tuple[str, int], int]) -> None:
        self.contact = time.monotonic()
        self.ends = dict(ends)
        self.notice: str | None = None
        self.verified = time.monotonic()
        self._lens = lens
        self._topics = dict(topics)
        self._end_question: Question[TopicPartition] | None = None
        self._read_before: Mapping[tuple[str, int], int] = {}
        self._topic_question: Question[str] | None = None
        self._end_strikes = 0
        self._topic_strikes = 0
        self._last_ends = self._last_topics = time.monotonic()

    def look(self, read: Callable[[], dict[tuple[str, int], int]], *, now: bool = False) -> None:
        """
        Collect answers that have arrived, ask again what is due.

        Args:
            read: next offsets, or ends that were seen before; no partition may end below them.
            now: ask for the topics' identity without waiting for its time.

        Raises:
            Misconfigured: a topic is not what it was.
        """
        if self._end_question is None:
            if time.monotonic() - self._last_ends >= CONTACT_EVERY_S:
                self._last_ends = time.monotonic()
                self._read_before = read()  # an answer may be older than what is read while it is on its way
                self._end_question = self._lens.ask_ends(self.ends)
        elif self._end_question.done():
            question, self._end_question = self._end_question, None
            self._take_ends(question, self._read_before)
        self._look_at_topics(now)

    def _look_at_topics(self, now: bool) -> None:
        if self._topic_question is None:
            pause_s = CONTACT_EVERY_S if self._topic_strikes else RECHECK_EVERY_S
            if (now and not self._topic_strikes) or time.monotonic() - self._last_topics >= pause_s:
                self._last_topics = time.monotonic()
                self._topic_question = self._lens.ask_topics(self._topics)
        elif self._topic_question.done():
            question, self._topic_question = self._topic_question, None
            self._take_topics(question)

    def _take_ends(self, question: Question[TopicPartition], read: Mapping[tuple[str, int], int]) -> None:
        try:
            ends = offsets(question.answer())
        except (Unavailable, Misconfigured) as error:
            self.notice = str(error)  # a topic that is gone is for the topics' question to say
            return
        if lost := truncation(ends, read):
            self._end_strikes += 1
            self.notice = lost
            if self._end_strikes >= STRIKES:
                raise Misconfigured(lost)
            return
        self._end_strikes = 0
        self.notice = None
        self.ends = ends
        self.contact = question.asked

    def _take_topics(self, question: Question[str]) -> None:
        try:
            found: Mapping[str, Any] = described(question.answer())
            wrong = next(
                filter(None, (topic_contradiction(name, self._topics[name], found[name]) for name in found)), ""
            )
        except Unavailable as error:
            self.notice = str(error)
            return
        except Misconfigured as error:
            wrong = str(error)
        if not wrong:
            self._topic_strikes = 0
            self.verified = question.asked
            return
        self._topic_strikes += 1
        self.notice = wrong
        if self._topic_strikes >= STRIKES:
            raise Misconfigured(wrong)
