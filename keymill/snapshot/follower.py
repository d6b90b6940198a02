"""
The process that fills a view, and the handle by which a program keeps one as its child.

Run as `python -m keymill.snapshot.follower`, it reads `FollowerSettings` as JSON from stdin (no credential belongs in
a process list) and follows until SIGTERM. It dies with its parent. Exit status: 0 stopped; 75 the brokers were away and
there was nothing to serve; 78 going on would do harm, and nothing but a person can help.
"""

import asyncio
import ctypes
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Self

import msgspec

from keymill import telemetry
from keymill.errors import Retry, Stop
from keymill.kafka.authentication import older_below
from keymill.snapshot import store
from keymill.snapshot.following import FollowerSettings, follow
from keymill.snapshot.state import Heartbeat, HeartbeatFile, view_state

EXIT_RETRY: Final = 75
"""EX_TEMPFAIL of sysexits.h"""
EXIT_STOP: Final = 78
"""EX_CONFIG of sysexits.h"""
STOP_S: Final = 20.0
TEND_EVERY_S: Final = 0.5
BACKOFF_S: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Before each restart of a child that died; the last one for all that follow. A minute of life starts anew."""
_STEADY_S: Final = 60.0
STOPPED_AGAIN_S: Final = 10.0
"""Before the next try of a child that only a person can help, and how long it must live to count as helped."""
FROZEN_S: Final = 8.0
"""The follower beats five times a second, and twice a second while it waits for brokers; longer silence is a stop."""
_GC: Final = (50_000, 20, 100)
"""A bulk load makes millions of objects and no cycles; looking for some at the usual pace takes a tenth of its time."""
_PR_SET_PDEATHSIG: Final = 1
"""linux/prctl.h"""
log = telemetry.logger("snapshot.follower")


class Follower:
    """
    A follower as a child process: `start`, then `tend` it twice a second (or `await run()`), at the end `stop`.

    A child that dies, or gives no sign of life for 8 s, is started again with growing pauses. One that says that only
    a person can help is started again too, after 10 s, and `failure` is set meanwhile. What its view holds can be read
    all the while.
    """

    def __init__(
        self,
        folder: Path,
        topics: Sequence[str],
        client: Mapping[str, str | int | bool],
        *,
        key_file: Path,
        map_size: int = store.MAP_SIZE,
        log_level: str = "info",
    ) -> None:
        self.failure: str | None = None
        self.restarts = 0
        self._settings = FollowerSettings(
            folder=str(folder.absolute()),
            key_file=str(key_file.absolute()),
            authenticated_from=older_below(topics),
            topics=tuple(topics),
            client=dict(client),
            map_size=map_size,
            log_level=log_level,
            parent=os.getpid(),
        )
        self._child: subprocess.Popen[bytes] | None = None
        self._started = self._due = self._looked = 0.0
        self._heartbeat: HeartbeatFile | None = None
        self._deaths = 0

    @property
    def pid(self) -> int:
        """The child's process id, 0 when none runs."""
        return self._child.pid if self._child and self._child.poll() is None else 0

    def start(self) -> Self:
        """Start the child; returns at once, `SnapshotReader.open` waits for what it makes."""
        settings = msgspec.structs.replace(self._settings, parent=os.getpid())
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "keymill.snapshot.follower"],  # -P: the working folder may hold anything
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the program, which stops its child in order
        )
        assert self._child.stdin
        self._child.stdin.write(msgspec.json.encode(settings))
        self._child.stdin.close()
        self._started, self._due = time.monotonic(), 0.0
        return self

    def tend(self) -> None:
        """Start the child again if it has died and its pause is over. Costs a system call."""
        if self._child is None:
            return
        now = time.monotonic()
        if (status := self._child.poll()) is None:
            if self.failure and now - self._started > STOPPED_AGAIN_S:
                self.failure = None  # it has lived longer than whatever stopped it before takes
            self._end_if_frozen(now)
            return
        if not self._due:
            self._deaths = 1 if now - self._started > _STEADY_S else self._deaths + 1
            pause_s = BACKOFF_S[min(self._deaths, len(BACKOFF_S)) - 1]
            if status == EXIT_STOP:
                self.failure = f"the follower of {self._settings.folder} has stopped, see its last log line"
                pause_s = STOPPED_AGAIN_S
            self._due = now + pause_s
            log.warning(
                "follower ended and is started again", folder=self._settings.folder, status=status, after_s=pause_s
            )
        if now >= self._due:
            self.restarts += 1
            self.start()

    def _end_if_frozen(self, now: float) -> None:
        """Kill a child that gives no sign of life; it is started again as one that died."""
        if now - self._started < FROZEN_S or now - self._looked < TEND_EVERY_S:
            return
        self._looked = now
        silent_s = min(now - self._started, view_state(self._beat(), {}).unfollowed_s)
        if silent_s > FROZEN_S and self._child is not None:
            log.error("follower gives no sign of life and is killed", folder=self._settings.folder, silent_s=silent_s)
            telemetry.FROZEN.labels("follower").inc()
            self._child.kill()

    def _beat(self) -> Heartbeat | None:
        try:
            if self._heartbeat is None:
                self._heartbeat = HeartbeatFile(Path(self._settings.folder))
            return self._heartbeat.read()
        except (OSError, ValueError):
            return None  # not made yet

    async def run(self) -> None:
        """`tend` until cancelled."""
        while True:
            self.tend()
            await asyncio.sleep(TEND_EVERY_S)

    def stop(self, timeout_s: float = STOP_S) -> None:
        """End the child; it writes its view to disk first. May be repeated."""
        child, self._child = self._child, None
        if self._heartbeat is not None:
            self._heartbeat.close()
            self._heartbeat = None
        if child is None:
            return
        child.terminate()
        try:
            child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Stopping:
    """Set by SIGTERM or SIGINT, and when the parent is gone."""

    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._told = False
        signal.signal(signal.SIGTERM, self._tell)
        signal.signal(signal.SIGINT, self._tell)
        # The kernel sends it when the *thread* that started us ends too, so it only makes us look at our parent.
        signal.signal(signal.SIGUSR1, lambda _number, _frame: None)
        if parent and sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1, 0, 0, 0)

    def __call__(self) -> bool:
        return self._told or bool(self._parent and os.getppid() != self._parent)

    def _tell(self, _number: int, _frame: FrameType | None) -> None:
        self._told = True


def main() -> int:
    """Run the follower that stdin describes; gives the exit status."""
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=FollowerSettings)
    telemetry.configure("follower", settings.log_level)
    stopping = _Stopping(settings.parent)
    gc.freeze()
    gc.set_threshold(*_GC)
    try:
        follow(settings, stopping)
    except Stop as error:
        log.critical("view stopped", folder=settings.folder, reason=str(error))
        return EXIT_STOP
    except Retry as error:
        log.error("view has nothing to serve", folder=settings.folder, reason=str(error))
        return EXIT_RETRY
    return 0


if __name__ == "__main__":
    sys.exit(main())
