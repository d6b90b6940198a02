"""Those who watch from outside: a reader of the key topic and the dead letters, and a watcher of committed offsets."""

import threading
import time
from typing import Any, Final

from confluent_kafka import Consumer, TopicPartition
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from schemas import topics
from schemas.codec import decode
from schemas.ids import is_key_set
from schemas.records import AssetRecord, DeadLetter, KeyRecord
from tests import history
from tests.history import Committed, Refused, Written

WATCH_S: Final = 0.02
NS_PER_MS: Final = 1_000_000
READ: Final = (topics.KEYS.name, topics.DEAD_LETTERS.name)


class Observer:
    """
    Reads both topics from their beginning, in a thread of its own, and never stops.

    It knows nothing of views or guards: `written` and `refused` are what stands in the log, with the broker's times.
    """

    def __init__(self, bootstrap: str, partitions: int) -> None:
        self.written: list[Written] = []
        self.refused: list[Refused] = []
        self.others: list[DeadLetter] = []
        """Refused records that are no asset events."""
        self.kids: dict[str, dict[bytes, int]] = {}
        """By asset: KIDs with their key versions."""
        self.assets: dict[str, list[AssetRecord]] = {}
        """By asset: every record, in log order."""
        settings = {
            "bootstrap.servers": bootstrap,
            "group.id": "observer",  # never joined
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 20,
            "reconnect.backoff.max.ms": 500,
            "log_level": 0,
        }
        self._consumer, self._lens = Consumer(settings), Consumer(settings)
        self._places = [(name, number) for name in READ for number in range(partitions)]
        self._consumer.assign([TopicPartition(*place, 0) for place in self._places])
        self._positions = dict.fromkeys(self._places, 0)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def read_to_end(self, timeout_s: float = 20) -> None:
        """Return when everything that was in the topics at the call has been read."""
        ends = {place: self._end(place) for place in self._places}
        deadline = time.monotonic() + timeout_s
        while behind := {place: end for place, end in ends.items() if self._positions[place] < end}:
            assert time.monotonic() < deadline, f"the observer did not reach {behind}"
            time.sleep(0.01)

    def _end(self, place: tuple[str, int]) -> int:
        low_high: tuple[int, int] = self._lens.get_watermark_offsets(TopicPartition(*place), timeout=10)
        return low_high[1]

    def newest(self, asset: str) -> AssetRecord:
        """What the key topic ends with for an asset."""
        return self.assets[asset][-1]

    def close(self) -> None:
        """Stop reading."""
        self._closed.set()
        self._thread.join(10)
        self._consumer.close()
        self._lens.close()

    def _read(self) -> None:
        while not self._closed.is_set():
            for message in self._consumer.consume(1000, 0.05):
                if not message.error():
                    self._take(message)

    def _take(self, message: Any) -> None:
        at_ns = message.timestamp()[1] * NS_PER_MS
        place = (message.topic(), message.partition())
        if message.topic() == topics.KEYS.name:
            event = history.written(place[1], message.offset(), message.key(), message.value() or b"", at_ns)
            self._index(event.record_key.encode(), message.value())
            self.written.append(event)
        else:
            letter = decode(message.value(), DeadLetter)
            if letter.topic == topics.ASSETS.name:
                self.refused.append(history.refused(letter, at_ns))
            else:
                self.others.append(letter)
        self._positions[place] = message.offset() + 1

    def _index(self, record_key: bytes, value: bytes | None) -> None:
        if value is None:
            return
        if is_key_set(record_key):
            record = decode(value, KeyRecord)
            self.kids.setdefault(record.asset, {}).update({track.kid: record.key_version for track in record.tracks})
        else:
            asset = decode(value, AssetRecord)
            self.assets.setdefault(asset.asset, []).append(asset)


class CommitWatch:
    """Asks for the group's committed offsets over and over; every new answer becomes a `Committed`."""

    def __init__(self, bootstrap: str, group: str) -> None:
        self.seen: list[Committed] = []
        self.offsets: dict[int, int] = {}
        self._bootstrap, self._group = bootstrap, group
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop asking."""
        self._closed.set()
        self._thread.join(30)

    def _watch(self) -> None:
        while not self._closed.is_set():
            try:
                self._ask_until_closed()
            except (KafkaError, OSError, RuntimeError):
                self._closed.wait(0.3)  # no coordinator, or no broker: begin again

    def _ask_until_closed(self) -> None:
        admin = KafkaAdminClient(bootstrap_servers=self._bootstrap, request_timeout_ms=5000)
        try:
            while not self._closed.wait(WATCH_S):
                answer = admin.list_group_offsets(self._group)[self._group]
                at_ns = time.time_ns()  # the offsets are older than this, never newer
                for place, committed in answer.items():
                    if place.topic == topics.ASSETS.name:
                        self._note(at_ns, place.partition, committed.offset)
        finally:
            admin.close()

    def _note(self, at_ns: int, partition: int, offset: int) -> None:
        if offset >= 0 and self.offsets.get(partition) != offset:
            self.offsets[partition] = offset
            self.seen.append(Committed(at_ns=at_ns, partition=partition, offset=offset))
