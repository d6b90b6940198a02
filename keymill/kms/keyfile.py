"""
The key-file provider: roots and KEKs in one JSON file, mode 0600, for development and single machines.

The file is read again when it changes, and replaced as a whole when an organization is added; it is never
overwritten by a fresh one, because every derived key hangs on its roots.
"""

import base64
import fcntl
import hmac
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from keymill.core.envelope import KEK_SIZE
from keymill.errors import Misconfigured, UnknownKey
from keymill.kms.provider import RootActivation
from keymill.secret import Secret

ROOT_SIZE: Final = 32
FORMAT: Final = 1
LOOK_EVERY_S: Final = 0.1
"""Between two looks at the file for what it is known to hold; a system call per event would cost more than a key."""


class Root(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One root of an organization; `key` is base64 of 32 bytes, `activates` epoch ms of the record timestamp."""

    version: int
    activates: int
    key: str


class Kek(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One KEK; `key` is base64 of 64 bytes."""

    epoch: int
    key: str


class Group(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an organization has; both lists ascend."""

    roots: tuple[Root, ...]
    keks: tuple[Kek, ...]


class Content(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    format: int
    intake: tuple[Kek, ...]
    organizations: dict[str, Group]


class _Format(msgspec.Struct, frozen=True):
    """What every format of the file has."""

    format: int


class KeyFile:
    """A `Kms` over one file. Raises `Misconfigured` when the file is missing, damaged or readable by others."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, ...] = ()
        self._looked = 0.0
        self._content = Content(format=FORMAT, intake=(), organizations={})
        self._refresh()

    def hmac(self, organization: str, root_version: int, message: bytes) -> Secret:
        """See `Kms`."""
        for root in self._group(organization).roots:
            if root.version == root_version:
                return Secret(hmac.digest(base64.b64decode(root.key), message, "sha256"))
        raise UnknownKey(f"organization {organization} has no root version {root_version} in {self._path.name}")

    def kek(self, organization: str, epoch: int) -> Secret:
        """See `Kms`."""
        for kek in self._group(organization).keks:
            if kek.epoch == epoch:
                return Secret(base64.b64decode(kek.key))
        raise UnknownKey(f"organization {organization} has no KEK epoch {epoch} in {self._path.name}")

    def epochs(self, organization: str) -> tuple[int, ...]:
        """See `Kms`."""
        return tuple(kek.epoch for kek in self._group(organization).keks)

    def schedule(self, organization: str) -> tuple[RootActivation, ...]:
        """See `Kms`."""
        roots = self._group(organization).roots
        return tuple(RootActivation(root_version=root.version, activates=root.activates) for root in roots)

    def intake_kek(self, epoch: int | None = None) -> tuple[int, Secret]:
        """See `Kms`."""
        self._refresh()
        for kek in reversed(self._content.intake):
            if epoch in (None, kek.epoch):
                return kek.epoch, Secret(base64.b64decode(kek.key))
        raise UnknownKey(f"there is no intake KEK epoch {epoch} in {self._path.name}")

    def organizations(self) -> tuple[str, ...]:
        """See `Kms`."""
        self._refresh()
        return tuple(sorted(self._content.organizations))

    def _group(self, organization: str) -> Group:
        if time.monotonic() - self._looked > LOOK_EVERY_S or organization not in self._content.organizations:
            self._refresh()
        try:
            return self._content.organizations[organization]
        except KeyError:
            raise UnknownKey(
                f"organization {organization} has no roots: run `keymill org create {organization}`"
            ) from None

    def _refresh(self) -> None:
        state = _stat(self._path)
        stamp = (state.st_mtime_ns, state.st_ctime_ns, state.st_size, state.st_ino)
        if stamp != self._stamp:
            self._content = _read(self._path)
            self._stamp = stamp
        self._looked = time.monotonic()  # only now: a file that was refused is looked at again by the next use


def create_key_file(path: Path) -> bool:
    """Create the file with an intake KEK and no organization; False when it exists already, and it is left alone."""
    with _locked(path):
        if path.exists():
            return False
        intake = (Kek(epoch=1, key=_draw(KEK_SIZE)),)
        _replace(path, Content(format=FORMAT, intake=intake, organizations={}))
        return True


def add_organization(path: Path, organization: str) -> bool:
    """Give an organization its first root and KEK; False when it has them already."""
    with _locked(path):
        content = _read(path)
        if organization in content.organizations:
            return False
        group = Group(
            roots=(Root(version=1, activates=0, key=_draw(ROOT_SIZE)),), keks=(Kek(epoch=1, key=_draw(KEK_SIZE)),)
        )
        _replace(path, msgspec.structs.replace(content, organizations={**content.organizations, organization: group}))
        return True


def _draw(size: int) -> str:
    return base64.b64encode(secrets.token_bytes(size)).decode()


def _stat(path: Path) -> os.stat_result:
    try:
        return os.stat(path)
    except FileNotFoundError:
        raise Misconfigured(
            f"key file {path} is missing: restore it from its backup, nothing replaces it; "
            "a new installation makes it with `keymill org create ORG` or `keymill up`"
        ) from None


def _read(path: Path) -> Content:
    state = _stat(path)
    if not stat.S_ISREG(state.st_mode):
        raise Misconfigured(f"key file {path} is no file: name another one")
    if stat.S_IMODE(state.st_mode) & 0o077 or state.st_uid != os.geteuid():
        raise Misconfigured(f"key file {path} must belong to this user alone: chmod 600")
    data = path.read_bytes()
    try:
        found = msgspec.json.decode(data, type=_Format).format
        if found != FORMAT:
            raise Misconfigured(f"key file {path} has format {found}, this program reads {FORMAT}")
        content = msgspec.json.decode(data, type=Content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Misconfigured(
            f"key file {path} is damaged: restore it from its backup, nothing was overwritten"
        ) from None
    _check(path, content)
    return content


def _check(path: Path, content: Content) -> None:
    _check_keks(path, "the intake", content.intake)
    for organization, group in content.organizations.items():
        _check_keks(path, organization, group.keks)
        versions = [root.version for root in group.roots]
        times = [root.activates for root in group.roots]
        ascending = versions == sorted(set(versions)) and times == sorted(set(times))
        if not versions or not ascending or versions[0] != 1 or times[0] != 0:
            raise Misconfigured(f"key file {path}: roots of {organization} must ascend from version 1 at time 0")
        if not all(_has_size(root.key, ROOT_SIZE) for root in group.roots):
            raise Misconfigured(f"key file {path}: a root of {organization} is no base64 of {ROOT_SIZE} bytes")


def _check_keks(path: Path, owner: str, keks: tuple[Kek, ...]) -> None:
    epochs = [kek.epoch for kek in keks]
    if not epochs or epochs != sorted(set(epochs)):
        raise Misconfigured(f"key file {path}: KEKs of {owner} must be there, their epochs ascending")
    if not all(_has_size(kek.key, KEK_SIZE) for kek in keks):
        raise Misconfigured(f"key file {path}: a KEK of {owner} is no base64 of {KEK_SIZE} bytes")


def _has_size(key: str, size: int) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == size
    except ValueError:
        return False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _replace(path: Path, content: Content) -> None:
    fresh = path.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.fchmod(descriptor, 0o600)  # a crash, or somebody else, may have left it with another mode
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(content), indent=1))
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
