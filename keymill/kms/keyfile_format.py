"""
What stands in a key file, and how it is read and replaced.

    with locked(path):
        content, _ = read_file(path)
        replace_file(path, msgspec.structs.replace(content, ...))
"""

import base64
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Final

import msgspec

from keymill.core.envelope import KEK_SIZE
from keymill.durable import own_file, own_folder, replace_own
from keymill.errors import Misconfigured
from keymill.kms.provider import KekEpoch, KekState, RootActivation

ROOT_SIZE: Final = 32
FORMAT: Final = 1
STATES_FORMAT: Final = 2
"""Of a file in which a KEK is announced or retired: a program that knows no states would wrap under the wrong one."""


_ORDER: Final = (KekState.RETIRED, KekState.ACTIVE, KekState.ANNOUNCED)


class Root(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One root of an organization; `key` is base64 of 32 bytes, `activates` epoch ms of the record timestamp."""

    version: int
    activates: int
    key: str


class Kek(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One KEK; `key` is base64 of 64 bytes. `state` is left out while it is active, as in every file of format 1."""

    epoch: int
    key: str
    state: KekState = KekState.ACTIVE


class Group(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """What an organization has; both lists ascend."""

    roots: tuple[Root, ...]
    keks: tuple[Kek, ...]

    @cached_property
    def schedule(self) -> tuple[RootActivation, ...]:
        """Of its roots, made once: every event asks for it."""
        return tuple(RootActivation(root_version=root.version, activates=root.activates) for root in self.roots)

    @cached_property
    def epochs(self) -> tuple[KekEpoch, ...]:
        """Of its KEKs, likewise."""
        return tuple(KekEpoch(epoch=kek.epoch, state=kek.state) for kek in self.keks)


class Content(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    format: int
    intake: tuple[Kek, ...]
    organizations: dict[str, Group]


class _Format(msgspec.Struct, frozen=True):
    """What every format of the file has."""

    format: int


def read_file(path: Path) -> tuple[Content, bytes]:
    """The content and the bytes that it was read from; raises `Misconfigured` when it may not or cannot be read."""
    state = stat_file(path)
    if not stat.S_ISREG(state.st_mode):
        raise Misconfigured(f"key file {path} is no file: name another one")
    if stat.S_IMODE(state.st_mode) & 0o077 or state.st_uid != os.geteuid():
        raise Misconfigured(f"key file {path} must belong to this user alone: chmod 600")
    data = path.read_bytes()
    return decode_content(data, f"key file {path}"), data


def decode_content(data: bytes, name: str) -> Content:
    """The content of a key file's bytes, checked; *name* is how `Misconfigured` calls it."""
    try:
        found = msgspec.json.decode(data, type=_Format).format
        if found not in (FORMAT, STATES_FORMAT):
            raise Misconfigured(f"{name} has format {found}, this program reads {FORMAT} and {STATES_FORMAT}")
        content = msgspec.json.decode(data, type=Content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Misconfigured(f"{name} is damaged: restore it from its backup, nothing was overwritten") from None
    check_content(content, name)
    return content


def stat_file(path: Path) -> os.stat_result:
    """What the system says of the file; raises `Misconfigured` when there is none."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        raise Misconfigured(
            f"key file {path} is missing: restore it from its backup, nothing replaces it; "
            "a new installation makes it with `keymill org create ORG` or `keymill up`"
        ) from None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Whoever changes the file does it in here, alone."""
    own_folder(path.parent)
    with own_file(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def replace_file(path: Path, content: Content) -> None:
    """Put *content* in place of the file, whole or not at all; 0600 from the first byte on."""
    content = msgspec.structs.replace(content, format=format_of(content))
    replace_bytes(path, msgspec.json.format(msgspec.json.encode(content), indent=1))


def replace_bytes(path: Path, data: bytes) -> None:
    """Like `replace_file`, with the bytes of a file that was read before."""
    replace_own(path, data)


def draw_key(size: int) -> str:
    """A fresh key of *size* bytes as it stands in the file."""
    return base64.b64encode(secrets.token_bytes(size)).decode()


def format_of(content: Content) -> int:
    """The lowest format that says all that *content* does, so that older programs read what they can."""
    keks = [*content.intake, *(kek for group in content.organizations.values() for kek in group.keks)]
    return FORMAT if all(kek.state is KekState.ACTIVE for kek in keks) else STATES_FORMAT


def check_content(content: Content, name: str) -> None:
    """Raise `Misconfigured` for what no key file may say; *name* is how the message calls it."""
    _check_keks(name, "the intake", content.intake)
    for organization, group in content.organizations.items():
        _check_keks(name, organization, group.keks)
        versions = [root.version for root in group.roots]
        times = [root.activates for root in group.roots]
        ascending = versions == sorted(set(versions)) and times == sorted(set(times))
        if not versions or not ascending or versions[0] != 1 or times[0] != 0:
            raise Misconfigured(f"{name}: roots of {organization} must ascend from version 1 at time 0")
        if not all(_has_size(root.key, ROOT_SIZE) for root in group.roots):
            raise Misconfigured(f"{name}: a root of {organization} is no base64 of {ROOT_SIZE} bytes")


def _check_keks(name: str, owner: str, keks: tuple[Kek, ...]) -> None:
    epochs = [kek.epoch for kek in keks]
    if not epochs or epochs != sorted(set(epochs)):
        raise Misconfigured(f"{name}: KEKs of {owner} must be there, their epochs ascending")
    order = [_ORDER.index(kek.state) for kek in keks]
    if order != sorted(order) or _ORDER.index(KekState.ACTIVE) not in order:
        raise Misconfigured(f"{name}: KEKs of {owner} must be retired, active, announced in this order, one active")
    if not all(_has_size(kek.key, KEK_SIZE) for kek in keks):
        raise Misconfigured(f"{name}: a KEK of {owner} is no base64 of {KEK_SIZE} bytes")


def _has_size(key: str, size: int) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == size
    except ValueError:
        return False
