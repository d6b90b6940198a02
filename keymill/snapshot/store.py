"""
The folder of a view: who may write it, whether what lies there can be trusted, and its LMDB environment.

    lock            held by the follower for its life
    manifest.json   format, environment number, boot id, clean flag, map size; replaced whole
    heartbeat       see `keymill.snapshot.state`
    env-N/          the LMDB environment

LMDB runs without fsync: a killed follower loses nothing, since the kernel keeps the pages, but an operating system
that went down does. So a snapshot from another boot that was not closed cleanly is thrown away, as is one of another
format.
"""

import contextlib
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import lmdb
import msgspec

from keymill.disk import allocate, waiting_for_room
from keymill.durable import open_own, own_folder, replace_own
from keymill.errors import Corrupt, Misconfigured, NotReady
from keymill.snapshot.layout import DATABASES, FORMAT
from keymill.snapshot.state import boot_id
from schemas.values import Record

GIB: Final = 1 << 30
MAP_SIZE: Final = 64 * GIB
"""Sparse: an upper bound, not a reservation."""
MAX_READERS: Final = 1024
LOCK_HEADER: Final = 4096
LOCK_READER: Final = 64
"""Bytes of LMDB's lock file: a header, which takes less, and a cache line for each reader (mdb.c, MDB_txninfo)."""
LOCK_WAIT_S: Final = 5.0
"""A killed program's follower ends within a second; its successor waits for that."""
_MANIFEST: Final = "manifest.json"
_POLL_S: Final = 0.02


class Manifest(Record, frozen=True, kw_only=True):
    """What must be known before the environment is opened."""

    format: int
    environment: int
    boot: str
    clean: bool
    map_size: int

    def trusted(self) -> bool:
        """Whether the environment it names may be read: written in this boot, or synced before the last one ended."""
        return self.format == FORMAT and (self.clean or self.boot == boot_id() != "")


class Environment:
    """An open LMDB environment with the handles of its databases."""

    def __init__(self, env: lmdb.Environment, *, create: bool) -> None:
        self.env = env
        self.handles: dict[bytes, Any] = {name: env.open_db(name, create=create) for name in DATABASES}


_open: dict[str, tuple[Environment, int]] = {}
_open_mutex = threading.Lock()


def acquire(path: Path, *, map_size: int, write: bool, wait_s: float = 0.0) -> Environment:
    """
    Open an environment, or share the one that this process has open: LMDB forbids a second one.

    A reader waits up to *wait_s* for the writer to make the databases, then raises `NotReady`.
    """
    name = str(path.resolve())
    with _open_mutex:
        if name in _open:
            shared, users = _open[name]
            _open[name] = (shared, users + 1)
            return shared
        opened = _opened(name, map_size, write, time.monotonic() + wait_s)
        _open[name] = (opened, 1)
        return opened


def _opened(name: str, map_size: int, write: bool, deadline: float) -> Environment:
    if write:
        allocate_lock(Path(name), MAX_READERS)
    while True:
        env = lmdb.open(
            name, map_size=map_size, max_dbs=len(DATABASES), max_readers=MAX_READERS, readonly=not write, create=write,
            sync=False, metasync=False, writemap=False, max_spare_txns=4, mode=0o600,
        )  # fmt: skip
        try:
            return Environment(env, create=write)
        except (lmdb.NotFoundError, lmdb.ReadonlyError):
            env.close()
            if time.monotonic() >= deadline:
                raise NotReady(f"the view {name} is not made yet: its follower has not started") from None
            time.sleep(_POLL_S)


def allocate_lock(folder: Path, readers: int) -> None:
    """
    Give LMDB's lock file, which it maps and every reader writes to, its blocks.

    Raises:
        OSError: there is no room.
    """
    allocate(folder / "lock.mdb", LOCK_HEADER + readers * LOCK_READER)


def release(environment: Environment) -> None:
    """Close an environment when its last user in this process lets go."""
    with _open_mutex:
        for name, (shared, users) in _open.items():
            if shared is environment:
                if users == 1:
                    del _open[name]
                    shared.env.close()
                else:
                    _open[name] = (shared, users - 1)
                return


