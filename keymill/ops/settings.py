"""`keymill config`: the settings in force."""

import re
from typing import Annotated, Final

import typer

from keymill.config import PROGRAMS, Settings, load
from keymill.ops.listing import print_json
from keymill.ops.options import File, Json
from keymill.settings_text import masked

app = typer.Typer(help="Settings.", no_args_is_help=True)
USERINFO: Final = re.compile(r"(?<=://)[^/?#\s]*@")
"""Up to the last @ before the path, as URL parsers read it (WHATWG URL, authority state)."""


@app.command("show")
def show(
    program: Annotated[str, typer.Argument(help=f"one of {', '.join(PROGRAMS)}")],
    settings: File = None,
    as_json: Json = False,
) -> None:
    """Show the settings a program would run with, secrets masked."""
    kind: type[Settings] | None = PROGRAMS.get(program)
    if kind is None:
        raise typer.BadParameter(f"{program} is none of {', '.join(PROGRAMS)}")
    shown = {name: without_userinfo(value) for name, value in masked(load(kind, file=settings)).items()}
    if as_json:
        print_json(shown)
        return
    for name, value in shown.items():
        typer.echo(f"{name} = {value}")


def without_userinfo(text: str) -> str:
    """The text with user and password of every URL in it masked."""
    return USERINFO.sub("********@", text)
