"""
A disk that fills up: who may go on, what is said before, and what a full one may not do.

A program degrades on a full disk and goes on by itself once there is room. So every failure to write is told apart from
damage, and what is mapped into memory has its blocks from the beginning: the kernel ends whoever writes to a mapped
page that the disk has no room for (SIGBUS), and nothing can be said or caught then.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import lmdb

from keymill import telemetry
from keymill.durable import open_own
from keymill.errors import Unavailable

MIB: Final = 1 << 20
LOOK_S: Final = 1.0
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})
"""No room, no quota, no larger file; and a disk that fails, which a person may mend while the program goes on."""
_DAMAGED: Final = (
    lmdb.BadDbiError, lmdb.BadTxnError, lmdb.BadValsizeError, lmdb.CorruptedError, lmdb.InvalidError,
    lmdb.PageNotFoundError, lmdb.VersionMismatchError,
)  # fmt: skip
log = telemetry.logger("disk")


def is_refusal(error: BaseException) -> bool:
    """Tell whether the disk has refused a write, and nothing that lies on it is damaged or wrong."""
    match error:
        case lmdb.MapFullError() | lmdb.ReadersFullError() | lmdb.PanicError():
            return False  # limits of the settings; and what must be opened anew
        case lmdb.Error():
            return not isinstance(error, _DAMAGED)
        case OSError():
            return error.errno in _FULL
        case _:
            return False


@contextmanager
def waiting_for_room(what: str) -> Iterator[None]:
    """Raise `Unavailable` for a write that the disk refuses: who tries again later goes on once there is room."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        if not is_refusal(error):
            raise
        raise Unavailable(f"{what} cannot be written ({error}): make room on its disk") from None


def allocate(path: Path, size: int) -> None:
    """
    Give a file that is mapped its blocks, up to *size*; it is made if need be, and nothing in it changes.

    Raises:
        OSError: there is no room.
    """
    descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
    try:
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


def warning(folder: Path, free: int, least_mib: int) -> str | None:
    """Return what is to be said of *free* bytes, for a person, or None where there is room enough."""
    if free >= least_mib * MIB:
        return None
    return (
        f"the disk of {folder} has {free // MIB} MiB left, less than {least_mib}: once it is full, nothing new is kept"
    )


class DiskSpace:
    """
    Looks at the disk of a folder, at most once a second, from any thread.

    Args:
        least_mib: below this many MiB it warns; 0 never does.
    """

    def __init__(self, folder: Path, least_mib: int) -> None:
        self._folder = folder
        self._least_mib = least_mib
        self._said: str | None = None
        self._looked = -LOOK_S

    def degraded(self) -> str | None:
        """Return what is wrong, or None; the log is told once, and once that there is room again."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return self._said
        self._looked = now
        try:
            found = os.statvfs(next(each for each in (self._folder, *self._folder.parents) if each.exists()))
        except OSError as error:
            said: str | None = f"the disk of {self._folder} cannot be looked at: {error.strerror}"
        else:
            free = found.f_bavail * found.f_frsize
            telemetry.DISK_FREE.set(free)
            said = warning(self._folder, free, self._least_mib)
        before, self._said = self._said, said
        if said and not before:
            log.warning("low disk space", reason=said)
        elif before and not said:
            log.warning("disk space is enough again", folder=str(self._folder))
        return said
