"""The command line without a broker: what it says about mistakes, on one line, and with which exit code."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pytest

NOBODY = "127.0.0.1:1"


def keymill(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in an environment without settings but these."""
    command = [sys.executable, "-m", "keymill.ops.cli", *map(str, arguments)]
    bare = {name: value for name, value in os.environ.items() if not name.startswith("KEYMILL_")}
    return subprocess.run(command, env=bare | environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file where a folder is wanted."""
    path = tmp_path / "file"
    path.touch()
    return path


def test_version_is_the_distributions() -> None:
    """Alone on stdout."""
    done = keymill("--version")
    assert (0, version("keymill") + "\n", "") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ["up"],
        ["token", "issue", "--organization", "demo", "--asset", "film"],
        ["explain", "00000000-0000-8000-8000-000000000000"],
    ],
    ids=" ".join,
)
def test_a_data_folder_that_is_a_file_is_a_mistake_of_one_line(file: Path, arguments: Sequence[str]) -> None:
    """It names the path, exits with 2, and shows no trace."""
    done = keymill(*arguments, "--data", file, KEYMILL_LOG_LEVEL="warning")
    assert (2, "", 1) == (done.returncode, done.stdout, len(done.stderr.splitlines())), done.stderr
    assert str(file) in done.stderr


def test_a_data_folder_that_cannot_be_made_is_named() -> None:
    """The system's reason stands beside it."""
    done = keymill("up", "--data", "/proc/keymill", KEYMILL_LOG_LEVEL="warning")
    said = "keymill: /proc/keymill: No such file or directory: name another path, or make this one usable\n"
    assert (2, said) == (done.returncode, done.stderr)


@pytest.mark.parametrize("program", ["gateway", "proxy"])
def test_a_program_says_in_its_log_why_it_ended(tmp_path: Path, program: str) -> None:
    """The last line is JSON like all others: critical, with the reason and the exit code."""
    keys = tmp_path / "keys.json"
    keys.mkdir()
    done = keymill(program, "--data", tmp_path, "--bootstrap", NOBODY)
    line = json.loads(done.stderr.splitlines()[-1])
    assert (2, 2, "critical", program) == (done.returncode, line["exit_code"], line["level"], line["program"])
    assert line["error"].startswith(f"key file {keys} is no file")


def test_settings_that_no_program_takes_are_told_in_its_log() -> None:
    """What goes wrong before the program configures its log is JSON too."""
    done = keymill("processor", KEYMILL_GRUOP="x")
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (2, "critical", "processor") == (done.returncode, line["level"], line["program"])
    assert "KEYMILL_GRUOP" in line["error"]


def test_brokers_that_are_away_are_one_line() -> None:
    """The client library's own complaints do not drown it."""
    done = keymill("topics", "show", "--bootstrap", NOBODY)
    assert (3, "", 1) == (done.returncode, done.stdout, len(done.stderr.splitlines())), done.stderr
    assert NOBODY in done.stderr
