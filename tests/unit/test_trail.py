"""The audit trail: what is taken survives, in order, within its bound; what is lost is counted; requests never wait."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill import telemetry
from keymill.errors import InvalidRecord, Unavailable
from keymill.kafka.delivery import Delivery
from keymill.kafka.producer import Outgoing
from keymill.trail import segments, spool
from keymill.trail.line import AuditLine, event_of
from keymill.trail.recorder import QUEUED, Recorder, utc
from keymill.trail.sender import send_spool
from keymill.trail.spool import Spool
from schemas.audit import AuditEvent
from schemas.codec import decode

MIB = 1 << 20
LINE = AuditLine(timestamp=utc(1_000), event="license", program="proxy", request_id="r", reason="granted")


class Brokers:
    """Takes batches as a `Publisher` does, until it is told to be away."""

    def __init__(self, *, take: int = 1 << 30) -> None:
        self.events: list[AuditEvent] = []
        self.keys: set[bytes] = set()
        self._take = take

    def send_batch(self, records: Sequence[Outgoing]) -> Delivery:
        """What is taken before the brokers go away stays taken."""
        for record in records:
            if len(self.events) >= self._take:
                break
            self.events.append(decode(record.value or b"", AuditEvent))
            self.keys.add(record.record_key)
        return Delivery([])

    def flush_all(self, deliveries: Sequence[Delivery]) -> None:
        """Raises when the brokers are away."""
        if len(self.events) >= self._take:
            raise Unavailable("away")

    def close(self, timeout_s: float = 0.0) -> None:
        """Nothing."""


def lost() -> float:
    """The counter."""
    return float(telemetry.AUDIT_LOST._value.get())


def numbered(count: int, start: int = 1) -> list[bytes]:
    """Lines as the recorder spools them."""
    return [b"%d %b" % (number, msgspec.json.encode(LINE)) for number in range(start, start + count)]


def sequences(brokers: Brokers, instance: str) -> list[int]:
    """What arrived of a writer, the first of each duplicate, in order of arrival."""
    return list(dict.fromkeys(event.sequence for event in brokers.events if event.instance == instance))


@given(batches=st.lists(st.integers(0, 7), max_size=8), ends=st.sampled_from(["closed", "killed", "torn"]))
def test_what_was_taken_arrives_in_order_whatever_ends_the_writer(
    tmp_path_factory: pytest.TempPathFactory, batches: list[int], ends: str
) -> None:
    """Closed, killed between two batches, or killed within a line: all that `append` counted is sent, once."""
    folder, brokers, taken = tmp_path_factory.mktemp("spool"), Brokers(), 0
    writer = Spool(folder, "w", limit=MIB)
    for size in batches:
        taken += writer.append(numbered(size, taken + 1))
    assert sum(batches) == taken
    send_spool(folder, brokers)
    if ends == "closed":
        writer.close()
    elif writer._descriptor >= 0:
        if ends == "torn":
            os.write(writer._descriptor, b'%d {"timestamp":"20' % (taken + 1))
        os.close(writer._descriptor)  # the lock goes with the process
    send_spool(folder, brokers)
    assert list(range(1, taken + 1)) == [event.sequence for event in brokers.events]
    assert [] == list(folder.iterdir())


@given(takes=st.lists(st.integers(0, 12), max_size=6), sizes=st.lists(st.integers(1, 5), max_size=5))
def test_a_sender_that_dies_anywhere_sends_the_segment_again(
    tmp_path_factory: pytest.TempPathFactory, takes: list[int], sizes: list[int]
) -> None:
    """Nothing is missing and the first of each event comes in order; duplicates have the same sequence number."""
    folder, brokers, number = tmp_path_factory.mktemp("spool"), Brokers(), 1
    writer = Spool(folder, "w", limit=MIB)
    for size in sizes:
        assert size == writer.append(numbered(size, number))
        writer.close()
        number += size
    for take in takes:
        brokers._take = len(brokers.events) + take
        try:
            send_spool(folder, brokers)
        except Unavailable:
            continue
    brokers._take = 1 << 30
    send_spool(folder, brokers)
    assert list(range(1, number)) == sequences(brokers, "w")
    assert {b"proxy/w"} >= brokers.keys


def test_a_living_writer_s_segment_is_left_alone(tmp_path: Path) -> None:
    """Its lock says so; another writer's orphan is sent."""
    living, dead = Spool(tmp_path, "living", limit=MIB), Spool(tmp_path, "dead", limit=MIB)
    assert (2, 2) == (living.append(numbered(2)), dead.append(numbered(2)))
    os.close(dead._descriptor)
    brokers = Brokers()
    assert 2 == send_spool(tmp_path, brokers)
    assert {b"proxy/dead"} == brokers.keys
    living.close()
    assert 2 == send_spool(tmp_path, brokers)


