"""What all commands have in common: `--json`, and exit codes as docs/commands.md has them."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from keymill.ops import cli
from keymill.ops.exits import COMMANDS
from keymill.ops.ledger import Ledger
from keymill.ops.ledger import write as write_ledger
from keymill.ops.programs import NAMES
from tests.command_runs import FOUND, Ran, line_of, options_of, prepare, run_all

NOBODY: Final = "127.0.0.1:1"
AT_ONCE_S: Final = 60.0
"""Ten seconds of patience with brokers, and a busy machine."""

HEAVY: Final = ("sqlalchemy", "alembic", "faust", "aiokafka", "aiohttp", "starlette", "uvicorn")

NOT_FIRST: Final = ("explain", "gateway", "proxy")
"""They ask brokers, and do without: the view is told, players and packagers are answered."""


ASKING: Final = [
    name for name, command in FOUND.items() if "--bootstrap" in options_of(command) and name not in NOT_FIRST
]


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """Every command that asks brokers, while none answers; with `--json` where it has that."""
    folder = tmp_path_factory.mktemp("away")
    prepare(folder)
    lines = [[*line_of(name, folder, "demo"), "--bootstrap", NOBODY] for name in ASKING]
    return dict(zip(ASKING, run_all(lines, KEYMILL_DATA=str(folder / "data")), strict=True))


@pytest.fixture(scope="module")
def mistaken() -> dict[str, Ran]:
    """Every command with an option that it has not."""
    return dict(zip(FOUND, run_all([[*name.split(), "--nonsense"] for name in FOUND]), strict=True))


def test_the_command_line_loads_no_library_that_most_commands_do_without() -> None:
    """Each of them would cost every command a fifth of a second and more."""
    assert [] == loaded_by("cli.application()", HEAVY)


@pytest.mark.parametrize(("name", "loads"), [("org", ["keymill.ops.org"]), ("processor", []), ("connect", [])])
def test_a_command_loads_no_other(name: str, loads: list[str]) -> None:
    """A program above all, of which `keymill up` starts four."""
    commands = sorted({f"keymill.ops.{place.partition('.')[0]}" for place, _ in cli.COMMANDS.values()})
    assert loads == loaded_by(f"cli.main([{name!r}, '--help'])", commands)


def loaded_by(call: str, modules: Sequence[str]) -> list[str]:
    """Which of the *modules* a call of the command line loads."""
    code = f"import contextlib, sys; from keymill.ops import cli\nwith contextlib.suppress(SystemExit): {call}\n"
    code += f"print('loaded', *[name for name in {modules} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()[1:]


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
    assert len(done.stderr.splitlines()) == (2 if name == "up" else 1), done.stderr
    assert done.seconds < AT_ONCE_S


def test_what_is_damaged_is_exit_code_4(tmp_path: Path) -> None:
    """A backup that was cut short, a ledger that somebody changed: said before any broker is asked."""
    prepare(tmp_path)
    file, ledger = tmp_path / "old.backup", tmp_path / "before.ledger"
    file.write_bytes(file.read_bytes()[:100])
    write_ledger(Ledger(), ledger)
    ledger.write_text(ledger.read_text().replace("sha256 ", f"demo {'00' * 16} {'00' * 16}\nsha256 "))
    lines = [line_of(name, tmp_path, "demo") for name in ("backup verify", "backup show", "restore")]
    lines.append(["audit", "--against", str(ledger), "--json"])
    for line, done in zip(lines, run_all(lines, KEYMILL_BOOTSTRAP=NOBODY, KEYMILL_DATA=str(tmp_path)), strict=True):
        assert (4, "", 1) == (done.code, done.stdout, len(done.stderr.splitlines())), (line, done)
