"""
Questions to the brokers about topics: ids, partition counts, first and last offsets. Nothing here reads a record.

Ends are asked with a read_uncommitted lens: under read_committed an open transaction hides what is committed above it.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from typing import Any, Final, Generic, TypeVar

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from keymill.errors import Misconfigured, Unavailable
from keymill.kafka.positions import Described, known_offset
from keymill.telemetry import client_log

K = TypeVar("K")

PULSE_S: Final = 0.5
ANSWER_S: Final = 10.0
"""How long the brokers may take for one answer."""
_FRESH: Final = {"topic.metadata.refresh.interval.ms": 1000, "metadata.max.age.ms": 2000}
"""
Who leads a partition is asked again after 2 s. The admin client takes an answer of "another leader epoch", which a
broker gives that was away, for no reason to ask (librdkafka 2.x); with its defaults it would fail for five minutes.
"""
_MISSING: Final = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID})
_FORBIDDEN: Final = frozenset(
    {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError._AUTHENTICATION}
)


class Question(Generic[K]):
    """Answers that are on their way."""

    def __init__(self, futures: Mapping[K, "Future[Any]"]) -> None:
        self._futures = futures
        self.asked = time.monotonic()

    def done(self) -> bool:
        """Whether every answer, or its failure, is there."""
        return all(future.done() for future in self._futures.values())

    def answer(self, timeout_s: float = ANSWER_S, pulse: Callable[[], object] = lambda: None) -> dict[K, Any]:
        """
        Every answer.

        Args:
            pulse: called twice a second while nothing has come, by whoever must show that it is alive.

        Raises:
            Misconfigured: a topic does not exist, or the brokers forbid to look.
            Unavailable: the brokers did not answer.
        """
        deadline = time.monotonic() + timeout_s
        while wait(self._futures.values(), timeout=PULSE_S).not_done and time.monotonic() < deadline:
            pulse()
        return {about: _result(about, future) for about, future in self._futures.items()}


class Lens:
    """An admin connection that only looks."""

    def __init__(self, client: Mapping[str, Any]) -> None:
        self.bootstrap = str(client.get("bootstrap.servers", ""))
        self._admin = AdminClient({**client, **_FRESH}, logger=client_log())

    def ask_topics(self, topics: Iterable[str]) -> Question[str]:
        """Ask for id and partition count; the answer is what `described` takes."""
        return Question(self._admin.describe_topics(TopicCollection(list(topics)), request_timeout=ANSWER_S))

    def ask_ends(self, partitions: Iterable[tuple[str, int]]) -> Question[TopicPartition]:
        """Ask where each partition ends (high watermark); the answer is what `offsets` takes."""
        return self._ask(partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]

    def ask_starts(self, partitions: Iterable[tuple[str, int]]) -> Question[TopicPartition]:
        """Ask for the first offset that each partition still holds."""
        return self._ask(partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]

    def _ask(self, partitions: Iterable[tuple[str, int]], spec: OffsetSpec) -> Question[TopicPartition]:
        wanted = {TopicPartition(topic, partition): spec for topic, partition in partitions}
        futures = self._admin.list_offsets(
            wanted, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=ANSWER_S
        )
        return Question(futures)


def described(answer: Mapping[str, Any]) -> dict[str, Described]:
    """Read the answer of `Lens.ask_topics`."""
    return {
        name: Described(topic_id=str(topic.topic_id), partitions=len(topic.partitions))
        for name, topic in answer.items()
    }


def offsets(answer: Mapping[TopicPartition, Any]) -> dict[tuple[str, int], int]:
    """
    Read the answer of `Lens.ask_ends` and `Lens.ask_starts`.

    Raises:
        Unavailable: the brokers could not say one.
    """
    return {
        (place.topic, place.partition): known_offset(place.topic, place.partition, result.offset)
        for place, result in answer.items()
    }


def _result(about: object, future: "Future[Any]") -> Any:
    if not future.done():
        raise Unavailable(f"the Kafka brokers did not answer in {ANSWER_S:.0f} s about {about}")
    try:
        return future.result()
    except KafkaException as error:
        reason = error.args[0]
        if reason.code() in _MISSING:
            raise Misconfigured(f"the topic {about} does not exist: run `keymill topics create`") from None
        if reason.code() in _FORBIDDEN:
            raise Misconfigured(f"the Kafka brokers refuse access to {about}: {reason.str()}") from None
        raise Unavailable(f"the Kafka brokers gave no answer about {about}: {reason.str()}") from None
