"""What the vigil concludes from answers that were on their way while the tail read on."""

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition as KafkaPartition
from confluent_kafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from keymill.errors import Misconfigured, Unavailable
from keymill.kafka import vigil
from keymill.kafka.cluster import end_offsets_with, offsets_since_with
from keymill.kafka.lens import Question, offsets
from keymill.kafka.overview import _starts
from keymill.kafka.positions import Described, known_offset
from keymill.kafka.scan import _first
from keymill.kafka.vigil import STRIKES, Vigil
from streams.fetch import _known

TOPIC = "drm.keys.v1"


class End:
    def __init__(self, offset: int) -> None:
        self.offset = offset


class SlowLens:
    """Brokers that look when they are asked and answer when they are told to."""

    def __init__(self) -> None:
        self.end = 0
        self.waiting: list[tuple[Future[Any], int]] = []

    def ask_ends(self, _places: Any) -> Question[TopicPartition]:
        future: Future[Any] = Future()
        self.waiting.append((future, self.end))
        return Question({TopicPartition(TOPIC, 0): future})

    def ask_topics(self, _topics: Any) -> Question[str]:
        return Question({TOPIC: Future()})

    def answer(self) -> None:
        future, end = self.waiting.pop()
        future.set_result(End(end))


@pytest.fixture
def lens(monkeypatch: pytest.MonkeyPatch) -> SlowLens:
    monkeypatch.setattr(vigil, "CONTACT_EVERY_S", 0.0)
    return SlowLens()


def watch(lens: SlowLens) -> Vigil:
    described = Described(topic_id="id", partitions=1)
    return Vigil(lens, {TOPIC: described}, {(TOPIC, 0): 0})  # type: ignore[arg-type]


def test_records_read_while_an_answer_is_on_its_way_are_no_truncation(lens: SlowLens) -> None:
    """An end that was true when it was asked for does not contradict what was read afterwards, however often."""
    watching, read = watch(lens), 0
    for _ in range(5 * STRIKES):
        watching.look(lambda: {(TOPIC, 0): read})
        lens.end = read = read + 2
        lens.answer()
        watching.look(lambda: {(TOPIC, 0): read})
    assert watching.notice is None


def test_an_end_below_what_was_read_before_is_truncation(lens: SlowLens) -> None:
    """What was read when the question was asked must be there; after three such answers the tail stops."""
    watching = watch(lens)
    lens.end = 3
    with pytest.raises(Misconfigured, match="truncated"):
        for _ in range(STRIKES):
            watching.look(lambda: {(TOPIC, 0): 5})
            lens.answer()
            watching.look(lambda: {(TOPIC, 0): 5})


def test_brokers_that_give_no_offset_say_nothing_about_the_log(lens: SlowLens) -> None:
    """A client that was not answered in time gives -1001: silence, however often, is no truncation, and is told."""
    watching = watch(lens)
    contact = watching.contact
    for _ in range(3 * STRIKES):
        lens.end = -1001
        watching.look(lambda: {(TOPIC, 0): 5})
        lens.answer()
        watching.look(lambda: {(TOPIC, 0): 5})
    assert watching.contact == contact
    assert "gave no offset of drm.keys.v1-0" in (watching.notice or "")
    lens.end = 7
    watching.look(lambda: {(TOPIC, 0): 5})
    lens.answer()
    watching.look(lambda: {(TOPIC, 0): 5})
    assert (None, {(TOPIC, 0): 7}) == (watching.notice, watching.ends)


@given(offset=st.integers(-(2**63), 2**63 - 1))
def test_no_reader_of_offsets_takes_a_negative_one(offset: int) -> None:
    """It is unavailable, for whoever asks."""
    if offset >= 0:
        assert offset == known_offset(TOPIC, 3, offset)
        return
    with pytest.raises(Unavailable, match=r"drm\.keys\.v1-3"):
        known_offset(TOPIC, 3, offset)


class Answering:
    """A client of any of the three libraries that gives one offset for everything."""

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def describe_topics(self, names):
        """As kafka-python's admin client."""
        return [
            {"topic": name, "name": name, "error_code": 0, "partitions": [{"partition_index": 3}]} for name in names
        ]

    def list_partition_offsets(self, wanted, isolation_level=""):
        """As kafka-python's admin client."""
        return {place: SimpleNamespace(offset=self.offset) for place in wanted}

    def get_watermark_offsets(self, _place, timeout):
        """As librdkafka's consumer."""
        return self.offset, 9


READERS = {
    "ends": lambda client: end_offsets_with(client, [TOPIC])[TOPIC][3],
    "starts": lambda client: _starts(client, {TOPIC: {3: 9}})[TOPIC][3],
    "since a time": lambda client: offsets_since_with(client, [3], TOPIC, 1).get(3),
    "the first of a scan": lambda client: _first(client, TOPIC, 3),
    "a lens": lambda client: offsets({TopicPartition(TOPIC, 3): SimpleNamespace(offset=client.offset)})[TOPIC, 3],
    "a processor": lambda client: _known(KafkaPartition(TOPIC, 3), {KafkaPartition(TOPIC, 3): client.offset}),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_of_offsets_says_unavailable(reader: str) -> None:
    """Silence of the brokers is no statement about the log, whichever client asked and for what."""
    ask = READERS[reader]
    assert 7 == ask(Answering(7))
    with pytest.raises(Unavailable, match=r"drm\.keys\.v1-3"):
        ask(Answering(-1001))
    if reader == "since a time":
        assert ask(Answering(-1)) is None, "no record is as young"
    else:
        with pytest.raises(Unavailable):
            ask(Answering(-1))
