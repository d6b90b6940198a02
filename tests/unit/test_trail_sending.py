"""From the spool to the brokers: nothing is lost at the edges of batches, producers and the end."""

import os
import stat
import threading
import time
from pathlib import Path

import msgspec
import pytest

from keymill.errors import Unavailable
from keymill.trail import sender, spool
from keymill.trail.sender import Sender, send_spool
from keymill.trail.spool import Spool
from tests.unit.test_trail import MIB, Brokers, lost, numbered, sequences


def test_a_line_that_cannot_be_read_is_counted_and_costs_itself_only(tmp_path: Path) -> None:
    """Whoever damaged it, and wherever."""
    writer, before, brokers = Spool(tmp_path, "w", limit=MIB), lost(), Brokers()
    first, last = numbered(1)[0], numbered(1, 3)[0]
    told = msgspec.json.decode(first.partition(b" ")[2])
    damaged = [{"kids": ["z" * 32]}, {"timestamp": "now"}]
    writer.append([first, b"garbage", *(b"2 " + msgspec.json.encode(told | each) for each in damaged), last])
    writer.close()
    assert 2 == send_spool(tmp_path, brokers)
    assert ([1, 3], 3) == (sequences(brokers, "w"), lost() - before)


def test_more_lines_than_a_batch_all_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last one."""
    monkeypatch.setattr(sender, "BATCH", 4)
    writer, brokers = Spool(tmp_path, "w", limit=MIB), Brokers()
    writer.append(numbered(10))
    writer.close()
    assert 10 == send_spool(tmp_path, brokers)
    assert list(range(1, 11)) == sequences(brokers, "w")


def test_what_is_appended_is_synced_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It survives the machine, and so does the name of its file, once for each."""
    synced: list[int] = []
    folders: list[bool] = []
    monkeypatch.setattr(spool.os, "fdatasync", synced.append)
    monkeypatch.setattr(spool.os, "fsync", lambda place: folders.append(stat.S_ISDIR(os.fstat(place).st_mode)))
    writer = Spool(tmp_path, "w", limit=MIB)
    assert 1 == writer.append(numbered(1)) == writer.append(numbered(1, 2))
    assert ([writer._descriptor] * 2, [True]) == (synced, folders)
    writer.close()


class Counted(Brokers):
    """Closed or not."""

    closed = 0

    def close(self, timeout_s: float = 0.0) -> None:
        self.closed += 1


def test_a_sender_begins_again_with_another_producer_and_sends_what_is_left_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first one had under way must not come after what the next one sends."""
    monkeypatch.setattr(sender, "PERIOD_S", 0.005)
    monkeypatch.setattr(sender, "RETRY_S", 0.005)
    away, back, made = Counted(take=0), Counted(), []

    def connect() -> Counted:
        made.append(1)
        if len(made) == 1:
            raise Unavailable("away")
        return away if len(made) == 2 else back

    writer = Spool(tmp_path, "w", limit=MIB)
    writer.append(numbered(2))
    writer.close()
    sending = Sender(tmp_path, connect)
    sending.start()
    deadline = time.monotonic() + 10
    while len(back.events) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert ([1, 2], 1, 3) == (sequences(back, "w"), away.closed, len(made))
    monkeypatch.setattr(sender, "PERIOD_S", 60)
    time.sleep(0.05)  # it waits for a minute now
    writer.append(numbered(1, 3))
    writer.close()
    sending.close()
    assert ([1, 2, 3], 1) == (sequences(back, "w"), back.closed)
    assert [] == list(tmp_path.iterdir()) and not any(t.name == "audit-sender" for t in threading.enumerate())
