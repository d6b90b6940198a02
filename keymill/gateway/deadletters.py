"""The newest dead letters: a tail of drm.dlq.v1 from its end, without a group, in bounded memory."""

import os
import signal
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from keymill import telemetry
from keymill.errors import InvalidRecord, Unavailable
from keymill.kafka.admin import end_offsets
from keymill.kafka.batch import Detour, is_impassable
from schemas import topics
from schemas.codec import decode
from schemas.records import DeadLetter

KEPT: Final = 10_000
"""Letters kept, about 10 MB; one is asked for within the seconds that a request waits."""
BATCH: Final = 500
POLL_S: Final = 0.5

log = telemetry.logger("gateway.deadletters")


class DeadLetters:
    """
    Start it before the first event is published: what was refused before its start is not here.

    Args:
        on_letters: called in the tail's thread after new letters can be found.
    """

    def __init__(self, bootstrap: str, on_letters: Callable[[], None]) -> None:
        self._bootstrap = bootstrap
        self._on_letters = on_letters
        self._letters: OrderedDict[tuple[str, int, int], DeadLetter] = OrderedDict()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._detour: Detour | None = None

    def start(self) -> None:
        """Take the ends and follow from there; raises what the brokers' admin raises."""
        consumer = Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": "keymill-gateway-dead-letters",  # never joined: assign() only
                "enable.auto.commit": False,
                "auto.offset.reset": "latest",
                "isolation.level": "read_committed",
            },
            logger=telemetry.client_log(),
        )
        topic = topics.DEAD_LETTERS.name
        ends = end_offsets(self._bootstrap, topic)
        self._detour = Detour(self._bootstrap, consumer)
        consumer.assign([TopicPartition(topic, partition, offset) for partition, offset in ends.items()])
        self._thread = threading.Thread(target=self._follow, args=(consumer,), name="dead-letters", daemon=True)
        self._thread.start()

    def find(self, topic: str, partition: int, offset: int) -> DeadLetter | None:
        """The letter about the event at these coordinates."""
        with self._lock:
            return self._letters.get((topic, partition, offset))

    def alive(self) -> bool:
        """Whether the tail still follows."""
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """Stop following; takes up to half a second."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2 * POLL_S)

    def _follow(self, consumer: Consumer) -> None:
        try:
            while not self._stop.is_set():
                self._take(consumer)
        except Exception:
            log.critical("the tail of the dead letters failed, so the gateway ends", exc_info=True)
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            consumer.close()

    def _take(self, consumer: Consumer) -> None:
        try:
            first = consumer.poll(POLL_S)  # consume() alone would wait its time out before it gives anything
            messages = [] if first is None else [first, *consumer.consume(BATCH, 0)]
        except KafkaException as error:
            log.warning("dead letters cannot be read", error=str(error))
            self._stop.wait(POLL_S)
            return
        for message in messages:
            if is_impassable(message):
                self._pass_over(message)
        if letters := [each for message in messages for each in _letter(message)]:
            self._keep(letters)
            self._on_letters()

    def _pass_over(self, message: Message) -> None:
        assert self._detour
        try:
            self._detour.past(message)
        except Unavailable as error:  # asked again with the next report of the batch
            log.warning("dead letters cannot be read", error=str(error))

    def _keep(self, letters: list[DeadLetter]) -> None:
        with self._lock:
            for letter in letters:
                self._letters[letter.topic, letter.partition, letter.offset] = letter
            while len(self._letters) > KEPT:
                self._letters.popitem(last=False)


def _letter(message: Message) -> list[DeadLetter]:
    if error := message.error():
        log.warning("dead letters cannot be read", error=error.str())
        return []
    try:
        return [decode(message.value() or b"", DeadLetter)]
    except InvalidRecord as refusal:
        log.error(
            "a dead letter is unreadable", partition=message.partition(), offset=message.offset(), error=str(refusal)
        )
        return []
