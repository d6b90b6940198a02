"""Child programs of `keymill up`: started, watched, started again with backoff, stopped in order."""

import json
import os
import selectors
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import IO, Final

from keymill import telemetry
from keymill.durable import own_file
from keymill.errors import Unavailable
from keymill.telemetry import logger

KEYMILL: Final = (sys.executable, "-m", "keymill.ops.cli")
START_DEADLINE_S: Final = 60.0
"""A program answers within seconds; this is for a busy machine and a long catch-up."""
BACKOFF_S: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
HEALTHY_S: Final = 10.0
"""A child that lived this long starts again without waiting."""
FROZEN_S: Final = 8.0
"""A child that answers nobody for so long is killed and started again."""
ASK_EVERY_S: Final = 1.0
ANSWER_S: Final = 2.0
MISSES: Final = 3
"""Questions without an answer before that: one may be lost on a busy machine."""
ASK_S: Final = 0.05
STATUS_S: Final = 1.0
Stopped = Callable[[], bool]


def _never() -> bool:
    return False


log = logger("ops.supervise")


class Child:
    """
    One program as a child process.

    Its stdout is one line of JSON, `{"listening": "http://…"}`, when it answers, with `admin` where it has such a port.

    Args:
        environment: what it gets beside our own.
        trusts: the certificate that it answers with, if it speaks TLS; its host name is not looked at.
        log: file that its stderr is appended to; ours if None.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: Mapping[str, str],
        program: Sequence[str] = KEYMILL,
        trusts: Path | None = None,
        log: Path | None = None,
    ) -> None:
        self.name = name
        self._log = log
        self.environment = dict(environment)
        self.url = self.admin_url = ""
        self._command = [*program, *command, "--parent", str(os.getpid())]
        self._asks = _opener(trusts)
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._failures = 0
        self._next_start = 0.0
        self._asked = self._answered = 0.0
        self._misses = 0
        self._asking: threading.Thread | None = None

    @property
    def pid(self) -> int:
        """Its process id; 0 when it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else 0

    def start(self) -> None:
        """Start it; returns at once. Call from a thread that lives as long as the child should."""
        self._started = self._answered = time.monotonic()
        self._misses = 0
        with own_file(self._log, "ab") if self._log else nullcontext() as stderr:
            self._process = subprocess.Popen(
                self._command,
                env={**os.environ, **self.environment},
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C is for `keymill up`, which stops its children in order
            )

    def wait_listening(self, stopped: Stopped = _never) -> None:
        """Wait for its line, or until *stopped*; raises `Unavailable` when it ends before, or takes too long."""
        assert self._process is not None and self._process.stdout is not None
        line = _read_line(self._process.stdout, self._started + START_DEADLINE_S, stopped)
        if not line and stopped():
            return
        if not line:
            with suppress(subprocess.TimeoutExpired):  # its stdout closes a moment before it has a status
                self._process.wait(STATUS_S)
            status = self._process.poll()
            raise Unavailable(
                f"the {self.name} did not start (exit status {status}): its reason stands in the log above"
            )
        told = json.loads(line)
        self.url, self.admin_url = told["listening"], told.get("admin", told["listening"])

    def wait_ready(self, stopped: Stopped = _never) -> None:
        """Wait until it says 200 to /readyz, or until *stopped*."""
        while not stopped() and not self._is_ready():
            if not self.pid or time.monotonic() > self._started + START_DEADLINE_S:
                raise Unavailable(f"the {self.name} at {self.url} is not ready: see /readyz and the log above")
            time.sleep(ASK_S)

    def _is_ready(self) -> bool:
        try:
            with self._asks.open(f"{self.url}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def watch(self) -> None:
        """Start it again when it has ended and its backoff is over."""
        now = time.monotonic()
        if self.pid:
            self._end_if_frozen(now)
            return
        if self._process is not None:
            status = self._process.poll()
            self._failures = 0 if now - self._started > HEALTHY_S else self._failures + 1
            delay = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
            log.warning("child_ended", child=self.name, status=status, restart_in_s=delay)
            self._close()
            self._next_start = now + delay
        if now >= self._next_start:
            self.start()

    def _end_if_frozen(self, now: float) -> None:
        """Kill it when it answers nobody; a thread asks, since a frozen child keeps whoever asks waiting."""
        if not self.url or now - self._started < FROZEN_S or (self._asking and self._asking.is_alive()):
            return
        if now - self._answered > FROZEN_S and self._misses >= MISSES:
            log.error("child_frozen", child=self.name, silent_s=round(now - self._answered, 1))
            telemetry.FROZEN.labels(self.name).inc()
            self._misses = 0
            os.kill(self.pid, signal.SIGKILL)
        elif now - self._asked >= ASK_EVERY_S:
            self._asked = now
            self._asking = threading.Thread(target=self._ask, name=f"ask-{self.name}", daemon=True)
            self._asking.start()

    def _ask(self) -> None:
        try:
            with self._asks.open(f"{self.url}/healthz", timeout=ANSWER_S):
                pass
        except urllib.error.HTTPError:
            pass  # it answers
        except (urllib.error.URLError, OSError):
            self._misses += 1
            return
        self._misses, self._answered = 0, time.monotonic()

    def signal_stop(self) -> None:
        """Ask it to end."""
        if self._process is not None and self.pid:
            self._process.send_signal(signal.SIGTERM)

    def wait_stopped(self, deadline: float) -> None:
        """Wait until it has ended, and kill it at *deadline* (monotonic)."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.error("child_killed", child=self.name)
            self._process.kill()
            self._process.wait()
        self._close()

    def _close(self) -> None:
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None


def _read_line(stream: IO[bytes], deadline: float, stopped: Stopped) -> bytes:
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while time.monotonic() < deadline and not stopped():
            if selector.select(timeout=0.2):
                return stream.readline()
    return b""


def _opener(trusts: Path | None) -> urllib.request.OpenerDirector:
    """Our own children are asked directly, whatever HTTP proxy the environment names."""
    direct = urllib.request.ProxyHandler({})
    if trusts is None:
        return urllib.request.build_opener(direct)
    context = ssl.create_default_context(cafile=str(trusts))
    context.check_hostname = False
    return urllib.request.build_opener(direct, urllib.request.HTTPSHandler(context=context))
