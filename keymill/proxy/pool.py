"""The workers of a proxy as child processes: started on one socket, started again when they die, stopped in order."""

import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import msgspec

from keymill import telemetry
from keymill.config import ProxySettings
from keymill.durable import own_folder
from keymill.errors import Misconfigured
from keymill.proxy.standing import Standing, StandingFile, together
from keymill.proxy.worker import EXIT_STOP, Told
from keymill.settings_text import told

BACKOFF_S: Final = (0.05, 0.2, 1.0, 2.0, 5.0)
"""Before each restart of a worker that died; the last one for all that follow. A minute of life starts anew."""
STEADY_S: Final = 60.0
FROZEN_S: Final = 8.0
"""A worker touches its file every second; longer silence is a loop that stands still."""
LOOK_EVERY_S: Final = 0.5
log = telemetry.logger("proxy.pool")


class WorkerHandle:
    """One worker; `tend` it often."""

    def __init__(self, told: Told, environment: Mapping[str, str]) -> None:
        self._told = told
        self.standing = StandingFile(Path(told.standing))
        self._environment = dict(environment)
        self._child: subprocess.Popen[bytes] | None = None
        self._deaths = 0
        self._started = 0.0
        self._due = 0.0
        self._asked = 0.0

    @property
    def pid(self) -> int:
        """Its process id, 0 when it does not run."""
        return self._child.pid if self._child and self._child.poll() is None else 0

    def start(self) -> None:
        """Start the process; connections wait in the socket's backlog until it answers."""
        self.standing.forget()
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "keymill.proxy.worker"],  # -P: the working folder may hold anything
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment,
            pass_fds=tuple(each for each in (self._told.listening, self._told.admin) if each >= 0),
            start_new_session=True,  # Ctrl-C is for the proxy, which stops its workers in order
        )
        assert self._child.stdin is not None
        self._child.stdin.write(msgspec.json.encode(self._told))
        self._child.stdin.close()
        self._started, self._due = time.monotonic(), 0.0

    def wait_answering(self) -> bool:
        """Wait for the line it prints when it answers; False when it ended before."""
        assert self._child is not None and self._child.stdout is not None
        return bool(self._child.stdout.readline())

    def tend(self) -> None:
        """
        Start it again when it has died and its pause is over.

        Raises:
            Misconfigured: it says that only a person can help; its reason is its last log line.
        """
        if self._child is None:
            return
        if (status := self._child.poll()) is None:
            self._end_if_frozen(self._child)
            return
        if status == EXIT_STOP:
            raise Misconfigured("a worker has stopped for good: its last log line says why")
        now = time.monotonic()
        if not self._due:
            self.standing.forget()
            self._deaths = 1 if now - self._started > STEADY_S else self._deaths + 1
            self._due = now + BACKOFF_S[min(self._deaths, len(BACKOFF_S)) - 1]
            log.warning("worker died and is started again", status=status)
        if now >= self._due:
            self._close()
            self.start()

    def _end_if_frozen(self, child: "subprocess.Popen[bytes]") -> None:
        """Kill a worker whose loop stands still, which would keep the connections that it has accepted."""
        now = time.monotonic()
        if now - self._asked < LOOK_EVERY_S or now - self._started < FROZEN_S:
            return
        self._asked = now
        if (silent_s := self.standing.age_s()) > FROZEN_S:
            log.error("worker gives no sign of life and is killed", silent_s=round(silent_s, 1))
            telemetry.FROZEN.labels("worker").inc()
            child.kill()

    def signal_stop(self) -> None:
        """Ask it to end."""
        if self._child is not None:
            self._child.terminate()

    def wait_stopped(self, deadline: float) -> None:
        """Wait for its end, and kill it at *deadline* (monotonic)."""
        if self._child is None:
            return
        try:
            self._child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.error("worker did not stop in time and was killed")
            self._child.kill()
            self._child.wait()
        self._close()

    def _close(self) -> None:
        if self._child is not None and self._child.stdout is not None:
            self._child.stdout.close()
        self._child = None


class Pool:
    """All workers on the same sockets, whose connections wait for the others while one is started again."""

    def __init__(
        self,
        settings: ProxySettings,
        bound: socket.socket,
        admin: socket.socket | None = None,
        *,
        parent: int,
        environment: Mapping[str, str],
    ) -> None:
        self.folder = folder = own_folder(settings.data / "views" / "proxy-standing")
        whole = Told(
            settings=told(settings), listening=bound.fileno(), admin=admin.fileno() if admin else -1, parent=parent,
            standing="",
        )  # fmt: skip
        self._stop_timeout_s = settings.stop_timeout_s
        self.workers = [
            WorkerHandle(msgspec.structs.replace(whole, standing=str(folder / f"{number}.json")), environment)
            for number in range(settings.workers)
        ]

    def start(self) -> Self:
        """Start all and wait until each answers or has ended, which `tend` then sees."""
        for worker in self.workers:
            worker.start()
        for worker in self.workers:
            worker.wait_answering()
        return self

    def standing(self) -> Standing:
        """What holds of all workers."""
        return together([worker.standing.read() for worker in self.workers])

    def tend(self) -> None:
        """`WorkerHandle.tend` for all."""
        for worker in self.workers:
            worker.tend()

    def stop(self) -> None:
        """Stop all; each finishes its requests within the stop timeout."""
        for worker in self.workers:
            worker.signal_stop()
        deadline = time.monotonic() + self._stop_timeout_s + 1.0
        for worker in self.workers:
            worker.wait_stopped(deadline)