def read_manifest(folder: Path) -> Manifest | None:
    """The folder's manifest, or None when there is none yet; `Corrupt` when it is unreadable."""
    try:
        return msgspec.json.decode((folder / _MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise Corrupt(
            f"{folder / _MANIFEST} is unreadable ({error}): delete {folder}, it is rebuilt from the topics"
        ) from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest, durably: it says what may be trusted after a crash."""
    replace_own(folder / _MANIFEST, msgspec.json.encode(manifest))


def environment_path(folder: Path, manifest: Manifest) -> Path:
    """Where the environment that the manifest names lies."""
    return folder / f"env-{manifest.environment}"


def prepare(folder: Path, map_size: int) -> tuple[Manifest, str]:
    """
    Under the writer's lock: keep the environment that lies there if it can be trusted, else begin another.

    Returns:
        The manifest that now holds, not clean, and why the old environment was thrown away (empty if it was not).
    """
    held = read_manifest(folder)
    reason = _distrust(folder, held)
    number = held.environment if held and not reason else (held.environment + 1 if held else 0)
    manifest = Manifest(format=FORMAT, environment=number, boot=boot_id(), clean=False, map_size=map_size)
    keep = environment_path(folder, manifest)
    if reason or held is None:
        shutil.rmtree(keep, ignore_errors=True)
    keep.mkdir(exist_ok=True, mode=0o700)
    write_manifest(folder, manifest)
    for stale in folder.glob("env-*"):
        if stale != keep:
            shutil.rmtree(stale, ignore_errors=True)
    return manifest, reason if held else ""


def _distrust(folder: Path, held: Manifest | None) -> str:
    if held is None:
        return "no snapshot"
    if held.format != FORMAT:
        return f"format {held.format} instead of {FORMAT}"
    if not held.trusted():
        return "written before the last boot and not closed cleanly"
    return "" if (environment_path(folder, held) / "data.mdb").exists() else "environment missing"


def hold(folder: Path, wait_s: float = LOCK_WAIT_S) -> IO[str]:
    """
    Make the folder if need be and lock it for as long as the file that is returned stays open.

    Raises:
        Misconfigured: another follower holds it, or the folder cannot be written.
    """
    try:
        own_folder(folder)
        file = os.fdopen(open_own(folder / "lock", os.O_RDWR | os.O_CREAT), "r+", encoding="ascii")
    except OSError as error:
        raise Misconfigured(f"the view folder {folder} cannot be used: {error}") from error
    deadline = time.monotonic() + wait_s
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        if time.monotonic() >= deadline:
            owner = file.read().strip() or "unknown"
            file.close()
            raise Misconfigured(
                f"the view folder {folder} is written by process {owner}: give each program a folder of its own"
            )
        time.sleep(_POLL_S)
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def await_manifest(folder: Path, wait_s: float) -> Manifest:
    """The manifest of a snapshot that may be read; `NotReady` if no follower has made one in time."""
    deadline = time.monotonic() + wait_s
    while True:
        manifest = read_manifest(folder)
        if manifest and manifest.trusted() and (environment_path(folder, manifest) / "data.mdb").exists():
            return manifest
        if time.monotonic() >= deadline:
            raise NotReady(f"the view folder {folder} holds no snapshot yet: its follower has not started")
        time.sleep(_POLL_S)


@contextlib.contextmanager
def clear_errors(folder: Path) -> Iterator[None]:
    """Say what an LMDB error means and what to do."""
    try:
        with waiting_for_room(f"the view {folder}"):
            yield
    except lmdb.MapFullError:
        raise Misconfigured(
            f"the view {folder} has reached its map size: raise KEYMILL_MAP_SIZE_GIB and start again"
        ) from None
    except lmdb.ReadersFullError:
        raise Misconfigured(f"more than {MAX_READERS} readers have the view {folder} open") from None
    except (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.VersionMismatchError) as error:
        raise Corrupt(
            f"the view {folder} is damaged ({error}): delete the folder, it is rebuilt from the topics"
        ) from None
    except lmdb.PanicError:
        raise NotReady(f"a write to the view {folder} failed half-way: it is opened anew") from None
