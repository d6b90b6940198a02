"""
What each worker tells the proxy's parent of itself: a small file, replaced as a whole when it changes.

The parent reports for all of them, and only what holds of all: a KEK that one worker lacks is not held.
"""

import contextlib
import functools
import operator
import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from keymill.durable import replace_own
from schemas.values import Record

NOT_UP = "a worker is starting"


class Standing(Record, frozen=True, kw_only=True):
    """One worker: what its /readyz says, and the (organization, epoch) of the KEKs in its memory, ascending."""

    waits_for: str | None
    keks: tuple[tuple[str, int], ...]


class StandingFile:
    """A worker's file, or its place when it has none yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last: Standing | None = None

    def write(self, standing: Standing) -> None:
        """Tell; nothing is written while nothing changes."""
        if standing == self._last:
            return
        with contextlib.suppress(OSError):  # the disk is full: what was told before is older than what is so, no more
            replace_own(self.path, msgspec.json.encode(standing), sync=False)
            self._last = standing

    def touch(self) -> None:
        """Show that the worker's loop goes on; call about once a second."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def age_s(self) -> float:
        """Return how long ago its worker gave a sign of life; 0 while there is no file."""
        try:
            return max(0.0, time.time() - self.path.stat().st_mtime)
        except OSError:
            return 0.0

    def read(self) -> Standing | None:
        """What its worker told last; None while no worker is behind it."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Standing)
        except (OSError, msgspec.DecodeError):
            return None

    def forget(self) -> None:
        """The worker is gone, and with it what it held."""
        self.path.unlink(missing_ok=True)


def together(standings: Sequence[Standing | None]) -> Standing:
    """What holds of all workers."""
    told = [standing for standing in standings if standing is not None]
    reasons = [standing.waits_for for standing in told if standing.waits_for]
    if not told or len(told) < len(standings):
        return Standing(waits_for=next(iter(reasons), NOT_UP), keks=())
    shared = functools.reduce(operator.and_, (set(standing.keks) for standing in told))
    return Standing(waits_for=next(iter(reasons), None), keks=tuple(sorted(shared)))
