"""
What a reader can know of a view without asking anybody: the follower's heartbeat, a small mapped file.

The follower rewrites it in place; a checksum tells a reader that it read in the middle of a write.
"""

import mmap
import os
import time
import zlib
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from keymill.durable import open_own
from schemas.values import Record

HEARTBEAT_FILE: Final = "heartbeat"
LIVE_S: Final = 5.0
"""Contact older than this: what the view lacks may exist."""
BEAT_S: Final = 1.5
"""The follower beats five times a second; after this silence it is dead or stuck."""
DEGRADED_S: Final = 5.0
"""From here on whoever asks is told that the view is old, or that nobody follows it."""
_NEVER: Final = float("inf")
_SIZE: Final = 8192
_HEADER: Final = 8
_ATTEMPTS: Final = 50


@cache
def boot_id() -> str:
    """The kernel's id of this boot; empty where there is none, which no folder's equals."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class Heartbeat(Record, frozen=True, kw_only=True):
    """
    What the follower says of itself.

    `contact_boot_s` is CLOCK_MONOTONIC, which all processes of a boot share; `contact_s` the wall clock at that moment,
    for a snapshot that outlived a boot. Both are 0 before the first contact. `environment` numbers the LMDB folder.
    """

    environment: int
    boot: str
    beat_boot_s: float = 0.0
    ready: bool = False
    live: bool = False
    contact_boot_s: float = 0.0
    contact_s: float = 0.0
    progress_s: float = 0.0
    behind: int = 0
    quarantined: int = 0
    stale: int = 0
    notice: str | None = None
    error: str | None = None
    stopped: str | None = None


class ViewState(Record, frozen=True, kw_only=True):
    """
    How far a view can be trusted.

    Args:
        ready: it was caught up once, so it may serve what it holds; kept over restarts of the follower.
        live: caught up since the follower's last start and in contact now: what it lacks does not exist.
        staleness_s: since it last held all that the brokers had; infinite if it never did. Brokers that are away, a
            follower that stands still, and a view that lags make it grow alike.
        unfollowed_s: since the follower's last sign of life; infinite if there is none of this boot.
        positions: per topic and partition, the next offset that is not in the view yet.
        behind: records (or markers) between positions and the ends of the log, as of the last contact.
        quarantined, stale: records refused since the view was built.
        progress_s: wall clock of the last applied record, 0 for none.
        notice: what hinders it (a pinned log, no broker); it goes on trying.
        error: why the follower stopped and will not go on by itself; what the view holds is served on.
        stopped: `error`, or that of the run before while its successor tries again and does not read yet.
    """

    ready: bool
    live: bool
    staleness_s: float
    positions: dict[str, dict[int, int]]
    behind: int
    quarantined: int
    stale: int
    progress_s: float
    notice: str | None
    error: str | None
    unfollowed_s: float = _NEVER
    stopped: str | None = None

    def degraded(self) -> str | None:
        """Return why what is served may be old by now, or None."""
        if self.stopped:
            return f"the copy is not followed any more: {self.stopped}"
        if self.unfollowed_s > DEGRADED_S:
            return f"the copy is not followed: no sign of life from the follower for {_seconds(self.unfollowed_s)}"
        if self.staleness_s > DEGRADED_S:
            why = f": {self.notice}" if self.notice else ""
            return f"the copy is {_seconds(self.staleness_s)} old{why}"
        return None

    def seen_since(self, moment_s: float) -> bool:
        """Tell whether the follower has said since that *moment* (CLOCK_MONOTONIC) that the view is live."""
        return self.live and time.monotonic() - self.unfollowed_s >= moment_s


def view_state(beat: Heartbeat | None, positions: dict[str, dict[int, int]]) -> ViewState:
    """Judge a heartbeat by the clocks of this moment."""
    if beat is None:
        beat = Heartbeat(environment=-1, boot="")
    staleness_s = _staleness_s(beat)
    return ViewState(
        ready=beat.ready, live=beat.live and _beats(beat) and staleness_s < LIVE_S, staleness_s=staleness_s,
        positions=positions, behind=beat.behind, quarantined=beat.quarantined, stale=beat.stale,
        progress_s=beat.progress_s, notice=beat.notice, error=beat.error, unfollowed_s=_unfollowed_s(beat),
        stopped=beat.error or beat.stopped,
    )  # fmt: skip


def _staleness_s(beat: Heartbeat) -> float:
    if not beat.contact_s:
        return _NEVER
    if beat.boot == boot_id():
        return max(0.0, time.monotonic() - beat.contact_boot_s)
    return max(0.0, time.time() - beat.contact_s)


def _unfollowed_s(beat: Heartbeat) -> float:
    return max(0.0, time.monotonic() - beat.beat_boot_s) if beat.boot == boot_id() and beat.beat_boot_s else _NEVER


def _beats(beat: Heartbeat) -> bool:
    return _unfollowed_s(beat) < BEAT_S


def _seconds(value: float) -> str:
    return "ever" if value == _NEVER else f"{value:.0f} s"


class HeartbeatFile:
    """The mapped file: one writer, any number of readers. A read costs about 3 µs."""

    def __init__(self, folder: Path, *, write: bool = False) -> None:
        self._decoder = msgspec.msgpack.Decoder(Heartbeat)
        self._last: tuple[bytes, Heartbeat] | None = None
        flags = os.O_RDWR | os.O_CREAT if write else os.O_RDONLY
        descriptor = open_own(folder / HEARTBEAT_FILE, flags)
        try:
            if write:
                os.posix_fallocate(descriptor, 0, _SIZE)  # with its blocks: see `keymill.disk`
            self._map = mmap.mmap(descriptor, _SIZE, access=mmap.ACCESS_WRITE if write else mmap.ACCESS_READ)
        finally:
            os.close(descriptor)

    def write(self, beat: Heartbeat) -> None:
        """Replace the heartbeat; texts are cut so that it fits."""
        short = msgspec.structs.replace(
            beat,
            beat_boot_s=time.monotonic(),
            notice=_cut(beat.notice),
            error=_cut(beat.error),
            stopped=_cut(beat.stopped),
        )
        payload = msgspec.msgpack.encode(short)
        header = len(payload).to_bytes(4, "little") + zlib.crc32(payload).to_bytes(4, "little")
        self._map[: _HEADER + len(payload)] = header + payload

    def read(self) -> Heartbeat | None:
        """The last heartbeat, or None when there is none that is whole."""
        for _ in range(_ATTEMPTS):
            if not (size := int.from_bytes(self._map[:4], "little")):
                return None
            whole = self._map[: _HEADER + size]
            if self._last and self._last[0] == whole:
                return self._last[1]
            payload = whole[_HEADER:]
            if payload and zlib.crc32(payload) == int.from_bytes(whole[4:_HEADER], "little"):
                self._last = (whole, self._decoder.decode(payload))
                return self._last[1]
            time.sleep(0)
        return None

    def close(self) -> None:
        """Unmap."""
        self._map.close()


def _cut(text: str | None) -> str | None:
    return text[:800] if text else text
