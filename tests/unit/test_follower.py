"""A follower as a child: what is done when it ends, and when it only stands still. There are no brokers here."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keymill.proxy.standing import Standing, StandingFile
from keymill.snapshot import follower as module
from keymill.snapshot.follower import EXIT_STOP, Follower
from keymill.snapshot.state import HeartbeatFile
from schemas import topics

NOBODY = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0}


@pytest.fixture
def follower(tmp_path: Path) -> Iterator[Follower]:
    """One that waits for brokers, and beats."""
    made = Follower(tmp_path / "view", (topics.KEYS.name,), NOBODY, key_file=tmp_path / "keys.json")
    yield made.start()
    made.stop()


def until(done: Callable[[], object], wait_s: float = 20.0) -> None:
    deadline = time.monotonic() + wait_s
    while not done():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def beats(folder: Path) -> bool:
    try:
        return HeartbeatFile(folder).read() is not None
    except (OSError, ValueError):
        return False


def test_a_follower_that_stands_still_is_killed_and_started_again(
    follower: Follower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It beats while it waits for brokers, so that alone is no reason; stopped, it does not."""
    until(lambda: beats(tmp_path / "view"))
    monkeypatch.setattr(module, "FROZEN_S", 2.0)
    before, began = follower.pid, time.monotonic()
    while time.monotonic() - began < 4.0:
        follower.tend()
        time.sleep(0.05)
    assert before == follower.pid
    os.kill(before, signal.SIGSTOP)
    until(lambda: (follower.tend(), follower.pid not in (0, before))[1])
    assert 1 == follower.restarts


def test_a_follower_that_only_a_person_can_help_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so meanwhile, and no longer once it lives: a topic that was put right need not be told to anybody."""
    monkeypatch.setattr(module, "STOPPED_AGAIN_S", 0.5)
    follower = Follower(tmp_path / "view", ("no.topic.of.ours",), NOBODY, key_file=tmp_path / "keys.json")
    (tmp_path / "view").write_text("a file where a folder must be")
    follower.start()
    try:
        until(lambda: (follower.tend(), follower.failure)[1])
        assert "has stopped" in str(follower.failure)
        until(lambda: (follower.tend(), follower.restarts > 1)[1])
        (tmp_path / "view").unlink()
        until(lambda: (follower.tend(), follower.failure is None and follower.pid)[1])
    finally:
        follower.stop()
    assert 78 == EXIT_STOP


def test_a_workers_sign_of_life_is_the_age_of_its_file(tmp_path: Path) -> None:
    """Nothing is written while nothing changes; the file is touched all the same."""
    file = StandingFile(tmp_path / "0.json")
    assert 0.0 == file.age_s()
    file.write(Standing(waits_for=None, keks=()))
    os.utime(file.path, (time.time() - 60, time.time() - 60))
    file.write(Standing(waits_for=None, keks=()))
    assert file.age_s() > 50
    file.touch()
    assert file.age_s() < 5
