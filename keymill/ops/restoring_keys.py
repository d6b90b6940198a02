"""The key file's part of a restore: written whole where there is none, else merged; never another key."""

from pathlib import Path

import msgspec

from keymill.kms.keyfile_format import decode_content, locked, read_file, replace_bytes, replace_file
from keymill.kms.merging import merge
from keymill.ops.backup_file import Saved


class KeyChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What is new in the key file and what contradicts it, by name."""

    file: str
    present: bool
    added: tuple[str, ...]
    contradictions: tuple[str, ...] = ()


def key_changes(path: Path, saved: Saved, *, apply: bool) -> KeyChanges:
    """
    Compare the key file with the saved one and, with *apply*, add what is missing.

    A file that is not there is written byte for byte as it was saved.

    Raises:
        Misconfigured: there is a file that cannot be read: move it away, nothing overwrites it.
    """
    if not apply:
        return _compare(path, saved, apply=False)
    with locked(path):
        return _compare(path, saved, apply=True)


def _compare(path: Path, saved: Saved, *, apply: bool) -> KeyChanges:
    content = decode_content(saved.key_file, "the key file of the backup")
    if not path.exists():
        if apply:
            replace_bytes(path, saved.key_file)
        added = ("the whole file", *(f"organization {name}" for name in sorted(content.organizations)))
        return KeyChanges(file=str(path), present=False, added=added)
    held, _ = read_file(path)
    merged = merge(held, content)
    if apply and merged.added:
        replace_file(path, merged.content)
    return KeyChanges(file=str(path), present=True, added=merged.added, contradictions=merged.contradictions)
