"""Ingest systems: drawn asset events, sent by an acknowledged producer that notes each one."""

import threading
import time
from typing import Any

from confluent_kafka import Producer

from schemas import topics
from tests.drawn import ORGANIZATION, Draw, Drawn
from tests.history import Accepted


class Driver(Draw):
    """
    Sends what it draws.

    Args:
        options: of `Draw`.
    """

    def __init__(self, bootstrap: str, partitions: int, seed: int, prefix: str, **options: Any) -> None:
        super().__init__(partitions, seed, prefix, **options)
        self.accepted: list[Accepted] = []
        self.to_refuse: set[tuple[int, int]] = set()
        self.failed: list[str] = []
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 2,
                "delivery.timeout.ms": 120_000,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )

    def emit(self, count: int, *, per_s: float = 0.0, stop: threading.Event | None = None) -> None:
        """Send *count* events, at most *per_s* a second, and wait until the brokers have them all."""
        began = time.monotonic()
        for number in range(count):
            if stop is not None and stop.is_set():
                break
            self.next()
            self._producer.poll(0)
            if per_s and (ahead := number / per_s - (time.monotonic() - began)) > 0:
                time.sleep(ahead)
        self.flush()

    def flush(self) -> None:
        """Wait for every acknowledgement."""
        assert self._producer.flush(120) == 0
        assert not self.failed, self.failed

    def put(self, drawn: Drawn) -> None:
        """Send it; waits while the producer is full."""

        def report(error: object, message: object) -> None:
            if error:
                self.failed.append(str(error))
                return
            place = (message.partition(), message.offset())  # type: ignore[attr-defined]
            if drawn.refuse:
                self.to_refuse.add(place)
            self.accepted.append(
                Accepted(
                    at_ns=time.time_ns(),
                    organization=ORGANIZATION,
                    asset=drawn.asset,
                    partition=place[0],
                    offset=place[1],
                )
            )

        while True:
            try:
                self._producer.produce(
                    topics.ASSETS.name, drawn.value, drawn.key, drawn.partition,
                    on_delivery=report, headers=drawn.headers,
                )  # fmt: skip
                return
            except BufferError:
                self._producer.poll(0.1)
