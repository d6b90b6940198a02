"""The command line without a broker: what it says about mistakes, on one line, and with which exit code."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import jwt
import pytest

from keymill.config import Settings
from keymill.ops import cli
from keymill.ops.address import FILE, bootstrap_of, write_address
from keymill.ops.command_page import every_command
from keymill.ops.token_keys import signing_key
from tests.golden.backup import PEOPLE

NOBODY = "127.0.0.1:1"


def keymill(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in an environment without settings but these."""
    command = [sys.executable, "-m", "keymill.ops.cli", *map(str, arguments)]
    bare = {name: value for name, value in os.environ.items() if not name.startswith("KEYMILL_")}
    return subprocess.run(command, env=bare | environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file where a folder is wanted."""
    path = tmp_path / "file"
    path.touch()
    return path


def test_version_is_the_distributions() -> None:
    """Alone on stdout."""
    done = keymill("--version")
    assert (0, version("keymill") + "\n", "") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ["up"],
        ["token", "issue", "--organization", "demo", "--asset", "film"],
        ["explain", "00000000-0000-8000-8000-000000000000"],
    ],
    ids=" ".join,
)
def test_a_data_folder_that_is_a_file_is_a_mistake_of_one_line(file: Path, arguments: Sequence[str]) -> None:
    """It names the path, exits with 2, and shows no trace."""
    done = keymill(*arguments, "--data", file, KEYMILL_LOG_LEVEL="warning")
    assert (2, "", 1) == (done.returncode, done.stdout, len(done.stderr.splitlines())), done.stderr
    assert str(file) in done.stderr


def test_a_data_folder_that_cannot_be_made_is_named() -> None:
    """The system's reason stands beside it."""
    done = keymill("up", "--data", "/proc/keymill", KEYMILL_LOG_LEVEL="warning")
    said = "keymill: /proc/keymill: No such file or directory: name another path, or make this one usable\n"
    assert (2, said) == (done.returncode, done.stderr)


@pytest.mark.parametrize("program", ["gateway", "proxy"])
def test_a_program_says_in_its_log_why_it_ended(tmp_path: Path, program: str) -> None:
    """The last line is JSON like all others: critical, with the reason and the exit code."""
    keys = tmp_path / "keys.json"
    keys.mkdir()
    done = keymill(program, "--data", tmp_path, "--bootstrap", NOBODY)
    line = json.loads(done.stderr.splitlines()[-1])
    assert (2, 2, "critical", program) == (done.returncode, line["exit_code"], line["level"], line["program"])
    assert line["error"].startswith(f"key file {keys} is no file")


def test_settings_that_no_program_takes_are_told_in_its_log() -> None:
    """What goes wrong before the program configures its log is JSON too."""
    done = keymill("processor", KEYMILL_GRUOP="x")
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (2, "critical", "processor") == (done.returncode, line["level"], line["program"])
    assert "KEYMILL_GRUOP" in line["error"]


def test_brokers_that_are_away_are_one_line() -> None:
    """The client library's own complaints do not drown it."""
    done = keymill("topics", "show", "--bootstrap", NOBODY)
    assert (3, "", 1) == (done.returncode, done.stdout, len(done.stderr.splitlines())), done.stderr
    assert NOBODY in done.stderr


def test_config_show_prints_what_is_in_force(tmp_path: Path) -> None:
    """As lines and as one JSON object, from the file that is named, without user and password of a URL."""
    file = tmp_path / "keymill.toml"
    file.write_text('group = "mine"\n')
    environment = {"KEYMILL_REGISTRY_URL": "http://us@r:pa:ss@registry:8081/x@y", "KEYMILL_SETTINGS": str(file)}
    lines = dict(
        line.split(" = ", 1) for line in keymill("config", "show", "processor", **environment).stdout.splitlines()
    )
    assert ("mine", "http://********@registry:8081/x@y") == (lines["group"], lines["registry_url"])
    assert lines == json.loads(keymill("config", "show", "processor", "--json", **environment).stdout)
    assert 2 == keymill("config", "show", "broker").returncode


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["org", "create", "BAD_ID"], "organization must be"),
        (["credential", "list", "--organization", "BAD_ID"], "organization must be"),
        (["credential", "create", "--organization", "demo", "--kind", "widevine-signer"], "give --name"),
        (["credential", "create", "--organization", "demo", "--kind", "password"], "password"),
        (["credential", "revoke", "--organization", "demo", "self"], "organization itself"),
        (["token", "issue", "--organization", "demo", "--asset", "a/b"], "asset must be"),
        (["token", "issue", "--organization", "demo"], "--asset or --product"),
        (["topics", "show"], "no brokers are named"),
        (["backup", "a.backup", "--recipient", "kmpub1x"], "mistyped"),
        (["backup", "save", "a.backup", "--recipient", "absent"], "no such file"),
        (["backup", "save", "a.backup", "--recipient", PEOPLE[0].recipient, "--quorum", "2"], "quorum is 1 to 1"),
        (["backup", "verify", "absent", "--identity", "absent"], "absent"),
        (["restore", "absent", "--identity", "absent"], "absent"),
    ],
    ids=" ".join,
)
def test_a_mistake_in_the_arguments_is_exit_code_2(tmp_path: Path, arguments: Sequence[str], word: str) -> None:
    """Nothing on stdout, the reason on stderr; no broker is needed to see it."""
    where = () if {"topics", "token", "verify"} & set(arguments) else ("--bootstrap", NOBODY)
    done = keymill(*arguments, *where, KEYMILL_DATA=str(tmp_path), TERMINAL_WIDTH="200")
    assert (2, "") == (done.returncode, done.stdout), done.stderr
    assert word in done.stderr and "Traceback" not in done.stderr


