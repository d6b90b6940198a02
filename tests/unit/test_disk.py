"""A disk that fills up: programs say so before, degrade, and go on by themselves once there is room."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest

from keymill.config import GatewaySettings, ProcessorSettings, UpSettings, load
from keymill.disk import MIB, DiskSpace, allocate, is_refusal, warning
from keymill.errors import Unavailable
from keymill.gateway.app import CaughtUp
from keymill.http.server import listen
from keymill.ops.up import Up
from keymill.proxy import single_use
from keymill.proxy.single_use import Use, UsedTokens
from keymill.snapshot import following, store
from keymill.snapshot.follower import Follower
from keymill.snapshot.following import FollowerSettings, Following
from keymill.snapshot.reader import SnapshotReader
from keymill.snapshot.state import HEARTBEAT_FILE, Heartbeat, HeartbeatFile, boot_id, view_state
from keymill.snapshot.writer import SnapshotWriter
from keymill.trail import segments
from keymill.trail.sender import Sender
from keymill.trail.spool import Spool
from schemas import topics
from streams.health import Health
from tests.fakes import TRUSTING
from tests.proxy_rig import ProxyRig
from tests.view_records import Log, asset_record

MAP = 64 << 20
FULL = OSError(errno.ENOSPC, "No space left on device")
MUCH = 10**8
"""MiB that no disk of a test has."""


@contextmanager
def files_stay_below(size: int) -> Iterator[None]:
    """No file of this process grows beyond *size*, as on a disk without room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def blocks_of(path: Path) -> int:
    """Bytes that a file has on the disk."""
    return path.stat().st_blocks * 512


@pytest.mark.parametrize(
    ("free", "least_mib", "warns"),
    [(0, 1, True), (MIB - 1, 1, True), (MIB, 1, False), (5 * MIB, 6, True), (0, 0, False)],
)
def test_low_space_is_told_below_the_limit(free: int, least_mib: int, warns: bool) -> None:
    """With both numbers; a limit of 0 never warns."""
    said = warning(Path("data"), free, least_mib)
    assert warns == (said is not None)
    assert said is None or f"{free // MIB} MiB" in said


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (lmdb.DiskError("full"), True), (lmdb.Error("mdb_put: File too large"), True), (lmdb.LockError("x"), True),
        (FULL, True), (OSError(errno.EDQUOT, "quota"), True), (OSError(errno.EFBIG, "large"), True),
        (lmdb.MapFullError("map"), False), (lmdb.CorruptedError("x"), False), (lmdb.PanicError("x"), False),
        (OSError(errno.ENOENT, "none"), False), (ValueError("x"), False),
    ],
)  # fmt: skip
def test_a_refused_write_is_told_from_damage(error: Exception, refused: bool) -> None:
    """The one passes by itself; what is damaged or set too small wants a person."""
    assert refused == is_refusal(error)


def test_what_is_mapped_has_its_blocks(tmp_path: Path) -> None:
    """A page of a mapped file that the disk has no room for ends whoever writes to it, without a word."""
    HeartbeatFile(tmp_path, write=True).close()
    assert blocks_of(tmp_path / HEARTBEAT_FILE) >= (tmp_path / HEARTBEAT_FILE).stat().st_size == 8192
    writer = SnapshotWriter(tmp_path / "view", TRUSTING, map_size=MAP).open()
    used = UsedTokens(tmp_path / "used")
    assert [True] == used.take([Use("demo", "a", 1)])
    for lock in (*(tmp_path / "view").glob("env-*/lock.mdb"), tmp_path / "used" / "lock.mdb"):
        assert blocks_of(lock) >= lock.stat().st_size > 64 * single_use.READERS, lock
    used.close()
    writer.close()
    sparse = tmp_path / "sparse"
    sparse.write_bytes(b"x")
    os.truncate(sparse, 1 << 20)
    allocate(sparse, 1 << 20)
    assert (blocks_of(sparse), sparse.read_bytes()[:2]) == (1 << 20, b"x\0")


def test_the_metrics_that_workers_share_have_their_blocks(tmp_path: Path) -> None:
    """Their files are mapped too, and sparse as `prometheus_client` makes them."""
    code = """
from keymill import telemetry
from keymill.http.health import allocate_metrics
telemetry.LICENSES.labels("clearkey", "granted").inc()
telemetry.DISK_FREE.set(1)
allocate_metrics()
"""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    made = list(tmp_path.glob("*.db"))
    assert made and all(blocks_of(path) >= path.stat().st_size for path in made)


def test_a_full_disk_is_no_room_for_a_heartbeat(tmp_path: Path) -> None:
    """An error that says so, in place of a signal later."""
    with files_stay_below(4096), pytest.raises(OSError, match="large"):
        HeartbeatFile(tmp_path, write=True)


