"""Many `keymill` command lines at once: an interpreter that has imported them all forks for each."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

FORKS: Final = """
import gc, json, os, sys, time
import typer.rich_utils, keymill.kafka.admin, keymill.kafka.producer  # what most of them import when they are called
from keymill.ops import cli

folder, lines = json.load(sys.stdin)
began, running = time.monotonic(), {}
gc.freeze()
for number, line in enumerate(lines):
    pid = os.fork()
    if not pid:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{folder}/{number}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        cli.main(line)
    running[pid] = number
ended = {}
while running:
    pid, status = os.wait()
    ended[running.pop(pid)] = (os.waitstatus_to_exitcode(status), time.monotonic() - began)
print(json.dumps([ended[number] for number in range(len(lines))]))
"""


class Ran(NamedTuple):
    """How a command ended, and how long after the first of all began."""

    code: int
    stdout: str
    stderr: str
    seconds: float


def run_all(lines: Sequence[Sequence[str]], *, timeout_s: float = 120, **environment: str) -> list[Ran]:
    """Run every command line without settings but these, all at the same time; the results in their order."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("KEYMILL_")}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", FORKS], input=json.dumps([folder, list(map(list, lines))]), text=True,
            env=bare | environment, capture_output=True, timeout=timeout_s, check=True,
        )  # fmt: skip
        said = [tuple((Path(folder) / f"{n}.{name}").read_text() for name in ("out", "err")) for n in range(len(lines))]
    return [
        Ran(code, out, err, seconds) for (code, seconds), (out, err) in zip(json.loads(done.stdout), said, strict=True)
    ]
