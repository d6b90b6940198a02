"""
Tokens that may be used once: their ids, kept until they expire, shared by the workers of this proxy.

The promise ends at this proxy's data folder: another proxy does not know what was used here (docs/tokens.md).
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import lmdb

from keymill.errors import Unavailable

MAX_USED: Final = 1_000_000
"""Ids kept, about 64 MiB; when expired ones leave no room, a single-use token is refused rather than let through."""
MAP_SIZE: Final = 256 << 20
SWEEP_S: Final = 60.0
_DIGEST_SIZE: Final = 16


class UsedTokens:
    """A file of used ids. Any number of processes may share it; open it in the process that uses it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._env = lmdb.open(str(folder), map_size=MAP_SIZE, sync=False, metasync=False, max_dbs=1, mode=0o600)
        self._closed = threading.Event()

    def was_used(self, organization: str, jti: str) -> bool:
        """
        Whether an id was used: a look that uses nothing, so that nobody is asked for a license in vain.

        Raises:
            Unavailable: the store cannot be read.
        """
        with _unavailable(), self._env.begin() as txn:
            return txn.get(_key(organization, jti)) is not None

    def take(self, organization: str, jti: str, exp_ms: int) -> bool:
        """
        Use an id; False when it was used before.

        Raises:
            Unavailable: it cannot be remembered, since the disk or the store is full: then it is not let through.
        """
        key = _key(organization, jti)
        with _unavailable(), self._env.begin(write=True) as txn:
            if txn.stat()["entries"] >= MAX_USED:
                raise Unavailable(
                    f"{MAX_USED} used tokens are remembered until they expire, and there is no room for more"
                )
            return bool(txn.put(key, exp_ms.to_bytes(8, "big"), overwrite=False))

    def sweep(self, now_ms: int) -> int:
        """Forget ids whose tokens have expired; how many. Raises `Unavailable` when the disk is full."""
        with _unavailable(), self._env.begin() as txn:
            old = [key for key, value in txn.cursor() if int.from_bytes(value, "big") < now_ms]
        with _unavailable(), self._env.begin(write=True) as txn:
            for key in old:
                txn.delete(key)
        return len(old)

    def close(self) -> None:
        """Let go of the file."""
        self._env.close()


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except (lmdb.Error, OSError) as error:
        raise Unavailable(f"used tokens cannot be remembered: {error}") from None


def _key(organization: str, jti: str) -> bytes:
    return hashlib.blake2b(f"{organization}/{jti}".encode(), digest_size=_DIGEST_SIZE).digest()
