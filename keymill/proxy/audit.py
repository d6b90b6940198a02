"""
What was licensed and what was refused, without secrets, as JSON lines on stderr.

Never on the request path: an event goes into a bounded queue, and what does not fit is counted, not waited for.
"""

import os
import threading
import time
from collections import deque
from functools import lru_cache
from typing import Final

import msgspec

from keymill import telemetry
from keymill.proxy.request import Answer, LicenseRequest, Refusal
from keymill.proxy.upstream.contract import Granted
from schemas.values import Record

QUEUED: Final = 20_000
"""Lines that wait for the writer, about 10 MiB: seconds of a busy worker."""
PERIOD_S: Final = 0.25
GRANTED, CERTIFICATE, PARSED = "granted", "certificate", "parsed"
HLS: Final = "hls"
PIPE_BUF: Final = 4096
"""POSIX writes this much to a pipe at once, so that lines of several workers stay whole."""


class Licensed(Record, frozen=True, kw_only=True):
    """
    One decision, a line of the log: KIDs in hex; no token, challenge or key.

    `reason` is `granted`, or why not; `certificate` or `parsed` where no license was asked for. `drm_system` may be
    `hls`: the clear key of HLS_AES128.
    """

    timestamp: str
    event: str = "license"
    level: str = "info"
    logger: str = "keymill.proxy.audit"
    program: str = "proxy"
    request_id: str
    reason: str
    drm_system: str
    organization: str
    asset: str
    kids: tuple[str, ...]
    user: str = ""
    policy_id: int = 0
    policy_version: int = 0


_encode: Final = msgspec.json.Encoder().encode


def licensed(request: LicenseRequest, granted: Granted | None, outcome: Answer | Refusal, at_ms: int) -> Licensed:
    """The audit event of a decision; *granted* is None where no key was granted."""
    if granted is None:
        return Licensed(
            timestamp=utc(at_ms),
            request_id=telemetry.request_id.get(),
            reason=outcome.reason.value if isinstance(outcome, Refusal) else CERTIFICATE,
            drm_system=HLS if request.hls else request.drm_system or "",
            organization=request.organization or "",
            asset=request.asset or "",
            kids=(request.kid.hex(),) if request.kid else (),
        )
    served = PARSED if granted.parse_only else GRANTED
    return Licensed(
        timestamp=utc(at_ms),
        request_id=telemetry.request_id.get(),
        reason=outcome.reason.value if isinstance(outcome, Refusal) else served,
        drm_system=HLS if request.hls else granted.drm_system,
        organization=granted.asset.organization,
        asset=granted.asset.asset,
        kids=tuple([key.kid.hex() for key in granted.keys]),
        user=granted.claims.sub or "",
        policy_id=granted.asset.policy_id,
        policy_version=granted.policy_version,
    )


class Audit:
    """
    The queue and its writer, a thread of this process.

    A line is made where the event happens, in 3 µs: a thread that made them would hold requests up for longer.
    """

    def __init__(self, descriptor: int = 2) -> None:
        self._descriptor = descriptor
        self._queue: deque[bytes] = deque()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, event: Licensed) -> None:
        """Take an event; when the writer is behind, the event is lost and counted."""
        if len(self._queue) >= QUEUED:
            telemetry.AUDIT_LOST.inc()
            return
        self._queue.append(_encode(event) + b"\n")

    def start(self) -> None:
        """Write in a thread until `close`."""
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is queued and end."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)

    def flush(self) -> None:
        """Write what is queued now."""
        chunk = b""
        for _ in range(len(self._queue)):
            line = self._queue.popleft()
            if chunk and len(chunk) + len(line) > PIPE_BUF:
                self._write(chunk)
                chunk = b""
            chunk += line
        self._write(chunk)

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self.flush()
        self.flush()

    def _write(self, chunk: bytes) -> None:
        try:
            while chunk:
                chunk = chunk[os.write(self._descriptor, chunk) :]
        except OSError:
            telemetry.AUDIT_LOST.inc(chunk.count(b"\n"))


def utc(at_ms: int) -> str:
    """A moment as logs write it: UTC, milliseconds."""
    return f"{_second(at_ms // 1000)}.{at_ms % 1000:03d}Z"


@lru_cache(maxsize=8)
def _second(at_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_s))
