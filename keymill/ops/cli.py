"""The `keymill` command: arguments and exit codes, nothing else."""

import gc
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module, metadata
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from keymill import telemetry
from keymill.errors import KeymillError
from keymill.ops import exits, programs

COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "topics": ("topics.app", "Set-up"),
    "org": ("org.app", "Set-up"),
    "credential": ("credential.app", "Set-up"),
    "policy": ("policy_commands.app", "Set-up"),
    "service": ("service.app", "Set-up"),
    "token-key": ("tokens.token_key", "Set-up"),
    "token": ("tokens.token", "Set-up"),
    "import": ("import_command.app", "Recovery"),
    "status": ("status.status", "Recovery"),
    "replay": ("replay.replay", "Recovery"),
    "audit": ("audit.audit", "Recovery"),
    "rebuild": ("rebuild.app", "Recovery"),
    "rotate-kek": ("rotate_kek.rotate_kek", "Recovery"),
    "rotate-root": ("rotate_root.rotate_root", "Recovery"),
    "explain": ("explain.explain", "Recovery"),
    "backup": ("backup.app", "Recovery"),
    "restore": ("restore.restore", "Recovery"),
    "dlq": ("dlq.app", "Recovery"),
    "claims": ("claims_command.app", "Recovery"),
    "config": ("settings.app", ""),
}
"""By name: where a command, or a group of them, is below `keymill.ops`, and its panel of the help; beside programs."""
_GC = (20_000, 20, 50)
"""Records are no cycles: looking for some as often as Python does by itself costs a replay a twentieth."""


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(metadata.version("keymill"))
        raise typer.Exit


def keymill(
    version: Annotated[
        bool, typer.Option("--version", help="print the version and leave", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    """Options that stand before a command; the help is the application's."""


def application(*names: str) -> TyperGroup:
    """
    The `keymill` command with the programs and the commands of those *names*, or with all.

    A command costs the import of what it needs and of nothing else: half of a second for one that asks a broker.
    """
    app = typer.Typer(
        name="keymill",
        help="Event-driven key and policy provisioning for DRM." + exits.HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(keymill)
    programs.register(app)
    for name in names or COMMANDS:
        if name in COMMANDS:
            _add(app, name, *COMMANDS[name])
    exits.document(app)
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return group


def _add(app: typer.Typer, name: str, place: str, panel: str) -> None:
    module, _, attribute = place.partition(".")
    found = getattr(import_module(f"keymill.ops.{module}"), attribute)
    if isinstance(found, typer.Typer):
        app.add_typer(found, name=name, rich_help_panel=panel or None)
    else:
        app.command(name, rich_help_panel=panel)(found)


def _needed(arguments: Sequence[str]) -> tuple[str, ...]:
    """The command that is named first; nothing, which is all of them, for the help or for a name that is none."""
    name = next((argument for argument in arguments if not argument.startswith("-")), "")
    return (name,) if name in COMMANDS or name in programs.NAMES else ()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every keymill error is one line on stderr and a documented exit code."""
    gc.freeze()
    gc.set_threshold(*_GC)
    telemetry.configure("ops", "warning", tells_brokers=False)  # a command ends with the reason, on one line
    try:
        command = application(*_needed(sys.argv[1:] if arguments is None else arguments))
        result: Any = command.main(args=arguments, standalone_mode=False)
    except (KeymillError, OSError) as raised:
        error = exits.worded(raised)
        typer.echo(f"keymill: {error}", err=True)
        sys.exit(exits.exit_code_of(error))
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except typer.Abort:
        sys.exit(1)
    except Exception as error:  # the top of the program; usage errors are click's own
        show_usage = getattr(error, "show", None)
        if show_usage is None:
            raise
        show_usage()
        sys.exit(2)
    sys.exit(result if isinstance(result, int) else 0)


if __name__ == "__main__":
    main()
