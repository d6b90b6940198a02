"""Files of our own: ours alone, and never written through a link."""

import ast
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from keymill import durable
from keymill.errors import Misconfigured
from keymill.kms.keyfile import add_organization, create_key_file
from keymill.ops import address, ledger
from keymill.proxy.standing import Standing, StandingFile
from keymill.snapshot import state, store

ROOT = Path(__file__).parents[2]
WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "key file": ("keys.json", lambda folder: create_key_file(folder / "keys.json")),
    "key file's successor": ("keys.json.new", lambda folder: create_key_file(folder / "keys.json")),
    "key file's lock": ("keys.lock", lambda folder: create_key_file(folder / "keys.json")),
    "address": ("up.json", lambda folder: address.write_address(folder, {"kafka": "x"})),
    "address's successor": ("up.json.new", lambda folder: address.write_address(folder, {"kafka": "x"})),
    "standing": ("0.json", lambda folder: StandingFile(folder / "0.json").write(Standing(waits_for=None, keks=()))),
    "view's lock": ("lock", lambda folder: store.hold(folder).close()),
    "view's manifest": (
        "manifest.json",
        lambda folder: store.write_manifest(
            folder, store.Manifest(format=0, environment=0, boot="", clean=False, map_size=1)
        ),
    ),
    "heartbeat": ("heartbeat", lambda folder: state.HeartbeatFile(folder, write=True).close()),
    "ledger": ("ledger.new", lambda folder: ledger.write(ledger.Ledger(), folder / "ledger")),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_planted_link_is_not_followed(tmp_path: Path, name: str) -> None:
    """The write is refused, or the link is replaced; what it names is left alone, made or not."""
    planted, write = WRITERS[name]
    folder, treasure, nothing = tmp_path / "data", tmp_path / "treasure", tmp_path / "nothing"
    folder.mkdir()
    treasure.write_text("precious")
    for target in (treasure, nothing):
        (folder / planted).unlink(missing_ok=True)
        (folder / planted).symlink_to(target)
        try:
            write(folder)
        except Misconfigured as error:
            assert str(folder) in str(error)
    assert "precious" == treasure.read_text()
    assert not nothing.exists()


def test_what_is_made_is_ours_alone(tmp_path: Path) -> None:
    """Whatever the umask says: files 0600, folders 0700."""
    before = os.umask(0)
    try:
        durable.own_folder(tmp_path / "a" / "b")
        for _, write in WRITERS.values():
            write(tmp_path / "a" / "b")
        add_organization(tmp_path / "a" / "b" / "keys.json", "demo")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a" / "b").rglob("*")}
    assert {0o600} == set(modes.values()), modes
    assert {0o700} == {stat.S_IMODE(each.stat().st_mode) for each in (tmp_path / "a", tmp_path / "a" / "b")}


def test_a_program_s_files_are_its_own_whoever_writes_them(tmp_path: Path) -> None:
    """A library's, a child's: each command that runs a program begins with that."""
    code = f"""
import subprocess, sys
from pathlib import Path
import typer
from keymill.config import ConnectSettings
from keymill.ops import programs
programs._load(ConnectSettings, None, None)
Path({str(tmp_path / "library")!r}).write_text("")
subprocess.run(["sh", "-c", "mkdir -p " + {str(tmp_path / "child" / "of")!r}], check=True)
"""
    subprocess.run([sys.executable, "-c", code], check=True, umask=0o022, env={"PATH": os.environ["PATH"]})
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert {"library": 0o600, "child": 0o700, "of": 0o700} == modes


MAY_WRITE = {
    "keymill/ops/docs.py",  # into the project itself
    "keymill/kafka/distribution.py",  # the manifest of the project, and jars into the user's cache
    "keymill/ops/backup_file.py",  # O_EXCL: a file that nobody else has made
    "keymill/ops/recipients.py",
    "keymill/ops/token_keys.py",
    "keymill/trail/segments.py",
    "keymill/kafka/launch.py",  # knows the standard library alone; tests.unit.test_launch
    "keymill/durable.py",
}


def test_nothing_else_writes_files() -> None:
    """A writer that goes past `keymill.durable` is listed here with its reason."""
    found = set()
    for package in ("keymill", "connectors", "streams", "schemas"):
        for path in (ROOT / package).rglob("*.py"):
            name = str(path.relative_to(ROOT))
            if "/demo/" not in name and "/drill/" not in name and _writes(ast.parse(path.read_text())):
                found.add(name)
    assert found <= MAY_WRITE, found - MAY_WRITE


def _writes(tree: ast.AST) -> bool:
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        attribute = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if attribute in ("write_text", "write_bytes"):
            return True
        modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        if attribute == "open" and any(set(mode) <= set("wabr+tx") and set(mode) & set("wax+") for mode in modes):
            return True
        if any(isinstance(node, ast.Attribute) and node.attr == "O_CREAT" for node in ast.walk(call)) and (
            attribute == "open"
        ):
            return True
    return False
