"""How far the manifest connector has come in each file, in one state file that is replaced as a whole."""

import hashlib
import os
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from keymill.durable import sync_folder
from keymill.errors import Corrupt

STATE_FILE: Final = ".keymill-manifest.json"
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


def save_progress(folder: Path, progress: dict[str, Progress]) -> None:
    """Replace the state file; durable when this returns."""
    fresh = folder / f"{STATE_FILE}.new"
    with open(fresh, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(progress), indent=1))
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, folder / STATE_FILE)
    sync_folder(folder)


def head_of(file: BinaryIO, offset: int) -> str:
    """Hash of the file's begin, as far as it is dealt with."""
    file.seek(0)
    return hashlib.sha256(file.read(min(offset, HEAD_SIZE))).hexdigest()


def is_same_file(file: BinaryIO, size: int, progress: Progress) -> bool:
    """Whether the file still begins with what was dealt with; else it was replaced or truncated."""
    return size >= progress.offset and (not progress.offset or head_of(file, progress.offset) == progress.head_sha256)
