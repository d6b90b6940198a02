"""`keymill up` as a child: started, read, asked for tokens, stopped."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from keymill.errors import Misconfigured, Unavailable

KEYMILL: tuple[str, ...] = (sys.executable, "-m", "keymill.ops.cli")
START_DEADLINE_S = 300.0  # the first start of all downloads the broker's jars
STOP_DEADLINE_S = 90.0  # every program may take 20 s, and they stop in order
LOG_LINES_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What an ingest system and a packager are handed; nothing of it is shown."""

    organization: str
    api_key: str = field(repr=False)
    ncp_access_key: str = field(repr=False)
    ncp_secret_key: str = field(repr=False)
    widevine_signer: str
    widevine_key_hex: str = field(repr=False)
    widevine_iv_hex: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pids:
    """The children of `keymill up` as they stood when it printed its line."""

    kafka: int | None = None
    processor: list[int]
    gateway: int
    proxy: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Up:
    """The line that `keymill up` prints when everything answers."""

    kafka: str
    gateway: str
    proxy: str
    data: str
    credentials: Credentials
    pids: Pids
    service: dict[str, str]
    admin: dict[str, str]


@dataclass(frozen=True, slots=True)
class Stack:
    """A running `keymill up`: its line, its own process id, and the file that holds its stderr."""

    up: Up
    pid: int
    log: Path


@contextlib.contextmanager
def running(
    data: Path, *, log: Path, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[Stack]:
    """
    Start `keymill up --data DATA ARGUMENTS`, wait for its line, and stop it by SIGTERM at the end.

    It gets a session of its own, so that a Ctrl-C reaches it once, from us, after the block has ended. If we are
    killed, it stops by itself.

    Raises:
        Misconfigured: it ended or printed something else; the message holds the end of its log.
        Unavailable: it printed nothing for 300 s.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [*KEYMILL, "up", "--data", str(data), "--parent", str(os.getpid()), *arguments]
    with log.open("ab") as stderr:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, stdin=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
    try:
        yield Stack(_first_line(process, log), process.pid, log)
    finally:
        _stop(process)


def issue_token(data: Path, *options: str, organization: str, asset: str, expires_in_s: int) -> str:
    """A player token from `keymill token issue`; negative *expires_in_s* makes one that has expired already."""
    scope = ["--data", str(data), "--organization", organization, "--asset", asset, "--expires-in", str(expires_in_s)]
    command = [*KEYMILL, "token", "issue", *scope, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip():
        raise Misconfigured(f"keymill token issue ended with exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def _first_line(process: "subprocess.Popen[bytes]", log: Path) -> Up:
    assert process.stdout is not None
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        if select.select([process.stdout], [], [], 0.5)[0]:
            line = process.stdout.readline()
            if not line:
                raise Misconfigured(f"keymill up ended with exit code {process.wait()}:\n{_end_of(log)}")
            try:
                return msgspec.json.decode(line, type=Up)
            except msgspec.DecodeError as error:
                raise Misconfigured(f"keymill up printed a line that is not its contract: {error}") from None
    raise Unavailable(f"keymill up did not get ready within {START_DEADLINE_S:.0f} s:\n{_end_of(log)}")


def _end_of(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
    return "\n".join(["  " + line for line in lines] + [f"  (all of it: {log})"])


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise Unavailable(f"keymill up (process {process.pid}) did not stop within {STOP_DEADLINE_S:.0f} s") from None
    finally:
        if process.stdout is not None:
            process.stdout.close()
