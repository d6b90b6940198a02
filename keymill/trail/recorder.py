"""
The way of audit events off the request path: a bounded queue, and a thread that writes it to the spool and the log.

The spool is the trail; the log shows the same lines to whoever looks, and misses some when nobody reads it.
"""

import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import msgspec

from keymill import telemetry
from keymill.trail import segments
from keymill.trail.line import AuditLine
from keymill.trail.spool import Spool

QUEUED: Final = 20_000
"""Lines that wait for the writer, about 10 MiB: seconds of a busy worker."""
PERIOD_S: Final = 0.25
PIPE_BUF: Final = 4096
"""POSIX writes this much to a pipe at once, so that lines of several workers stay whole."""
log = telemetry.logger("trail")
_encode: Final = msgspec.json.Encoder().encode


class Recorder:
    """
    The queue and its writer, a thread of this process.

    A line is made where the event happens, in 3 µs: a thread that made them would hold requests up for longer.

    Args:
        spool: None writes to the log alone.
        descriptor: of the log, stderr.
    """

    def __init__(self, spool: Spool | None = None, *, descriptor: int = 2) -> None:
        self._spool = spool
        self._descriptor = descriptor
        self._queue: deque[tuple[int, bytes]] = deque()
        self._sequence = 0
        self._failing = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, line: AuditLine) -> None:
        """
        Take an event; when the writer is behind, the event is lost and counted.

        Its sequence number is spent all the same, so that the topic shows the hole. Call it from one thread.
        """
        self._sequence += 1
        if len(self._queue) >= QUEUED:
            telemetry.AUDIT_LOST.inc()
            return
        self._queue.append((self._sequence, _encode(line)))

    def start(self) -> None:
        """Write in a thread until `close`."""
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is queued and end; may be repeated."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)

    def flush(self) -> None:
        """Write what is queued now."""
        batch = [self._queue.popleft() for _ in range(len(self._queue))]
        self._keep(batch)
        self._show([line for _, line in batch])

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self.flush()
        self.flush()
        if self._spool is not None:
            self._spool.close()

    def _keep(self, batch: Sequence[tuple[int, bytes]]) -> None:
        if self._spool is None:
            return
        lost, why = 0, "the spool is full: are the brokers away?"
        try:
            if batch:
                lost = len(batch) - self._spool.append([b"%d %b" % numbered for numbered in batch])
            else:
                self._spool.turn()
            telemetry.AUDIT_SPOOLED.set(segments.usage(self._spool.folder).size)
        except OSError as error:
            lost, why = len(batch), f"the spool cannot be written: {error.strerror}"
        if lost:
            telemetry.AUDIT_LOST.inc(lost)
        if lost and not self._failing:
            log.error("audit events are lost", reason=why, folder=str(self._spool.folder))
        self._failing = lost > 0 if batch else self._failing

    def _show(self, lines: Sequence[bytes]) -> None:
        chunk = b""
        for line in lines:
            if chunk and len(chunk) + len(line) >= PIPE_BUF:
                self._write(chunk)
                chunk = b""
            chunk += line + b"\n"
        self._write(chunk)

    def _write(self, chunk: bytes) -> None:
        try:
            while chunk and self._writable():
                chunk = chunk[os.write(self._descriptor, chunk) :]
        except OSError:
            return  # the log is gone; the spool has it

    def _writable(self) -> bool:
        """A log that nobody reads would hold up the spool."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(PERIOD_S * 1000))


def instance_name() -> str:
    """A name for this life of this process: host, process id, and eight digits that no other life has."""
    return f"{socket.gethostname()[:64]}-{os.getpid()}-{os.urandom(4).hex()}"


def utc(at_ms: int) -> str:
    """A moment as logs write it: UTC, milliseconds."""
    return f"{_second(at_ms // 1000)}.{at_ms % 1000:03d}Z"


@lru_cache(maxsize=8)
def _second(at_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_s))
