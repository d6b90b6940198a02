"""The key file: what every derived key hangs on is made once, kept private, and never overwritten."""

import base64
import json
import multiprocessing
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from keymill.errors import Misconfigured, UnknownKey
from keymill.kms.keyfile import LOOK_EVERY_S, KeyFile, add_organization, create_key_file
from keymill.kms.keyfile_format import FORMAT
from keymill.kms.keyring import Keyring
from keymill.kms.provider import RootActivation
from keymill.secret import Secret
from tests.fakes import MemoryKms


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A key file with the organization demo."""
    path = tmp_path / "keys.json"
    assert create_key_file(path)
    assert add_organization(path, "demo")
    return path


def content_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def write(path: Path, content: object) -> bytes:
    """Replace the content as an operator would; returns the bytes."""
    data = json.dumps(content).encode()
    path.write_bytes(data)
    return data


def draw(size: int) -> str:
    return base64.b64encode(os.urandom(size)).decode()


def with_root(path: Path, version: int, activates: int) -> None:
    content = content_of(path)
    content["organizations"]["demo"]["roots"].append({"version": version, "activates": activates, "key": draw(32)})
    write(path, content)


def test_it_belongs_to_its_user_alone(path: Path) -> None:
    """Mode 0600 from the first byte on, whatever the umask, and after every change."""
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    before = os.umask(0)
    try:
        (path.parent / "keys.new").write_text("left by a crash")  # readable by all
        add_organization(path, "other")
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)
        create_key_file(fresh := path.parent / "deep" / "keys.json")
        assert 0o600 == stat.S_IMODE(fresh.stat().st_mode)
    finally:
        os.umask(before)
    assert ("demo", "other") == KeyFile(path).organizations()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o601, 0o644, 0o777])
def test_wider_permissions_are_refused(path: Path, mode: int) -> None:
    """At the start and while it runs; the message says what to do, and nothing is changed for the operator."""
    running = KeyFile(path)
    os.utime(path, ns=(1, 1))
    path.chmod(mode)
    before = path.read_bytes()
    for use in (lambda: KeyFile(path), running.organizations, lambda: add_organization(path, "other")):
        with pytest.raises(Misconfigured, match=r"keys\.json.*chmod 600"):
            use()
    assert (mode, before) == (stat.S_IMODE(path.stat().st_mode), path.read_bytes())
    path.chmod(0o600)
    assert ("demo",) == KeyFile(path).organizations()


def test_a_foreign_owner_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns it could have replaced it."""
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(Misconfigured, match="must belong to this user alone"):
        KeyFile(path)


def test_it_is_made_once(path: Path) -> None:
    """A second start, and a second creation of the organization, change no byte."""
    before = path.read_bytes()
    assert not create_key_file(path)
    assert not add_organization(path, "demo")
    assert before == path.read_bytes()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"format": 1}'])
def test_a_damaged_file_is_never_replaced(path: Path, content: bytes) -> None:
    """Every use says what to do; neither a start nor a new organization overwrites it."""
    path.write_bytes(content)
    assert not create_key_file(path)
    for use in (lambda: KeyFile(path), lambda: add_organization(path, "other")):
        with pytest.raises(Misconfigured, match=r"keys\.json is damaged: restore it from its backup"):
            use()
    assert content == path.read_bytes()


def broken(where: str) -> Any:
    """Ways to break a well-formed file, by name."""

    def change(content: dict[str, Any]) -> None:
        demo = content["organizations"]["demo"]
        match where:
            case "root too short":
                demo["roots"][0]["key"] = draw(31)
            case "kek is no base64":
                demo["keks"][0]["key"] = "*" * 88
            case "no root":
                demo["roots"] = []
            case "no kek":
                demo["keks"] = []
            case "first root is not 1":
                demo["roots"][0]["version"] = 2
            case "first root does not hold from the beginning":
                demo["roots"][0]["activates"] = 5
            case "a version twice":
                demo["roots"].append(demo["roots"][0] | {"activates": 9})
            case "times descend":
                demo["roots"] += [
                    {"version": 2, "activates": 20, "key": draw(32)},
                    {"version": 3, "activates": 10, "key": draw(32)},
                ]
            case "epochs descend":
                demo["keks"].append({"epoch": 0, "key": draw(64)})
            case "intake kek too short":
                content["intake"][0]["key"] = draw(16)
            case "no intake kek":
                content["intake"] = []

    return change