def test_a_spool_never_takes_more_than_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is lost and counted, the oldest kept; when the brokers are back it takes again."""
    monkeypatch.setattr(spool, "SEGMENT_BYTES", 2_000)
    limit = 40_000
    recorder = Recorder(Spool(tmp_path, "w", limit=limit), descriptor=os.open(os.devnull, os.O_WRONLY))
    before = lost()
    for _ in range(60):
        for _ in range(10):
            recorder.note(LINE)
        recorder.flush()
        assert segments.usage(tmp_path).size <= limit
    missing = int(lost() - before)
    assert missing > 0
    brokers = Brokers()
    recorder._spool.close()  # type: ignore[union-attr]
    kept = send_spool(tmp_path, brokers)
    assert 600 == kept + missing
    assert sorted(event.sequence for event in brokers.events) == [event.sequence for event in brokers.events]
    recorder.note(LINE)
    recorder.flush()
    recorder.close()
    recorder._spool.close()  # type: ignore[union-attr]
    send_spool(tmp_path, brokers)
    assert 601 == brokers.events[-1].sequence
    assert lost() - before == missing


def test_a_full_queue_is_counted_and_leaves_a_hole_in_the_sequence(tmp_path: Path) -> None:
    """What does not fit the queue is lost, not waited for; whoever reads the topic sees how many."""
    before = lost()
    recorder = Recorder(Spool(tmp_path, "w", limit=64 * MIB), descriptor=os.open(os.devnull, os.O_WRONLY))
    for _ in range(QUEUED + 3):
        recorder.note(LINE)
    assert 3 == lost() - before
    recorder.flush()
    recorder.note(LINE)
    recorder.flush()
    recorder._spool.close()  # type: ignore[union-attr]
    brokers = Brokers()
    send_spool(tmp_path, brokers)
    assert [QUEUED, QUEUED + 4] == [event.sequence for event in brokers.events][-2:]
    assert 3 == lost() - before


def test_a_disk_that_refuses_is_counted_and_costs_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space: the batch is lost and counted, half a line of it is taken back, and what follows is kept."""
    writer = Spool(tmp_path, "w", limit=MIB)
    recorder = Recorder(writer, descriptor=os.open(os.devnull, os.O_WRONLY))
    before, real = lost(), os.write
    recorder.note(LINE)
    recorder.flush()

    def refuse(descriptor: int, data: bytes) -> int:
        """Half a line is written, then the disk is full."""
        if bytes(data).startswith(b"2 "):
            return real(descriptor, bytes(data)[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("keymill.trail.spool.os.write", refuse)
        recorder._keep([(2, msgspec.json.encode(LINE))])
    assert 1 == lost() - before
    recorder._sequence = 2
    recorder.note(LINE)
    recorder.flush()
    writer.close()
    brokers = Brokers()
    send_spool(tmp_path, brokers)
    assert [1, 3] == [event.sequence for event in brokers.events]
    assert 1 == lost() - before


def test_of_a_batch_that_does_not_fit_the_beginning_is_kept(tmp_path: Path) -> None:
    """To the line, so that the bound holds however much comes at once."""
    writer = Spool(tmp_path, "w", limit=40_000)
    lines = numbered(1_000)
    taken = writer.append(lines)
    assert 40_000 - len(lines[-1]) <= segments.usage(tmp_path).size <= 40_000
    writer.close()
    brokers = Brokers()
    send_spool(tmp_path, brokers)
    assert list(range(1, taken + 1)) == sequences(brokers, "w")


def test_a_log_that_nobody_reads_holds_nothing_up(tmp_path: Path) -> None:
    """The spool has the events although the pipe of the log is full."""
    end, full = os.pipe()
    recorder = Recorder(Spool(tmp_path, "w", limit=MIB), descriptor=full)
    os.set_blocking(full, False)
    try:
        while True:
            os.write(full, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(full, True)
    recorder.start()
    recorder.note(LINE)
    recorder.close()
    brokers = Brokers()
    send_spool(tmp_path, brokers)
    assert [1] == sequences(brokers, "w")
    os.close(end)
    os.close(full)


def test_an_event_is_what_its_line_says() -> None:
    """Times to the millisecond; what nobody has checked is cut, and what can be no KID left out."""
    line = msgspec.structs.replace(
        LINE, timestamp=utc(1_764_070_000_123), kids=("00" * 16, "ff"), asset="x" * 9000, reason="token_expired"
    )
    event = event_of(b"7 " + msgspec.json.encode(line), "w")
    assert (1_764_070_000_123, 7, "w", False) == (event.at, event.sequence, event.instance, event.granted)
    assert (bytes(16),) == event.kids
    assert 512 == len(event.asset)
    for torn in (b"", b"7", b"7 {", b"x " + msgspec.json.encode(line), b"\0\0\0"):
        with pytest.raises(InvalidRecord):
            event_of(torn, "w")


def test_noting_costs_microseconds() -> None:
    """Far below the 100 µs of a license, with a wide margin for a busy machine; nothing waits for disk or broker."""
    recorder = Recorder()
    best = min(_timed(recorder) for _ in range(5))
    assert best < 30e-6


def _timed(recorder: Recorder) -> float:
    recorder._queue.clear()
    began = time.perf_counter()
    for _ in range(2_000):
        recorder.note(LINE)
    return (time.perf_counter() - began) / 2_000


def test_events_of_two_writers_keep_each_its_order(tmp_path: Path) -> None:
    """Also when their segments interleave."""
    first, second = (Spool(tmp_path, name, limit=MIB) for name in ("a", "b"))
    for number in range(1, 4):
        for writer in (second, first):
            writer.append(numbered(1, number))
            writer.close()
    brokers = Brokers()
    send_spool(tmp_path, brokers)
    assert [1, 2, 3] == sequences(brokers, "a") == sequences(brokers, "b")


def test_every_field_is_documented() -> None:
    """docs/audit.md names each."""
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
    assert [] == [name for name in AuditEvent.__struct_fields__ if f"`{name}`" not in page]
