"""Every `keymill` command with arguments that work; many at once, each a fork of an interpreter that has them all."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keymill.kms.keyfile import create_key_file
from keymill.ops.backup_file import write_backup
from keymill.ops.cli import application
from keymill.ops.command_page import every_command
from keymill.ops.recipients import make_identity
from keymill.ops.token_keys import pem_of
from tests.golden.backup import HEADER, PEOPLE, SAVED

NO_KID: Final = "00000000-0000-8000-8000-000000000000"

FORKS: Final = """
import gc, json, os, sys, time
import typer.rich_utils, keymill.kafka.admin, keymill.kafka.producer  # what most of them import when they are called
from keymill.ops import cli

cli.application()

folder, lines = json.load(sys.stdin)
began, running = time.monotonic(), {}
gc.freeze()
for number, line in enumerate(lines):
    pid = os.fork()
    if not pid:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{folder}/{number}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        cli.main(line)
    running[pid] = number
ended = {}
while running:
    pid, status = os.wait()
    ended[running.pop(pid)] = (os.waitstatus_to_exitcode(status), time.monotonic() - began)
print(json.dumps([ended[number] for number in range(len(lines))]))
"""


class Ran(NamedTuple):
    """How a command ended, and how long after the first of all began."""

    code: int
    stdout: str
    stderr: str
    seconds: float


def run_all(lines: Sequence[Sequence[str]], *, timeout_s: float = 120, **environment: str) -> list[Ran]:
    """Run every command line without settings but these, all at the same time; the results in their order."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("KEYMILL_")}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", FORKS], input=json.dumps([folder, list(map(list, lines))]), text=True,
            env=bare | environment, capture_output=True, timeout=timeout_s, check=True,
        )  # fmt: skip
        said = [tuple((Path(folder) / f"{n}.{name}").read_text() for name in ("out", "err")) for n in range(len(lines))]
    return [
        Ran(code, out, err, seconds) for (code, seconds), (out, err) in zip(json.loads(done.stdout), said, strict=True)
    ]


FOUND: Final = {" ".join(path): command for path, command in every_command(application())}
"""Every command."""

ORGANIZATION: Final = ("--organization", "{organization}")
NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "explain": ("{kid}",),
    "rotate-kek": ORGANIZATION,
    "org create": ("{organization}",),
    "org set": ("{organization}", "--provider", "acme"),
    "org revoke": ("{organization}",),
    "org restore": ("{organization}",),
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
    "rotate-root": (*ORGANIZATION, "--activates", "+24h"),
    "token issue": (*ORGANIZATION, "--asset", "film"),
    "backup verify": ("{folder}/old.backup", "--identity", "{folder}/my.identity"),
    "backup show": ("{folder}/old.backup",),
    "backup recipient": ("{folder}/new.identity",),
    "config show": ("processor",),
    "connect": ("sql-archive", "--once"),
}
"""The arguments with which a command gets to work, in a folder that `prepare` has filled."""


def options_of(command: Any) -> set[str]:
    """The names of a command's options."""
    return {option for parameter in command.params for option in parameter.opts}


def prepare(folder: Path) -> None:
    """Put the files there that the commands of `NEEDS` read."""
    (folder / "policy.json").write_text('{"can_play": true}')
    (folder / "portal.pub").write_text(pem_of(Ed25519PrivateKey.generate().public_key()))
    (folder / "keys.csv").write_text("asset,track,kid,key\n")
    recipient = make_identity(folder / "my.identity").recipient
    create_key_file(folder / "saved.json")
    header = msgspec.structs.replace(HEADER, recipients=(recipient,), quorum=1)
    saved = msgspec.structs.replace(SAVED, key_file=(folder / "saved.json").read_bytes())
    write_backup(folder / "old.backup", header, saved)


def line_of(name: str, folder: Path, organization: str, kid: str = NO_KID) -> list[str]:
    """A command line that works, with `--json` where the command has it."""
    given = {"folder": folder, "organization": organization, "kid": kid}
    as_json = ["--json"] * ("--json" in options_of(FOUND[name]))
    return [*name.split(), *(part.format(**given) for part in NEEDS.get(name, ())), *as_json]
