"""
Follows topics from a checkpoint: every record in order, how far it got, and whether that is all there is
(ARCHITECTURE.md, steps 6 and 7).

The gate (research: a reader that trusts too early answers "not found" for what exists):

    1. topic id and partition count equal the checkpoint's; the checkpoint lies inside the log
    2. the ends are taken once, with a read_uncommitted lens
    3. read committed, without group and without reset policy, until every *position* has passed its end
    4. topic id and partition count once more; then the tail is caught up

A position is the next offset to read: it also steps over transaction markers and compaction holes, which no record
shows. Nothing is papered over: a topic that was re-created, truncated, or lost records unread stops the tail.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from keymill import telemetry
from keymill.errors import Misconfigured, Unavailable
from keymill.kafka import positions
from keymill.kafka.authentication import authenticator_of
from keymill.kafka.batch import Detour, is_impassable
from keymill.kafka.lens import Lens, described, offsets
from keymill.kafka.positions import Checkpoint, Incoming, Slot, flat
from keymill.kafka.vigil import CONTACT_EVERY_S, STRIKES, Vigil

BULK_RECORDS: Final = 5_000
"""Bounds a batch's memory and its time before it is seen; while catching up a big one makes good use of the store."""
LIVE_RECORDS: Final = 2_000
QUEUE_KIB: Final = 8192
"""Fetched ahead, in the client's memory."""
log = telemetry.logger("kafka.tail")
_GAP: Final = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION, KafkaError.OFFSET_OUT_OF_RANGE})
_FORBIDDEN: Final = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._AUTHENTICATION})
_GONE: Final = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)
STALL_S: Final = 60.0
"""Longer than a transaction's timeout (10 s) and the brokers' abort scan (10 s): what stands still then is stuck."""