BROKEN = (
    "root too short",
    "kek is no base64",
    "no root",
    "no kek",
    "first root is not 1",
    "first root does not hold from the beginning",
    "a version twice",
    "times descend",
    "epochs descend",
    "intake kek too short",
    "no intake kek",
)


@pytest.mark.parametrize("where", BROKEN)
def test_a_file_that_contradicts_itself_is_refused(path: Path, where: str) -> None:
    """The message names the file, and holds no key."""
    content = content_of(path)
    keys = [
        each["key"] for each in content["organizations"]["demo"]["keks"] + content["organizations"]["demo"]["roots"]
    ]
    broken(where)(content)
    data = write(path, content)
    with pytest.raises(Misconfigured, match=r"keys\.json") as error:
        KeyFile(path)
    assert not any(key in str(error.value) for key in keys)
    assert data == path.read_bytes()


def test_another_format_is_named(path: Path) -> None:
    """Whatever else it holds: a later keymill's file is not a damaged one."""
    for content in (content_of(path) | {"format": FORMAT + 2}, {"format": FORMAT + 2, "shape": ["new"]}):
        data = write(path, content)
        for use in (lambda: KeyFile(path), lambda: add_organization(path, "other")):
            with pytest.raises(Misconfigured, match=f"has format {FORMAT + 2}, this program reads {FORMAT} and 2"):
                use()
        assert data == path.read_bytes()


def test_a_missing_file_is_not_made_by_the_way(tmp_path: Path) -> None:
    """Only `create_key_file` makes one; a lost file must be restored."""
    path = tmp_path / "keys.json"
    for use in (lambda: KeyFile(path), lambda: add_organization(path, "demo")):
        with pytest.raises(Misconfigured, match=r"keys\.json is missing: restore it from its backup"):
            use()
    assert not path.exists()


def test_a_file_that_goes_away_or_breaks_later_is_noticed(path: Path) -> None:
    """A running program does not go on with what it remembers, and goes on once the file is back."""
    running, data = KeyFile(path), path.read_bytes()
    path.unlink()
    time.sleep(2 * LOOK_EVERY_S)
    with pytest.raises(Misconfigured, match="is missing"):
        running.kek("demo", 1)
    path.write_bytes(b"{")
    path.chmod(0o600)
    for _ in range(2):
        with pytest.raises(Misconfigured, match="is damaged"):
            running.kek("demo", 1)
    path.write_bytes(data)
    assert 64 == len(running.kek("demo", 1))


def test_a_change_is_read_without_a_restart(path: Path) -> None:
    """Another process adds an organization, and this one has its keys."""
    running = KeyFile(path)
    with pytest.raises(UnknownKey, match="keymill org create other"):
        running.schedule("other")
    add_organization(path, "other")
    assert ((1, 0),) == tuple((entry.root_version, entry.activates) for entry in running.schedule("other"))
    assert (1,) == Keyring(running).open_epochs("other")


def test_organizations_share_no_key(path: Path) -> None:
    """Every root and KEK is drawn, and adding one leaves the others as they are."""
    before = content_of(path)
    add_organization(path, "other")
    after = content_of(path)
    assert before["organizations"]["demo"] == after["organizations"]["demo"]
    assert before["intake"] == after["intake"]
    groups = after["organizations"].values()
    keys = [each["key"] for group in groups for each in group["roots"] + group["keks"]] + [after["intake"][0]["key"]]
    assert len(set(keys)) == len(keys) == 5


def test_what_does_not_exist_is_unknown(path: Path) -> None:
    """Organization, root version, epoch, intake epoch."""
    keys = KeyFile(path)
    asks = (
        lambda: keys.hmac("none", 1, b""),
        lambda: keys.hmac("demo", 2, b""),
        lambda: keys.kek("demo", 2),
        lambda: keys.epochs("none"),
        lambda: keys.intake_kek(7),
    )
    for ask in asks:
        with pytest.raises(UnknownKey):
            ask()
    epoch, kek = keys.intake_kek()
    assert (1, 64, kek) == (epoch, len(kek), keys.intake_kek(1)[1])


