"""
The key-file provider: roots and KEKs in one JSON file, mode 0600, for development and single machines.

The file is read again when it changes, and replaced as a whole when an organization is added; it is never
overwritten by a fresh one, because every derived key hangs on its roots.
"""

import base64
import hmac
import threading
import time
from pathlib import Path
from typing import Final

import msgspec

from keymill.core.envelope import KEK_SIZE
from keymill.errors import UnknownKey
from keymill.kms.keyfile_format import (
    FORMAT,
    ROOT_SIZE,
    Content,
    Group,
    Kek,
    Root,
    draw_key,
    locked,
    read_file,
    replace_file,
    stat_file,
)
from keymill.kms.provider import KekEpoch, RootActivation
from keymill.secret import Secret

LOOK_EVERY_S: Final = 0.1
"""Between two looks at the file for what it is known to hold; a system call per event would cost more than a key."""


class KeyFile:
    """A `Kms` over one file. Raises `Misconfigured` when the file is missing, damaged or readable by others."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
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

    def installation_hmac(self, message: bytes) -> Secret:
        """See `Kms`. The first intake KEK is there as long as the events that it wrapped: for ever."""
        self._refresh()
        return Secret(hmac.digest(base64.b64decode(self._content.intake[0].key), message, "sha256"))

    def kek(self, organization: str, epoch: int) -> Secret:
        """See `Kms`."""
        for kek in self._group(organization).keks:
            if kek.epoch == epoch:
                return Secret(base64.b64decode(kek.key))
        raise UnknownKey(f"organization {organization} has no KEK epoch {epoch} in {self._path.name}")

    def epochs(self, organization: str) -> tuple[KekEpoch, ...]:
        """See `Kms`."""
        return self._group(organization).epochs

    def schedule(self, organization: str) -> tuple[RootActivation, ...]:
        """See `Kms`."""
        return self._group(organization).schedule

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
        with self._lock:  # reports are made beside the worker: old content must not come under a new stamp
            state = stat_file(self._path)
            stamp = (state.st_mtime_ns, state.st_ctime_ns, state.st_size, state.st_ino)
            if stamp != self._stamp:
                self._content, _ = read_file(self._path)
                self._stamp = stamp
            self._looked = time.monotonic()  # only now: a file that was refused is looked at again by the next use


def create_key_file(path: Path) -> bool:
    """Create the file with an intake KEK and no organization; False when it exists already, and it is left alone."""
    with locked(path):
        if path.exists():
            return False
        intake = (Kek(epoch=1, key=draw_key(KEK_SIZE)),)
        replace_file(path, Content(format=FORMAT, intake=intake, organizations={}))
        return True


def add_organization(path: Path, organization: str) -> bool:
    """Give an organization its first root and KEK; False when it has them already."""
    with locked(path):
        content, _ = read_file(path)
        if organization in content.organizations:
            return False
        group = Group(
            roots=(Root(version=1, activates=0, key=draw_key(ROOT_SIZE)),), keks=(Kek(epoch=1, key=draw_key(KEK_SIZE)),)
        )
        replace_file(
            path, msgspec.structs.replace(content, organizations={**content.organizations, organization: group})
        )
        return True
