"""What the vigil concludes from answers that were on their way while the tail read on."""

from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from keymill.errors import Misconfigured, Unavailable
from keymill.kafka import vigil
from keymill.kafka.lens import Question
from keymill.kafka.positions import Described, known_offset
from keymill.kafka.vigil import STRIKES, Vigil

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