def test_a_follower_waits_for_room_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same batch is written as soon as the disk takes it; meanwhile it beats, and says why the view is old."""
    monkeypatch.setattr(following, "ROOM_EVERY_S", 0.01)
    monkeypatch.setattr(following, "BEAT_EVERY_S", 0.01)
    log, told = Log(), []
    writer = SnapshotWriter(tmp_path / "view", TRUSTING, map_size=MAP).open()
    writer.bind(log.checkpoints())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def stopping() -> bool:
        told.append(HeartbeatFile(writer.folder).read())
        if len(told) == 12:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)  # somebody makes room
        return False

    settings = FollowerSettings(
        folder=str(writer.folder), key_file="", topics=(topics.KEYS.name,),
        client={"bootstrap.servers": "127.0.0.1:1", "log_level": 0},
    )  # fmt: skip
    follows = Following(writer, TRUSTING, settings, stopping)
    data = next(writer.folder.glob("env-*/data.mdb"))
    batch = [log.put(asset_record(f"film-{number}")) for number in range(2000)]
    with files_stay_below(data.stat().st_size):
        fates = follows._written(lambda: writer.apply(batch, log.slots))
    assert fates is not None and sum(fates.values()) == len(batch)
    assert len(told) >= 12 and told[-1] is not None and "cannot be written" in str(told[-1].notice)
    assert "cannot be written" in str(view_state(told[-1], {}).degraded())
    writer.close()
    with SnapshotReader(writer.folder) as reader:
        assert reader.asset("demo", "film-1999") is not None


def test_a_view_that_cannot_be_opened_for_want_of_room_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower that is started on a full disk beats on where one beat before, and opens the view once it can."""
    with SnapshotWriter(tmp_path / "view", TRUSTING, map_size=MAP) as writer:
        HeartbeatFile(writer.folder, write=True).write(
            Heartbeat(environment=writer.manifest.environment, boot=boot_id(), ready=True)
        )
    write, asked = store.write_manifest, 0

    def refuse(folder: Path, manifest: store.Manifest) -> None:
        if asked < 3:
            raise FULL
        write(folder, manifest)

    def stopping() -> bool:
        nonlocal asked
        asked += 1
        return False

    monkeypatch.setattr(store, "write_manifest", refuse)
    again = SnapshotWriter(tmp_path / "view", TRUSTING, map_size=MAP)
    assert following._open(again, stopping)
    beat = HeartbeatFile(tmp_path / "view").read()
    assert beat is not None and (True, False) == (beat.ready, beat.live) and "cannot be written" in str(beat.notice)
    assert asked >= 3
    again.close()


def test_a_proxy_starts_without_room_for_used_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only single-use tokens are refused, until there is room."""

    def refuse(_folder: Path, _readers: int) -> None:
        raise FULL

    used = UsedTokens(tmp_path / "used")
    with monkeypatch.context() as patch:
        patch.setattr(single_use, "allocate_lock", refuse)
        for ask in (lambda: used.was_used("demo", "a"), lambda: used.take([Use("demo", "a", 1)])):
            with pytest.raises(Unavailable, match="No space"):
                ask()
    assert [True] == used.take([Use("demo", "a", 1)])
    used.close()


def test_a_refused_segment_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spool tries four times a second while the disk is full: neither files nor descriptors may pile up."""

    def refuse(_folder: Path) -> None:
        raise FULL

    spool = Spool(tmp_path / "spool", "one", limit=1 << 20)
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(segments, "sync_folder", refuse)
        for _ in range(20):
            with pytest.raises(OSError, match="No space"):
                spool.append([b"line"])
    assert (before, []) == (len(os.listdir("/proc/self/fd")), list((tmp_path / "spool").iterdir()))
    assert 1 == spool.append([b"line"])
    spool.close()


def test_a_sender_starts_without_room_for_its_folder(tmp_path: Path) -> None:
    """It waits for the brokers anyway, and makes its folder when it can."""
    (tmp_path / "spool").write_text("in its way")

    def connect() -> None:
        raise Unavailable("nobody")

    sender = Sender(tmp_path / "spool" / "proxy", connect)  # type: ignore[arg-type]
    sender.start()
    sender.close()


def test_every_program_warns_before_its_disk_is_full(tmp_path: Path) -> None:
    """In /readyz as degraded, and it stays ready; the room is a metric."""
    rig = ProxyRig(tmp_path / "proxy", min_free_mib=MUCH)
    try:
        answer = rig.request("GET", "/readyz")
        assert (200, True) == (answer.status_code, "MiB left" in answer.json()["degraded"])
        assert "keymill_disk_free_bytes" in rig.request("GET", "/metrics").text
        settings = load(GatewaySettings, environ={}, data=tmp_path, min_free_mib=MUCH)
        follower = Follower(tmp_path / "view", (), {}, key_file=tmp_path / "keys.json")
        disk = DiskSpace(settings.data, settings.min_free_mib)
        with SnapshotReader(rig.writer.folder) as reader:
            assert "MiB left" in str(CaughtUp(reader, follower, disk).degraded())
    finally:
        rig.close()
    processor = load(ProcessorSettings, environ={}, data=tmp_path, min_free_mib=MUCH)
    with listen("127.0.0.1", 0) as bound:
        assert "MiB left" in str(Health(processor, bound)._readiness.degraded())
    assert "MiB left" in str(Up(load(UpSettings, environ={}, data=tmp_path, min_free_mib=MUCH))._readiness.degraded())


def test_low_space_is_logged_when_it_begins_and_when_it_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once each; a look in between says nothing more."""
    disk = DiskSpace(tmp_path / "not" / "made" / "yet", MUCH)
    for _ in range(3):
        disk._looked = -10.0
        assert "MiB left" in str(disk.degraded())
    disk._least_mib, disk._looked = 0, -10.0
    assert disk.degraded() is None
    said = "".join(capsys.readouterr())
    assert (1, 1) == (said.count("low disk space"), said.count("enough again"))


def test_a_view_that_is_closed_without_room_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not marked clean, and whoever comes next may open it."""
    writer = SnapshotWriter(tmp_path / "view", TRUSTING, map_size=MAP).open()

    def refuse(_folder: Path, _manifest: object) -> None:
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_manifest", refuse)
        writer.close()
    SnapshotWriter(tmp_path / "view", TRUSTING, map_size=MAP).open(0.0).close()
