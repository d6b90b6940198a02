"""Exit codes of the `keymill` command, and of each of its commands; `--help` and docs/commands.md tell them."""

import os
from collections.abc import Mapping
from typing import Final, NamedTuple

import typer
from typer.main import get_command_name

from keymill.errors import Corrupt, InvalidRecord, KeymillError, Misconfigured, Retry

HELP: Final = """
Exit codes: 0 done or clean, 1 differences found or the work failed, 2 usage or settings, 3 unavailable, 4 corrupt.
"""


class Meaning(NamedTuple):
    """What exit codes 1, 3 and 4 mean for a command; empty for one that it never gives."""

    one: str
    three: str = "no broker answers"
    four: str = "what is stored contradicts itself"

    def told(self) -> str:
        """As a paragraph; 0 and 2 mean the same for all."""
        every = {0: "done or clean", 1: self.one, 2: "usage or settings", 3: self.three, 4: self.four}
        return f"Exit codes: {'; '.join(f'{code} {meaning}' for code, meaning in every.items() if meaning)}."


_FAILED: Final = Meaning("failed", "no broker answers, or a program is not ready in time")
_UNKNOWN: Final = Meaning("there is no such organization")
_REFUSED: Final = Meaning("refused, or there is no such policy", "no broker or processor answers")
_OFFLINE: Final = Meaning("", "", "")
_REBUILT: Final = Meaning(
    "something is to be written and --apply is not given, or the topic contradicts its events",
    "no broker answers, or a processor is at work",
)

COMMANDS: Final[Mapping[str, Meaning]] = {
    **dict.fromkeys(("up", "processor", "gateway", "proxy", "connect"), _FAILED),
    "status": Meaning("something needs attention"),
    "replay": Meaning(
        "a record is missing, different or unexpected, a draft has an effect, or --apply is not given",
        "no broker answers, or with --repair a processor does not in time",
    ),
    "audit": Meaning("something differs"),
    "rotate-kek": Meaning("refused, or steps are left: in a plan, or because one waits for a program that is named"),
    "rotate-root": Meaning("--apply is not given, or there is no such organization", "", ""),
    "explain": Meaning("nothing is known by that name", "no broker answers for what the view does not hold"),
    "restore": Meaning(
        "something is to be done and --apply is not given, or a key is another in the backup",
        four="the backup is damaged or another file",
    ),
    "topics create": Meaning("a topic cannot be used as it is"),
    "topics check": Meaning("something differs"),
    "topics show": Meaning(""),
    "topics sign": Meaning("something is to be signed and --apply is not given, or a record is left out"),
    "topics configure": Meaning("something is to be set and --apply is not given"),
    "topics adopt": Meaning("something is to be adopted and --apply is not given"),
    "org create": Meaning("refused"),
    "org list": Meaning(""),
    **dict.fromkeys(("org set", "org revoke", "org restore"), _UNKNOWN),
    "credential create": Meaning("there is no such organization, or a credential of that name"),
    "credential list": _UNKNOWN,
    "credential revoke": Meaning("there is no such organization or credential"),
    "policy list": _UNKNOWN,
    **dict.fromkeys(("policy import", "policy assign"), _REFUSED),
    "policy show": Meaning("there is no such organization or policy"),
    "policy export": Meaning("there is no such organization or policy, or the format cannot hold it"),
    **dict.fromkeys(("service set", "service list", "token-key list"), _UNKNOWN),
    "token-key add": Meaning("there is no such organization, or the key was retired"),
    "token-key retire": Meaning("there is no such organization or key"),
    "token issue": _OFFLINE,
    "import csv": Meaning("a row has a problem, or something is to be sent and --apply is not given"),
    **dict.fromkeys(("rebuild keys", "rebuild policies"), _REBUILT),
    "rebuild snapshot": Meaning("--apply is not given", "no broker answers, or the view does not catch up in time"),
    "rebuild archive": Meaning("something is left to archive: --apply is not given, or it was stopped"),
    "backup save": Meaning("a saved secret does not open with the saved keys, and the file is there all the same"),
    "backup verify": Meaning("a saved secret does not open with the saved keys", "", "the file is damaged or another"),
    "backup show": Meaning("", "", "the file is damaged"),
    "backup recipient": _OFFLINE,
    "dlq list": Meaning(""),
    "dlq show": Meaning("no dead letter is about that event"),
    "dlq redrive": Meaning(
        "an event was refused again, a plan would send some, or no dead letter is about one that was named",
        "no broker answers, or no processor came to an event in time",
    ),
    "claims release": Meaning(
        "a claim is to be released and --apply is not given",
        "no broker answers, a processor is at work, or what it refused is not committed",
    ),
    "config show": _OFFLINE,
}
"""By command. What is missing here makes no command."""


def document(app: typer.Typer, *path: str) -> None:
    """Let the help of every command of *app* end with its exit codes."""
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or get_command_name(command.callback.__name__)
        command.epilog = COMMANDS[" ".join((*path, name))].told()
    for group in app.registered_groups:
        if group.typer_instance is not None and isinstance(group.name, str):
            document(group.typer_instance, *path, group.name)


def exit_code_of(error: KeymillError) -> int:
    """The documented exit code of an error; what breaks its format was given by the caller of the command."""
    match error:
        case Misconfigured() | InvalidRecord():
            return 2
        case Retry():
            return 3
        case Corrupt():
            return 4
        case _:
            return 1


def worded(error: KeymillError | OSError) -> KeymillError:
    """
    The error as it is told; a path of the command line or of the settings that cannot be used is `Misconfigured`.

    Raises *error* itself when it names no path: then it is no mistake of the caller's.
    """
    if isinstance(error, KeymillError):
        return error
    if error.filename is None:
        raise error
    reason = "is no folder" if isinstance(error, FileExistsError) else error.strerror
    return Misconfigured(f"{os.fsdecode(error.filename)}: {reason}: name another path, or make this one usable")
