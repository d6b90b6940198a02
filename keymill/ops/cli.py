"""The `keymill` command: arguments and exit codes, nothing else."""

import gc
import sys
from importlib import metadata
from typing import Annotated, Any

import typer

from keymill import telemetry
from keymill.errors import KeymillError
from keymill.ops import (
    audit,
    backup,
    credential,
    dlq,
    exits,
    explain,
    import_command,
    org,
    policy_commands,
    programs,
    rebuild,
    replay,
    restore,
    rotate_kek,
    rotate_root,
    service,
    settings,
    status,
    tokens,
    topics,
)

_GC = (20_000, 20, 50)
"""Records are no cycles: looking for some as often as Python does by itself costs a replay a twentieth."""

app = typer.Typer(
    name="keymill",
    help="Event-driven key and policy provisioning for DRM." + exits.HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
programs.register(app)
app.add_typer(topics.app, name="topics", rich_help_panel="Set-up")
app.add_typer(org.app, name="org", rich_help_panel="Set-up")
app.add_typer(credential.app, name="credential", rich_help_panel="Set-up")
app.add_typer(policy_commands.app, name="policy", rich_help_panel="Set-up")
app.add_typer(service.app, name="service", rich_help_panel="Set-up")
app.add_typer(tokens.token_key, name="token-key", rich_help_panel="Set-up")
app.add_typer(tokens.token, name="token", rich_help_panel="Set-up")
app.add_typer(import_command.app, name="import", rich_help_panel="Recovery")
app.command(rich_help_panel="Recovery")(status.status)
app.command(rich_help_panel="Recovery")(replay.replay)
app.command(rich_help_panel="Recovery")(audit.audit)
app.add_typer(rebuild.app, name="rebuild", rich_help_panel="Recovery")
app.command("rotate-kek", rich_help_panel="Recovery")(rotate_kek.rotate_kek)
app.command("rotate-root", rich_help_panel="Recovery")(rotate_root.rotate_root)
app.command(rich_help_panel="Recovery")(explain.explain)
app.add_typer(backup.app, name="backup", rich_help_panel="Recovery")
app.command(rich_help_panel="Recovery")(restore.restore)
app.add_typer(dlq.app, name="dlq", rich_help_panel="Recovery")
app.add_typer(settings.app, name="config")
exits.document(app)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(metadata.version("keymill"))
        raise typer.Exit


@app.callback()
def keymill(
    version: Annotated[
        bool, typer.Option("--version", help="print the version and leave", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    """Options that stand before a command; the help is the application's."""


command = typer.main.get_command(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every keymill error is one line on stderr and a documented exit code."""
    gc.freeze()
    gc.set_threshold(*_GC)
    telemetry.configure("ops", "warning", tells_brokers=False)  # a command ends with the reason, on one line
    try:
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
