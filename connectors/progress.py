"""
How far the manifest connector has come in each file, in one state file that is replaced as a whole.

It lies in the connector's own folder: whoever may drop files could otherwise lead its writes elsewhere.
"""

import hashlib
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from keymill.durable import replace_own
from keymill.errors import Corrupt

STATE_FILE: Final = "progress.json"
FORMER_STATE_FILE: Final = ".keymill-manifest.json"
HEAD_SIZE: Final = 4096
"""Bytes at a file's begin that tell it from another of its name."""


class Progress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything before byte *offset* (line *line*) is dealt with; `rejected` is the size of the file of refusals."""

    offset: int = 0
    line: int = 0
    head_sha256: str = ""
    rejected: int = 0


def load_progress(folder: Path) -> dict[str, Progress]:
    """Progress by file name; empty when there is no state file. Raises `Corrupt` when it is damaged."""
    path = folder / STATE_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Progress])
    except FileNotFoundError:
        return {}
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Corrupt(f"{path} is damaged: remove it, every line is then sent again, without a second effect") from None


def take_over_progress(dropped: Path, folder: Path) -> None:
    """Move the state file that an earlier release left among the dropped files, unless there is one here."""
    former = dropped / FORMER_STATE_FILE
    if (folder / STATE_FILE).exists() or former.is_symlink() or not former.is_file():
        return
    replace_own(folder / STATE_FILE, former.read_bytes())
    former.unlink()


def save_progress(folder: Path, progress: dict[str, Progress]) -> None:
    """Replace the state file; durable when this returns."""
    replace_own(folder / STATE_FILE, msgspec.json.format(msgspec.json.encode(progress), indent=1))


def head_of(file: BinaryIO, offset: int) -> str:
    """Hash of the file's begin, as far as it is dealt with."""
    file.seek(0)
    return hashlib.sha256(file.read(min(offset, HEAD_SIZE))).hexdigest()


def is_same_file(file: BinaryIO, size: int, progress: Progress) -> bool:
    """Whether the file still begins with what was dealt with; else it was replaced or truncated."""
    return size >= progress.offset and (not progress.offset or head_of(file, progress.offset) == progress.head_sha256)
