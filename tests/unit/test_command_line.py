"""What all commands have in common: `--json`, and exit codes as docs/commands.md has them."""

from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keymill.kms.keyfile import create_key_file
from keymill.ops.backup_file import write_backup
from keymill.ops.cli import command as keymill
from keymill.ops.command_page import every_command
from keymill.ops.exits import COMMANDS
from keymill.ops.programs import NAMES
from keymill.ops.recipients import make_identity
from keymill.ops.token_keys import pem_of
from tests.command_runs import Ran, run_all
from tests.golden.backup import HEADER, PEOPLE, SAVED

NOBODY: Final = "127.0.0.1:1"
FOUND: Final = {" ".join(path): command for path, command in every_command(keymill)}
AT_ONCE_S: Final = 60.0
"""Ten seconds of patience with brokers, and a busy machine."""

ORGANIZATION: Final = ("--organization", "demo")
NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "explain": ("00000000-0000-8000-8000-000000000000",),
    "rotate-kek": ORGANIZATION,
    "org create": ("demo",),
    "org set": ("demo", "--provider", "acme"),
    "org revoke": ("demo",),
    "org restore": ("demo",),
    "credential create": (*ORGANIZATION, "--kind", "api-key"),
    "credential list": ORGANIZATION,
    "credential revoke": (*ORGANIZATION, "ak-1"),
    "policy list": ORGANIZATION,
    "policy show": (*ORGANIZATION, "0"),
    "policy import": (*ORGANIZATION, "{folder}/policy.json"),
    "policy export": (*ORGANIZATION, "0"),
    "policy assign": (*ORGANIZATION, "0", "--asset", "film"),
    "service set": (*ORGANIZATION, "tv", "1.0", "--drm", "widevine"),
    "service list": ORGANIZATION,
    "token-key add": (*ORGANIZATION, "--public", "{folder}/portal.pub"),
    "token-key list": ORGANIZATION,
    "token-key retire": (*ORGANIZATION, "tk-1"),
    "import csv": (*ORGANIZATION, "{folder}/keys.csv"),
    "rebuild snapshot": ("{folder}/views/proxy",),
    "backup save": ("{folder}/new.backup", "--recipient", PEOPLE[0].recipient),
    "restore": ("{folder}/old.backup", "--identity", "{folder}/my.identity"),
    "dlq show": ("drm.assets.v1/0/0",),
    "dlq redrive": ("drm.assets.v1/0/0",),
    "connect": ("sql-archive", "--once"),
}
"""What a command needs to get as far as its brokers."""
NOT_FIRST: Final = ("explain", "gateway", "proxy")
"""They ask brokers, and do without: the view is told, players and packagers are answered."""


def options_of(command: Any) -> set[str]:
    """The names of a command's options."""
    return {option for parameter in command.params for option in parameter.opts}


ASKING: Final = [
    name for name, command in FOUND.items() if "--bootstrap" in options_of(command) and name not in NOT_FIRST
]


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """Every command that asks brokers, while none answers; with `--json` where it has that."""
    folder = tmp_path_factory.mktemp("away")
    (folder / "policy.json").write_text('{"can_play": true}')
    (folder / "portal.pub").write_text(pem_of(Ed25519PrivateKey.generate().public_key()))
    (folder / "keys.csv").write_text("asset,track,kid,key\n")
    _make_backup(folder)
    lines = [
        [*name.split(), *(part.format(folder=folder) for part in NEEDS.get(name, ())), "--bootstrap", NOBODY]
        + ["--json"] * ("--json" in options_of(FOUND[name]))
        for name in ASKING
    ]
    return dict(zip(ASKING, run_all(lines, KEYMILL_DATA=str(folder / "data")), strict=True))


def _make_backup(folder: Path) -> None:
    recipient = make_identity(folder / "my.identity").recipient
    create_key_file(folder / "saved.json")
    header = msgspec.structs.replace(HEADER, recipients=(recipient,), quorum=1)
    saved = msgspec.structs.replace(SAVED, key_file=(folder / "saved.json").read_bytes())
    write_backup(folder / "old.backup", header, saved)


@pytest.fixture(scope="module")
def mistaken() -> dict[str, Ran]:
    """Every command with an option that it has not."""
    return dict(zip(FOUND, run_all([[*name.split(), "--nonsense"] for name in FOUND]), strict=True))


def test_every_command_prints_json() -> None:
    """But for the programs that run until they are stopped, which docs/commands.md names."""
    assert set(NAMES) == {name for name, command in FOUND.items() if "--json" not in options_of(command)}
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    assert "`up`, `processor`, `gateway`, `proxy` and `connect`\nrun until" in page


def test_every_command_has_its_exit_codes() -> None:
    """One entry each; whoever asks brokers has code 3, whoever has none says so nowhere."""
    assert [*sorted(FOUND)] == sorted(COMMANDS)
    assert {name: bool(COMMANDS[name].three) for name in FOUND} == {
        name: "--bootstrap" in options_of(command) for name, command in FOUND.items()
    }


def test_help_ends_with_the_exit_codes() -> None:
    """The very words of docs/commands.md."""
    assert {name: COMMANDS[name].told() for name in FOUND} == {name: each.epilog for name, each in FOUND.items()}
    (done,) = run_all([["credential", "create", "--help"]], TERMINAL_WIDTH="500")
    assert (0, True) == (done.code, done.stdout.strip().endswith(COMMANDS["credential create"].told())), done.stdout


@pytest.mark.parametrize("name", FOUND)
def test_a_mistake_is_exit_code_2(mistaken: dict[str, Ran], name: str) -> None:
    """Nothing on stdout, the reason on stderr, whatever the command."""
    done = mistaken[name]
    assert (2, "", True) == (done.code, done.stdout, "--nonsense" in done.stderr), done.stderr


@pytest.mark.parametrize("name", ASKING)
def test_brokers_that_are_away_are_exit_code_3(away: dict[str, Ran], name: str) -> None:
    """In bounded time, nothing on stdout, the address on one line; a program's line is JSON."""
    done = away[name]
    assert (3, "") == (done.code, done.stdout), done.stderr
    assert NOBODY in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == (2 if name in ("up", "connect") else 1), done.stderr
    assert done.seconds < AT_ONCE_S
