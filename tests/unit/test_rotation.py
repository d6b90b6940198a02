"""Rotation in a key file: what is announced, what wraps, what proxies are handed, and that nothing is ever lost."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.errors import Conflict, InvalidRecord, KeymillError, Misconfigured, UnknownKey
from keymill.kms.keyfile import KeyFile, add_organization, create_key_file
from keymill.kms.keyring import Keyring
from keymill.kms.provider import KekState
from keymill.kms.rotation import MIN_AHEAD_MS, activate_kek, add_intake_kek, add_kek, add_root, retire_keks

NOW = 1_800_000_000_000
SOON = NOW + MIN_AHEAD_MS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A key file with the organization demo."""
    return made(tmp_path)


def made(folder: Path) -> Path:
    path = folder / "keys.json"
    create_key_file(path)
    add_organization(path, "demo")
    return path


def content_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def states(path: Path) -> dict[int, str]:
    return {each.epoch: each.state.value for each in KeyFile(path).epochs("demo")}


def wraps_and_handed(path: Path) -> tuple[int, tuple[int, ...]]:
    keyring = Keyring(KeyFile(path))
    return keyring.current_epoch("demo"), keyring.open_epochs("demo")


def test_an_epoch_is_announced_then_wraps_then_opens_only(path: Path) -> None:
    """Proxies are handed it with the announcement, writers use it with the activation, the old one stays readable."""
    first = KeyFile(path).kek("demo", 1)
    assert 2 == add_kek(path, "demo") == add_kek(path, "demo")
    assert (1, (1, 2)) == wraps_and_handed(path)
    for _ in range(2):
        activate_kek(path, "demo", 2)
        assert (2, (1, 2)) == wraps_and_handed(path)
    for _ in range(2):
        retire_keks(path, "demo", below=2)
        assert (2, (2,)) == wraps_and_handed(path)
    assert first == Keyring(KeyFile(path)).kek("demo", 1)
    assert 3 == add_kek(path, "demo")
    assert {1: "retired", 2: "active", 3: "announced"} == states(path)


def test_a_program_that_runs_follows_each_step(path: Path) -> None:
    """Without a restart, as it follows a new organization."""
    running = Keyring(KeyFile(path))
    assert 1 == running.current_epoch("demo")
    activate_kek(path, "demo", add_kek(path, "demo"))
    running._kms._looked = 0.0  # type: ignore[attr-defined]
    assert 2 == running.current_epoch("demo")


def test_what_would_leave_nothing_to_wrap_with_is_refused(path: Path) -> None:
    """Steps come in order and never go back."""
    add_kek(path, "demo")
    before = path.read_bytes()
    with pytest.raises(Conflict, match="does not wrap"):
        retire_keks(path, "demo", below=2)
    with pytest.raises(UnknownKey, match="no KEK epoch 7"):
        activate_kek(path, "demo", 7)
    with pytest.raises(UnknownKey, match="org create"):
        add_kek(path, "nobody")
    assert before == path.read_bytes()
    activate_kek(path, "demo", 2)
    retire_keks(path, "demo", below=2)
    with pytest.raises(Conflict, match="never wraps again"):
        activate_kek(path, "demo", 1)
    with pytest.raises(Conflict, match="does not wrap"):
        retire_keks(path, "demo", below=1)


@given(steps=st.lists(st.sampled_from(["add", "activate", "retire"]), max_size=12))
def test_whatever_is_done_in_any_order_nothing_is_lost(
    steps: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every KEK ever drawn opens, exactly the highest active one wraps, and the file can always be read."""
    path = made(tmp_path_factory.mktemp("keys"))
    seen = {1: KeyFile(path).kek("demo", 1)}
    for step in steps:
        top = max(seen)
        try:
            match step:
                case "add":
                    add_kek(path, "demo")
                case "activate":
                    activate_kek(path, "demo", top)
                case _:
                    retire_keks(path, "demo", below=top)
        except KeymillError:
            pass
        file = KeyFile(path)
        seen |= {each.epoch: file.kek("demo", each.epoch) for each in file.epochs("demo") if each.epoch not in seen}
        assert all(file.kek("demo", epoch) == kek for epoch, kek in seen.items())
        active = [each.epoch for each in file.epochs("demo") if each.state is KekState.ACTIVE]
        assert max(active) == Keyring(file).current_epoch("demo")


def test_a_file_that_was_never_rotated_keeps_its_format(path: Path) -> None:
    """Older programs read it; one with a state in it they refuse, since they would wrap under the wrong epoch."""
    assert 1 == content_of(path)["format"]
    assert {"epoch", "key"} == set(content_of(path)["organizations"]["demo"]["keks"][0])
    add_kek(path, "demo")
    assert 2 == content_of(path)["format"]
    activate_kek(path, "demo", 2)
    assert 1 == content_of(path)["format"]
    retire_keks(path, "demo", below=2)
    assert 2 == content_of(path)["format"]


@pytest.mark.parametrize(
    "wrong", [("announced", "active"), ("active", "retired"), ("announced", "announced"), ("retired", "retired")]
)
def test_states_out_of_order_are_refused(path: Path, wrong: tuple[str, str]) -> None:
    """Somebody edited the file by hand."""
    add_kek(path, "demo")
    content = content_of(path)
    for kek, state in zip(content["organizations"]["demo"]["keks"], wrong, strict=True):
        kek["state"] = state
    path.write_text(json.dumps(content))
    with pytest.raises(Misconfigured, match="in this order, one active"):
        KeyFile(path)


def test_a_root_is_announced_at_least_an_hour_ahead(path: Path) -> None:
    """Older key versions keep theirs, newer ones pin it from its time on; the same request again changes nothing."""
    with pytest.raises(InvalidRecord, match="one hour ahead"):
        add_root(path, "demo", SOON - 1, now_ms=NOW)
    assert 2 == add_root(path, "demo", SOON, now_ms=NOW) == add_root(path, "demo", SOON, now_ms=NOW)
    keyring = Keyring(KeyFile(path))
    assert [1, 1, 2, 2] == [keyring.root_version_at("demo", at) for at in (0, SOON - 1, SOON, SOON + 1)]
    assert keyring.prk("demo", 1) != keyring.prk("demo", 2)


def test_one_root_is_announced_at_a_time(path: Path) -> None:
    """A second one waits until the first is active: nobody can mean two futures."""
    add_root(path, "demo", SOON, now_ms=NOW)
    with pytest.raises(Conflict, match="announced already"):
        add_root(path, "demo", SOON + 1, now_ms=NOW)
    assert 3 == add_root(path, "demo", SOON + 2 * MIN_AHEAD_MS, now_ms=SOON + 1)


def test_a_schedule_that_cannot_be_read_again_is_not_used(path: Path) -> None:
    """A processor stops rather than pin the root of a schedule that may have been succeeded."""
    keyring = Keyring(KeyFile(path))
    assert 1 == keyring.root_version_at("demo", NOW)
    path.unlink()
    keyring._kms._looked = 0.0  # type: ignore[attr-defined]
    with pytest.raises(Misconfigured, match="missing"):
        keyring.root_version_at("demo", NOW)


def test_an_intake_kek_is_added_beside_the_others(path: Path) -> None:
    """New imports travel under it; events that were wrapped before open for ever."""
    first = KeyFile(path).intake_kek()
    assert 2 == add_intake_kek(path)
    file = KeyFile(path)
    assert (2, first) == (file.intake_kek()[0], file.intake_kek(1))