def test_the_root_version_follows_the_record_time(path: Path) -> None:
    """The schedule is on the log's own time: a replay years later pins what was pinned then."""
    with_root(path, 2, 1_000)
    with_root(path, 4, 5_000)
    keyring = Keyring(KeyFile(path))
    times = {-1: 1, 0: 1, 999: 1, 1_000: 2, 4_999: 2, 5_000: 4, 2**60: 4}
    assert times == {time: keyring.root_version_at("demo", time) for time in times}
    with pytest.raises(UnknownKey):
        keyring.root_version_at("none", 0)


def _add(path: Path, name: str, count: int, barrier: Any) -> None:
    barrier.wait()
    for number in range(count):
        assert add_organization(path, f"{name}-{number}")


def test_processes_that_add_at_once_lose_nothing(path: Path) -> None:
    """Each replaces the whole file, so each must see what the other wrote."""
    context, count = multiprocessing.get_context("fork"), 15
    barrier = context.Barrier(2)
    adders = [context.Process(target=_add, args=(path, name, count, barrier)) for name in ("a", "b")]
    for adder in adders:
        adder.start()
    for adder in adders:
        adder.join(60)
    assert [0, 0] == [adder.exitcode for adder in adders]
    expected = {"demo", *(f"{name}-{number}" for name in ("a", "b") for number in range(count))}
    assert expected == set(KeyFile(path).organizations())
    assert not path.with_suffix(".new").exists()


class CountingKms(MemoryKms):
    """Counts what leaves the KMS."""

    def __init__(self, epochs: tuple[int, ...] = (1,)) -> None:
        roots = tuple(RootActivation(root_version=n + 1, activates=n) for n in range(2))
        super().__init__(kek_epochs=epochs, activations=roots)
        self.calls: list[tuple[object, ...]] = []

    def hmac(self, organization: str, root_version: int, message: bytes) -> Secret:
        self.calls.append(("hmac", organization, root_version))
        return super().hmac(organization, root_version, message)

    def kek(self, organization: str, epoch: int) -> Secret:
        self.calls.append(("kek", organization, epoch))
        return super().kek(organization, epoch)


def test_a_keyring_asks_once_for_each_key() -> None:
    """A PRK per root version, one K_fp of the first root for ever, a KEK per epoch."""
    kms = CountingKms()
    keyring = Keyring(kms)
    for _ in range(3):
        first, second = keyring.keys_for("demo", 1), keyring.keys_for("demo", 2)
    assert [("hmac", "demo", 1), ("hmac", "demo", 1), ("kek", "demo", 1), ("hmac", "demo", 2)] == kms.calls
    assert first.k_fp is second.k_fp and first.kek is second.kek
    assert first.prk != second.prk and first.prk != first.k_fp
    assert keyring.prk("demo", 1) is first.prk


def test_a_keyring_wraps_under_the_newest_epoch() -> None:
    """A new epoch is used as soon as the KMS has it; an older one stays for what it wrapped."""
    kms = CountingKms()
    keyring = Keyring(kms)
    old = keyring.keys_for("demo", 1)
    kms.kek_epochs = (1, 2)
    new = keyring.keys_for("demo", 1)
    assert (1, 2) == (old.kek_epoch, new.kek_epoch)
    assert old.kek != new.kek
    assert old.kek is keyring.kek("demo", 1)
    assert old.prk is new.prk


def test_a_keyring_remembers_no_failure() -> None:
    """An organization that is added later is served."""
    kms = CountingKms()
    keyring = Keyring(kms)
    with pytest.raises(UnknownKey):
        keyring.keys_for("late", 1)
    kms.names = ("demo", "late")
    assert 1 == keyring.keys_for("late", 1).kek_epoch


def test_a_folder_is_no_key_file(path: Path) -> None:
    """It is named, whatever its mode; a missing one says how a new installation makes it."""
    path.unlink()
    with pytest.raises(Misconfigured, match="keymill org create ORG"):
        KeyFile(path)
    path.mkdir()
    for mode in (0o755, 0o600):
        path.chmod(mode)
        with pytest.raises(Misconfigured, match="no file"):
            KeyFile(path)
