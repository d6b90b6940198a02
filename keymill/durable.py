"""
Files of our own: written where nobody else can lead the write, and on disk when that is promised.

A folder may be somebody else's too. So nothing of ours is ever written through a symbolic link, and what is ours is
readable by us alone.
"""

import errno
import os
from pathlib import Path
from typing import IO, Any, Final

from keymill.errors import Misconfigured

OWN_FILE: Final = 0o600
OWN_FOLDER: Final = 0o700
OWN_UMASK: Final = 0o077


def own_folder(folder: Path) -> Path:
    """Make a folder that is ours alone, its parents too; one that exists stays as it is."""
    for missing in reversed([each for each in folder.parents if not each.exists()]):
        missing.mkdir(mode=OWN_FOLDER, exist_ok=True)  # `parents=True` makes them readable by everybody
    folder.mkdir(exist_ok=True, mode=OWN_FOLDER)
    return folder


def keep_private() -> None:
    """Let all that this program and its children make from now on be theirs alone, a library's files too."""
    os.umask(OWN_UMASK)


def open_own(path: Path, flags: int) -> int:
    """
    Open a file of ours (`os.open`); one that is made is readable by us alone.

    Raises:
        Misconfigured: it is a symbolic link.
        OSError: as `os.open` does.
    """
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, OWN_FILE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Misconfigured(f"{path} is a symbolic link, and nothing is written through one: remove it") from None
        raise


def own_file(path: Path, mode: str, encoding: str | None = None) -> IO[Any]:
    """Open a file of ours like `open`; for errors see `open_own`."""
    return open(path, mode, encoding=encoding, opener=lambda name, flags: open_own(Path(name), flags))


def replace_own(path: Path, data: bytes, *, sync: bool = True) -> None:
    """
    Put *data* in place of a file of ours, whole or not at all; a link of that name is replaced, not followed.

    Args:
        sync: the file and its name are on disk when this returns.
    """
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)  # of a crash, or somebody's
    descriptor = open_own(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    os.replace(fresh, path)
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Return when every name that was made, changed or removed in *folder* is on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
