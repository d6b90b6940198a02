"""Logs as a program writes them: one JSON object per line on stderr, whoever logs and whatever is logged."""

import json
import re
import subprocess
import sys
from typing import Any

import pytest

PROLOGUE = """
import logging, threading, warnings
from keymill import telemetry
from keymill.secret import Secret
telemetry.configure("tested", LEVEL)
log = telemetry.logger("unit.part")
"""
TIME = re.compile(r"20\d\d-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-6]\d\.\d{3}Z")


def logged(code: str, level: str = "info") -> list[dict[str, Any]]:
    """What a program of its own writes to stderr, line by line; nothing goes to stdout."""
    program = PROLOGUE.replace("LEVEL", repr(level)) + code
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env={"TZ": "Asia/Tokyo"}
    )
    assert (0, "") == (done.returncode, done.stdout)
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_a_line_says_what_who_when_and_how_bad() -> None:
    """UTC milliseconds whatever the machine's zone, and the fields that were given."""
    (line,) = logged("log.warning('dead_letter', partition=3, reason='null_key')")
    assert TIME.fullmatch(line.pop("timestamp"))
    expected = {"event": "dead_letter", "logger": "keymill.unit.part", "level": "warning", "program": "tested"}
    assert expected | {"partition": 3, "reason": "null_key"} == line


def test_the_time_is_utc() -> None:
    """It is the second in which it was logged, not nine hours later."""
    (line,) = logged("import time; log.info('now', second=time.strftime('%Y-%m-%dT%H:%M', time.gmtime()))")
    assert line["timestamp"].startswith(line["second"])


def test_the_request_id_of_the_moment_is_in_every_line() -> None:
    """Ours and the libraries'; one that is given goes before it; without one there is no member."""
    lines = logged("""
log.info("before")
telemetry.request_id.set("r-1")
log.info("ours")
logging.getLogger("some.library").warning("theirs")
log.info("given", request_id="r-2")
threading.Thread(target=lambda: log.info("elsewhere")).start()
""")
    assert [None, "r-1", "r-1", "r-2", None] == [line.get("request_id") for line in lines]


def test_libraries_log_the_same_way() -> None:
    """Their arguments are put in, their loggers named; below warning they are silent."""
    lines = logged("""
logging.getLogger("some.library").info("chatter")
logging.getLogger("some.library").warning("%s of %d", "two", 3, extra={"shard": 7})
""")
    assert [("two of 3", "some.library", 7)] == [(line["event"], line["logger"], line["shard"]) for line in lines]


@pytest.mark.parametrize(("level", "seen"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_is_the_least_that_is_logged(level: str, seen: int) -> None:
    """Of our own events."""
    code = "log.debug('a'); log.info('b'); log.warning('c'); log.error('d')"
    assert ["a", "b", "c", "d"][-seen:] == [line["event"] for line in logged(code, level)]


def test_a_line_stays_a_line() -> None:
    """Whatever stands in a value: line breaks, bytes, objects, an exception with its trace."""
    lines = logged("""
log.info("many\\nlines", text="a\\r\\nb\\u2028c", raw=b"\\x00\\xff", thing=object(), table={"k": ("v",)})
try:
    raise ValueError("first\\nsecond")
except ValueError:
    log.exception("it_failed")
    logging.getLogger("some.library").exception("theirs")
""")
    assert ["many\nlines", "it_failed", "theirs"] == [line["event"] for line in lines]
    assert all("ValueError: first\nsecond" in line["exception"] for line in lines[1:])
    assert {"k": ["v"]} == lines[0]["table"]


def test_a_secret_is_no_text() -> None:
    """A slip that logs one writes its size."""
    lines = logged('log.info("slip", key=Secret(b"x" * 32)); log.info(str(Secret(b"y")))')
    assert ["Secret(32 bytes)", "Secret(1 bytes)"] == [lines[0]["key"], lines[1]["event"]]


def test_warnings_are_lines_too() -> None:
    """What Python and its libraries warn of does not break the format."""
    (line,) = logged("warnings.warn('old way', UserWarning)")
    assert "old way" in line["event"]
    assert "warning" == line["level"]


def test_configuring_twice_logs_once() -> None:
    """The command line configures for itself, then the program it runs."""
    (line,) = logged("telemetry.configure('second'); log.info('once')")
    assert "second" == line["program"]
