"""The file that becomes a broker, started as the broker is: without site packages."""

import os
import subprocess
import sys
from pathlib import Path

from keymill.kafka import launch


def start(record: Path) -> subprocess.CompletedProcess[str]:
    """Become `echo started`."""
    command = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(record), "/bin/echo", "started"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_the_process_is_noted_before_it_is_the_program(tmp_path: Path) -> None:
    """Its pid and start time stand in a file that is ours alone."""
    record = tmp_path / "process"
    done = start(record)
    assert (done.returncode, done.stdout) == (0, "started\n"), done.stderr
    pid, started = record.read_text(encoding="ascii").split()
    assert int(pid) > 1
    assert int(started) > 0
    assert record.stat().st_mode & 0o777 == 0o600


def test_no_note_is_written_through_a_link(tmp_path: Path) -> None:
    """The program is not started, and what the link names is as it was."""
    victim, record = tmp_path / "victim", tmp_path / "process"
    victim.write_text("mine", encoding="ascii")
    record.symlink_to(victim)
    done = start(record)
    assert done.returncode != 0
    assert (done.stdout, victim.read_text(encoding="ascii")) == ("", "mine")
