"""One librdkafka producer and the thread that serves its callbacks; dropped for good at its first failure."""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Producer

from keymill.errors import KeymillError, Misconfigured, Unavailable
from keymill.kafka.authentication import WrittenHeaders
from keymill.kafka.delivery import Delivery, failure_of
from keymill.kafka.outgoing import Outgoing, name_of
from keymill.telemetry import client_log

POLL_S: Final = 0.1
PURGE_STEP_S: Final = 0.01
JOIN_S: Final = 10.0

Placed = tuple[int, WrittenHeaders | None]
"""The partition and the headers that a record is written with."""


class Session:
    """
    A producer of this process.

    `dropped`: it takes nothing more, and what it holds is purged. `fatal`: idempotence is lost. `trouble`: the last
    thing the client said about its connections.
    """

    def __init__(self, settings: Mapping[str, str | int | float]) -> None:
        self.pid = os.getpid()
        self.dropped = False
        self.fatal = False
        self.trouble = ""
        self._gate = threading.Lock()
        try:
            self._producer = Producer({**settings, "error_cb": self._on_error, "logger": client_log()})
        except KafkaException as error:
            raise Misconfigured(f"the Kafka producer cannot be made: {error.args[0]}") from None
        self._thread = threading.Thread(target=self._pump, name="kafka-publisher", daemon=True)
        self._thread.start()

    def produce(self, delivery: Delivery, placed: Sequence[Placed], start: int, stop: int) -> int:
        """
        Queue records [start, stop) for their partitions; returns where it stopped: before *stop* if the queue is full,
        or if the client refuses a record, which fails the delivery and drops the session.

        Raises:
            Unavailable: the session was dropped, and nothing may follow what it lost.
        """
        produce, report, explain, records = self._producer.produce, delivery.report, self._explain, delivery.records
        with self._gate:  # for all of them: a drop comes before or after, and locking per record costs 10 %
            if self.dropped:
                raise Unavailable(f"{name_of(records[start])}: an earlier record was lost; publish it again")
            for index in range(start, stop):
                record, (partition, headers) = records[index], placed[index]
                try:
                    produce(
                        record.topic, record.value, record.record_key, partition,
                        on_delivery=partial(report, explain, index), headers=headers,
                    )  # fmt: skip
                except BufferError:
                    return index
                except KafkaException as error:
                    delivery.doom(failure_of(error.args[0], record, self.trouble))
                    self.dropped = True
                    return index
        return stop

    def drop(self) -> None:
        """Take nothing more and purge what is held; its deliveries fail, soon."""
        with self._gate:
            self.dropped = True

    def end(self, timeout_s: float) -> None:
        """Give what is under way *timeout_s*, drop the rest, stop the thread."""
        deadline = time.monotonic() + timeout_s
        while len(self._producer) and not self.dropped and time.monotonic() < deadline:
            time.sleep(PURGE_STEP_S)
        self.drop()
        self._thread.join(JOIN_S)

    def _pump(self) -> None:
        try:
            while not self.dropped:
                self._producer.poll(POLL_S)
            while len(self._producer):
                # Again and again: a record may have moved from the queue to a request meanwhile.
                self._producer.purge(blocking=False)
                self._producer.poll(PURGE_STEP_S)
        finally:
            self.drop()
            self._producer.close()

    def _explain(self, error: KafkaError, record: Outgoing) -> KeymillError:
        self._note(error)
        self.drop()
        return failure_of(error, record, self.trouble)

    def _on_error(self, error: KafkaError) -> None:
        self.trouble = error.str()
        self._note(error)

    def _note(self, error: KafkaError) -> None:
        if error.fatal():
            self.fatal = True
            self.trouble = error.str()