class Tail:
    """
    Reads *topics* from where *known* ends; give its batches and `slots` to the store in one transaction.

    `notice` says what hinders it while it goes on trying; it raises only what it cannot get over.

    Args:
        client: librdkafka settings that reach the brokers, `bootstrap.servers` among them.
        pulse: called twice a second while `start` waits for the brokers.
    """

    def __init__(
        self,
        client: Mapping[str, Any],
        topics: Sequence[str],
        *,
        stall_s: float = STALL_S,
        pulse: Callable[[], object] = lambda: None,
    ) -> None:
        self._pulse = pulse
        self.slots: dict[str, dict[int, Slot]] = {}
        self.caught_up = False
        self._topics = tuple(topics)
        self._client = dict(client)
        self._lens = Lens(client)
        self._stall_s = stall_s
        self._consumer: Consumer | None = None
        self._detour: Detour | None = None
        self._vigil: Vigil | None = None
        self._targets: dict[tuple[str, int], int] = {}
        self._progress = self._reached = 0.0
        self._suspicious = False
        self._hint: str | None = None

    def start(self, known: Mapping[str, Checkpoint]) -> dict[str, Checkpoint]:
        """
        Check every topic against *known* and begin to read; a topic without checkpoint from its first record.

        Returns:
            Where reading begins, for every topic.

        Raises:
            Misconfigured: a topic is missing, was re-created or truncated, has a gap or another partition count.
            Unavailable: the brokers do not answer; nothing has begun, call again.
        """
        topics = described(self._lens.ask_topics(self._topics).answer(pulse=self._pulse))
        for name in set(known) & set(topics):
            if wrong := positions.topic_contradiction(name, known[name].topic, topics[name]):
                raise Misconfigured(wrong)
        places = [(name, partition) for name in self._topics for partition in range(topics[name].partitions)]
        starts = offsets(self._lens.ask_starts(places).answer(pulse=self._pulse))
        self.slots = {name: positions.slots(name, topics[name], known.get(name), starts) for name in self._topics}
        self._targets = self._ends_beyond(places)
        if lost := positions.gap(starts, flat(self.slots)):
            raise Misconfigured(lost)
        self._vigil = Vigil(self._lens, topics, self._targets)
        self._progress = time.monotonic()
        self._consumer = Consumer(_consumer_settings(self._client), logger=telemetry.client_log())
        self._detour = Detour(str(self._client["bootstrap.servers"]), self._consumer)
        self._consumer.assign([_place(name, *entry) for name, parts in self.slots.items() for entry in parts.items()])
        return {name: Checkpoint(topic=topics[name], slots=dict(self.slots[name])) for name in self._topics}

    def poll(self, timeout_s: float) -> list[Incoming]:
        """
        The next records, at most *timeout_s* later; `slots` and `caught_up` are then as of their end.

        Raises:
            Misconfigured: a topic is not what it was; nothing that follows can be trusted.
        """
        assert self._consumer and self._vigil, "start first"
        batch = self._take(_drain(self._consumer, timeout_s, self._most(self.caught_up)))
        gate = self._reached > 0 and not self.caught_up
        self._vigil.look(self._seen, now=self._suspicious or gate)
        self._suspicious = False
        if not self.caught_up:
            self._judge_progress(self._vigil)
        return batch

    @property
    def contact(self) -> float:
        """When (monotonic clock) the last question was asked that the brokers answered for every partition."""
        return self._vigil.contact if self._vigil else 0.0

    @property
    def behind(self) -> int:
        """How many offsets lie between positions and ends, as of `contact`."""
        return sum(max(0, end - self._offset(place)) for place, end in self._vigil.ends.items()) if self._vigil else 0

    @property
    def notice(self) -> str | None:
        """What hinders it, for people."""
        return (self._vigil.notice if self._vigil else None) or self._hint

    def close(self) -> None:
        """Stop reading."""
        if self._consumer:
            self._consumer.close()
            self._consumer = None

    def _take(self, messages: Sequence[Message]) -> list[Incoming]:
        batch: list[Incoming] = []
        last: dict[tuple[str, int], Slot] = {}
        for message in messages:
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            if is_impassable(message):
                self._pass_over(message, last)
                continue
            if (error := message.error()) is not None:
                self._event(error, topic, partition, offset, last)
                continue
            assert topic is not None and partition is not None and offset is not None
            epoch = message.leader_epoch()
            if (topic, partition) not in last and offset < self.slots[topic][partition].offset:
                raise Misconfigured(positions.backwards(topic, partition, offset, self.slots[topic][partition].offset))
            batch.append(self._form(message, topic, partition, offset))
            last[topic, partition] = Slot(offset + 1, -1 if epoch is None else epoch)
        for (topic, partition), slot in last.items():
            self._advance(topic, partition, slot)
        return batch

    def _most(self, live: bool) -> int:
        return LIVE_RECORDS if live else BULK_RECORDS

    def _form(self, message: Message, topic: str, partition: int, offset: int) -> Incoming:
        return Incoming(topic, partition, offset, message.key(), message.value(), authenticator_of(message))

    def _event(
        self, error: KafkaError, topic: str | None, partition: int | None, offset: int | None,
        last: dict[tuple[str, int], Slot],
    ) -> None:  # fmt: skip
        code = error.code()
        if code == KafkaError._PARTITION_EOF and topic is not None and partition is not None and offset is not None:
            if offset > last.get((topic, partition), self.slots[topic][partition]).offset:
                last[topic, partition] = Slot(offset)  # past markers, whose leader epoch is not told
        elif code in _GAP:
            raise Misconfigured(positions.no_longer_there(topic or "?", partition or 0, error.str()))
        elif code in _FORBIDDEN:
            raise Misconfigured(f"the Kafka brokers refuse to let {topic} be read: {error.str()}")
        elif error.fatal():
            raise Unavailable(f"the Kafka client gave up: {error.str()}")
        elif code in _GONE:
            self._suspicious = True
        else:
            log.warning("kafka reports", topic=topic, partition=partition, error=error.str())

    def _pass_over(self, message: Message, last: dict[tuple[str, int], Slot]) -> None:
        """Go on behind a batch that cannot be read; while nobody says where that is, it is asked for again."""
        assert self._detour
        try:
            passed = self._detour.past(message)
        except (Unavailable, Misconfigured) as error:
            self._hint = f"a batch cannot be read: {error}"
            return
        if passed is not None:
            last[passed.topic, passed.partition] = Slot(passed.last + 1)

    def _advance(self, topic: str, partition: int, slot: Slot) -> None:
        if slot.offset > self.slots[topic][partition].offset:
            self.slots[topic][partition] = slot
            self._progress = time.monotonic()

    def _judge_progress(self, vigil: Vigil) -> None:
        short = [place for place, target in self._targets.items() if self._offset(place) < target]
        if not short:
            self._reached = self._reached or time.monotonic()
            self.caught_up = vigil.verified > self._reached
            self._hint = None
        elif time.monotonic() - self._progress > self._stall_s and not vigil.notice:
            topic, partition = short[0]
            self._hint = (
                f"partition {partition} of {topic} stands at {self._offset(short[0])} and must reach "
                f"{self._targets[short[0]]}: a transaction is open there; end it (kafka-transactions.sh abort)"
            )

    def _seen(self) -> dict[tuple[str, int], int]:
        read = flat(self.slots)
        return read if self.caught_up else {place: max(offset, self._targets[place]) for place, offset in read.items()}

    def _offset(self, place: tuple[str, int]) -> int:
        return self.slots[place[0]][place[1]].offset

    def _ends_beyond(self, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """The ends of the log, none below what was read; asked again a few times before that counts as truncation."""
        for strike in range(1, STRIKES + 1):
            ends = offsets(self._lens.ask_ends(places).answer(pulse=self._pulse))
            if not (lost := positions.truncation(ends, flat(self.slots))):
                return ends
            if strike < STRIKES:
                time.sleep(CONTACT_EVERY_S)
        raise Misconfigured(lost)


def _place(name: str, partition: int, slot: Slot) -> TopicPartition:
    """With a leader epoch the client asks the brokers whether the log up to there is still the one that was read."""
    if slot.epoch < 0:
        return TopicPartition(name, partition, slot.offset)
    return TopicPartition(name, partition, slot.offset, leader_epoch=slot.epoch)


def _drain(consumer: Consumer, timeout_s: float, most: int) -> list[Message]:
    """The first message as soon as it is there, and whatever is there with it: consume() alone waits out its time."""
    first = consumer.poll(timeout_s)
    if first is None:
        return []
    return [first, *consumer.consume(most, 0)]


def _consumer_settings(client: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **client,
        "group.id": "keymill-view",  # the client wants one; nothing joins it and nothing is committed
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",  # a reset policy would hide a loss
        "isolation.level": "read_committed",
        "enable.partition.eof": True,  # tells the position where markers and holes end a partition
        "allow.auto.create.topics": False,
        "check.crcs": True,
        "fetch.wait.max.ms": 100,  # bounds how long a partition that was full waits for the fetch of the others
        "fetch.queue.backoff.ms": 5,
        "fetch.error.backoff.ms": 100,
        "queued.max.messages.kbytes": QUEUE_KIB,
        "reconnect.backoff.max.ms": 1000,
    }
