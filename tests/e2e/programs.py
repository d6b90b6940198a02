"""Programs of keymill as processes of a test: started, watched, killed, frozen, started again."""

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

SEED: Final = int(os.environ.get("KEYMILL_TEST_SEED") or secrets.randbelow(2**32))
CLI: Final = (sys.executable, "-m", "keymill.ops.cli")
START_S: Final = 60.0
DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def rng(name: str) -> random.Random:
    """Draws of one test, apart from those of the others."""
    print(f"KEYMILL_TEST_SEED={SEED} ({name})")
    return random.Random(f"{SEED}/{name}")


def wait_for(what: Callable[[], Any], timeout_s: float = 60, every_s: float = 0.05) -> Any:
    """The first true answer of *what*; fails, naming the seed, when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while not (answer := what()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s (KEYMILL_TEST_SEED={SEED})"
        time.sleep(every_s)
    return answer


class Program:
    """One keymill program as a process; its log is kept, its first line says where it listens."""

    def __init__(self, command: str, data: Path, bootstrap: str, log: Path, **environment: str) -> None:
        self.name, self.log, self.url, self.admin = command, log, "", ""
        self._command = [*CLI, command, "--data", str(data), "--bootstrap", bootstrap, "--port", "0"]
        self._command += ["--parent", str(os.getpid())]
        self._environment = {**os.environ, "KEYMILL_MAP_SIZE_GIB": "4", **environment}
        self.process = self._spawn()

    def _spawn(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as stderr:
            return subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=stderr, env=self._environment)

    def again(self, **environment: str) -> None:
        """Start it anew, as its supervisor would; the crash point is not armed again."""
        self._close()
        self.url = ""
        self._environment = {k: v for k, v in self._environment.items() if k != "KEYMILL_TEST_CRASH_AT"} | environment
        self.process = self._spawn()

    def tend(self) -> None:
        """Start it again if it has ended."""
        if self.process.poll() is not None:
            self.again()

    def wait_ready(self) -> None:
        """Return when /readyz says 200."""
        if not self.url:
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            assert line, self.tail()
            told = json.loads(line)
            self.url, self.admin = told["listening"], told.get("admin", told["listening"])
        wait_for(lambda: self.process.poll() is not None or get(f"{self.url}/readyz")[0] == 200, START_S)
        assert self.process.poll() is None, self.tail()

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 60) -> int:
        """Its exit status."""
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, once it listens to signals; the exit status."""
        if not self.url:
            self.wait_ready()
        self.signal(signal.SIGTERM)
        return self.wait(40)

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:]

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        rows = [row.rsplit(" ", 1) for row in get(f"{self.admin}/metrics")[1].decode().splitlines()]
        return sum(float(row[1]) for row in rows if row[0].partition("{")[0] == name)

    def children(self) -> list[int]:
        """Its child processes."""
        return children_of(self.process.pid)

    def end(self) -> None:
        """Whatever its state, gone afterwards."""
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.kill()
        self._close()

    def _close(self) -> None:
        if self.process.stdout is not None:
            self.process.stdout.close()


def children_of(parent: int) -> list[int]:
    """Living child processes of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            state, owner = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if owner == str(parent) and state != "Z":
            found.append(int(entry.name))
    return found


def get(url: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """Status and body; (0, b"") when nobody answers."""
    try:
        with DIRECT.open(urllib.request.Request(url, data=body, headers=headers), timeout=15) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except (urllib.error.URLError, OSError):
        return 0, b""
