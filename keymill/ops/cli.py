"""The `keymill` command: arguments and exit codes, nothing else."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from keymill import telemetry
from keymill.config import PROGRAMS, Settings, load
from keymill.errors import Corrupt, KeymillError, Misconfigured, Retry
from keymill.ops import credential, explain, org, programs, replay, tokens, topics
from keymill.settings_text import masked

EXIT_CODES = """
Exit codes: 0 done or clean, 1 differences found or the work failed, 2 usage or settings, 3 unavailable, 4 corrupt.
"""

app = typer.Typer(
    name="keymill",
    help="Event-driven key and policy provisioning for DRM." + EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
programs.register(app)
app.add_typer(topics.app, name="topics", rich_help_panel="Set-up")
app.add_typer(org.app, name="org", rich_help_panel="Set-up")
app.add_typer(credential.app, name="credential", rich_help_panel="Set-up")
app.add_typer(tokens.token_key, name="token-key", rich_help_panel="Set-up")
app.add_typer(tokens.token, name="token", rich_help_panel="Set-up")
app.command(rich_help_panel="Recovery")(replay.replay)
app.command(rich_help_panel="Recovery")(explain.explain)
config = typer.Typer(help="Settings.", no_args_is_help=True)
app.add_typer(config, name="config")


@config.command("show")
def show(
    program: Annotated[str, typer.Argument(help=f"one of {', '.join(PROGRAMS)}")],
    settings: Annotated[Path | None, typer.Option("--settings", envvar="KEYMILL_SETTINGS", help="TOML file")] = None,
) -> None:
    """Show the settings a program would run with, secrets masked."""
    kind: type[Settings] | None = PROGRAMS.get(program)
    if kind is None:
        raise typer.BadParameter(f"{program} is none of {', '.join(PROGRAMS)}")
    for name, value in masked(load(kind, file=settings)).items():
        typer.echo(f"{name} = {value}")


def exit_code_of(error: KeymillError) -> int:
    """The documented exit code of an error."""
    match error:
        case Misconfigured():
            return 2
        case Retry():
            return 3
        case Corrupt():
            return 4
        case _:
            return 1


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every keymill error is one line on stderr and a documented exit code."""
    telemetry.configure("ops", "warning")
    try:
        result: Any = app(args=arguments, standalone_mode=False)
    except KeymillError as error:
        typer.echo(f"keymill: {error}", err=True)
        sys.exit(exit_code_of(error))
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
