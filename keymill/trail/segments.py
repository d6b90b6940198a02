"""
The files of a spool, and who may touch them.

    INSTANCE.NUMBER.open    being appended to by INSTANCE, which holds a lock (flock) on it; if it lives
    INSTANCE.NUMBER.seg     complete: to be sent, then deleted

A line is complete when its end of line is there; what follows the last one was torn by a crash and was never promised.
"""

import fcntl
import os
from pathlib import Path
from typing import Final, NamedTuple

from keymill.durable import sync_folder

OPEN, SEALED, NASCENT = ".open", ".seg", ".new"
BLOCK: Final = 4096
"""What the smallest file takes on disk; the bound counts it, so that it bounds the number of files too."""


class Usage(NamedTuple):
    """Bytes that a spool takes, and whether complete segments wait in it."""

    size: int
    waiting: bool


def create(folder: Path, instance: str, number: int) -> tuple[int, Path]:
    """A new segment, empty and locked before anybody can see it under its name, which survives the machine."""
    path = folder / f"{instance}.{number:010d}{OPEN}"
    nascent = path.with_suffix(NASCENT)
    descriptor = os.open(nascent, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        nascent.rename(path)
        sync_folder(folder)
    except OSError:
        # A full disk refuses four times a second: nothing of it may stay, neither open nor as a name.
        os.close(descriptor)
        for made in (nascent, path):
            made.unlink(missing_ok=True)
        raise
    return descriptor, path


def seal(path: Path) -> None:
    """A segment is complete. The rename is a moment's: whoever dies before it leaves the file to `adopt_orphans`."""
    path.rename(path.with_suffix(SEALED))


def usage(folder: Path) -> Usage:
    """How much a spool takes now."""
    size, waiting = 0, False
    if not folder.is_dir():
        return Usage(size, waiting)
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                size += max(BLOCK, entry.stat().st_size)
            except FileNotFoundError:  # sent meanwhile
                continue
            waiting = waiting or entry.name.endswith(SEALED)
    return Usage(size, waiting)


def sealed(folder: Path) -> list[Path]:
    """Complete segments, those of one instance in their order."""
    return sorted(folder.glob(f"*{SEALED}"))


def adopt_orphans(folder: Path) -> None:
    """Seal what a writer left behind that does not live any more."""
    for path in folder.glob(f"*{OPEN}"):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue  # sealed by its writer meanwhile
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # its writer lives
        else:
            if path.exists():
                seal(path)
        finally:
            os.close(descriptor)


def lines_of(path: Path) -> list[bytes]:
    """The complete lines of a segment, without their ends."""
    return path.read_bytes().split(b"\n")[:-1]


def instance_of(path: Path) -> str:
    """Who wrote a segment."""
    return path.name.rsplit(".", 2)[0]