def test_a_backup_that_exists_is_seen_before_anything_is_read(tmp_path: Path) -> None:
    """Without brokers too; `keymill backup FILE` is `keymill backup save FILE`."""
    file = tmp_path / "keys.backup"
    file.write_text("an older one")
    for command in (("backup",), ("backup", "save")):
        done = keymill(*command, file, "--recipient", PEOPLE[0].recipient, "--bootstrap", NOBODY)
        assert (2, True) == (done.returncode, "never overwritten" in done.stderr), done.stderr
    assert "an older one" == file.read_text()


def test_every_command_takes_the_settings_file() -> None:
    """Named by the option or by the variable; and every one that asks brokers finds them in a data folder."""
    found = dict(every_command(cli.application()))
    assert len(found) > 15
    for path, each in found.items():
        options = {option: parameter for parameter in each.params for option in parameter.opts}
        assert "KEYMILL_SETTINGS" == options["--settings"].envvar, path
        assert "--bootstrap" not in options or "--data" in options, path


def test_the_settings_file_is_read(tmp_path: Path) -> None:
    """By commands that had it not: its data folder, its brokers."""
    file = tmp_path / "keymill.toml"
    file.write_text(f'data = "{tmp_path}"\nbootstrap = "{NOBODY}"\n')
    done = keymill("token", "issue", "--organization", "demo", "--asset", "film", "--settings", file)
    assert (2, True) == (done.returncode, str(tmp_path / "token-keys" / "demo.pem") in done.stderr)
    done = keymill("replay", KEYMILL_SETTINGS=str(file))
    assert (3, True) == (done.returncode, NOBODY in done.stderr)


def test_a_token_is_issued_for_people_and_for_programs(tmp_path: Path) -> None:
    """Alone on its line, or in JSON beside what it says and the key that verifies it."""
    _, key = signing_key(tmp_path, "demo", make=True)
    assert key is not None
    issue = ("token", "issue", "--organization", "demo", "--asset", "film", "--single-use", "--data", tmp_path)
    told = json.loads(keymill(*issue, "--json").stdout)
    for token in (keymill(*issue).stdout.removesuffix("\n"), told["token"]):
        assert "film" == jwt.decode(token, key.public_key(), algorithms=["EdDSA"])["asset"]
    assert told["claims"] == jwt.decode(told["token"], key.public_key(), algorithms=["EdDSA"])
    assert told["key_id"] == jwt.get_unverified_header(told["token"])["kid"]


def test_the_address_file_is_replaced_whole(tmp_path: Path) -> None:
    """No credential in it; whoever has the former one open reads on in it."""
    write_address(tmp_path, {"kafka": "a:1", "credentials": {"api_key": "secret"}})
    with (tmp_path / FILE).open() as former:
        write_address(tmp_path, {"kafka": "b:1", "health": {"processor": ["http://c:1"]}})
        assert {"kafka": "a:1"} == json.load(former)
    assert ["b:1", [FILE]] == [bootstrap_of(Settings(data=tmp_path)), [path.name for path in tmp_path.iterdir()]]
