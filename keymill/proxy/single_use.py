"""
Tokens that may be used once: their ids, kept until they expire, shared by the workers of this proxy.

An id is on disk before the license goes out, so that no crash of the machine gives a second use. The promise ends at
this proxy's data folder: another proxy does not know what was used here (docs/tokens.md).
"""

import asyncio
import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import lmdb

from keymill.durable import own_folder
from keymill.errors import Unavailable
from keymill.snapshot.store import allocate_lock

MAX_USED: Final = 1_000_000
"""Ids kept, about 64 MiB; when expired ones leave no room, a single-use token is refused rather than let through."""
MAP_SIZE: Final = 256 << 20
READERS: Final = 126
"""LMDB's own default: a slot for each worker."""
SWEEP_S: Final = 60.0
_DIGEST_SIZE: Final = 16


class Use(NamedTuple):
    """An id, and until when it must be remembered."""

    organization: str
    jti: str
    exp_ms: int


class UsedTokens:
    """A file of used ids. Any number of processes may share it; open it in the process that uses it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._env: lmdb.Environment | None = None
        self._opening = threading.Lock()
        self._waiting: list[tuple[Use, asyncio.Future[bool]]] = []
        self._writing: asyncio.Task[None] | None = None

    def was_used(self, organization: str, jti: str) -> bool:
        """
        Whether an id was used: a look that uses nothing, so that nobody is asked for a license in vain.

        Raises:
            Unavailable: the store cannot be read.
        """
        with _unavailable(), self._opened().begin() as txn:
            return txn.get(_key(organization, jti)) is not None

    async def use(self, organization: str, jti: str, exp_ms: int) -> bool:
        """
        Use an id; False when it was used before. Those who wait for the disk together share its next write.

        Raises:
            Unavailable: as `take`.
        """
        taken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((Use(organization, jti, exp_ms), taken))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        return await taken

    async def _write(self) -> None:
        """Take what waits, and what comes meanwhile."""
        while self._waiting:
            batch, self._waiting = self._waiting, []
            outcome: list[bool] | Unavailable
            try:
                outcome = await asyncio.to_thread(self.take, [use for use, _ in batch])
            except Unavailable as error:
                outcome = error
            for index, (_, taken) in enumerate(batch):
                if taken.done():
                    continue  # whoever asked went away
                if isinstance(outcome, Unavailable):
                    taken.set_exception(Unavailable(str(outcome)))
                else:
                    taken.set_result(outcome[index])
        self._writing = None

    def take(self, uses: Sequence[Use]) -> list[bool]:
        """
        Use ids, durably when this returns: whether each was still unused.

        Raises:
            Unavailable: they cannot be remembered, since the disk or the store is full: then none is let through.
        """
        with _unavailable(), self._opened().begin(write=True) as txn:
            if txn.stat()["entries"] >= MAX_USED:
                raise Unavailable(
                    f"{MAX_USED} used tokens are remembered until they expire, and there is no room for more"
                )
            return [
                bool(txn.put(_key(use.organization, use.jti), use.exp_ms.to_bytes(8, "big"), overwrite=False))
                for use in uses
            ]

    def sweep(self, now_ms: int) -> int:
        """Forget ids whose tokens have expired; how many. Raises `Unavailable` when the disk is full."""
        with _unavailable(), self._opened().begin() as txn:
            old = [key for key, value in txn.cursor() if int.from_bytes(value, "big") < now_ms]
        with _unavailable(), self._opened().begin(write=True) as txn:
            for key in old:
                txn.delete(key)
        return len(old)

    def close(self) -> None:
        """Let go of the file."""
        if self._env is not None:
            self._env.close()

    def _opened(self) -> lmdb.Environment:
        """The store, opened by the first who needs it and finds room: a proxy starts on a full disk too."""
        with self._opening:
            if self._env is None:
                own_folder(self._folder)
                allocate_lock(self._folder, READERS)
                self._env = lmdb.open(str(self._folder), map_size=MAP_SIZE, max_readers=READERS, max_dbs=1, mode=0o600)
            return self._env


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except (lmdb.Error, OSError) as error:
        raise Unavailable(f"used tokens cannot be remembered: {error}") from None


def _key(organization: str, jti: str) -> bytes:
    return hashlib.blake2b(f"{organization}/{jti}".encode(), digest_size=_DIGEST_SIZE).digest()
