"""How commands print what they found or did: for people a table or lines, for programs JSON."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Column, Table

from keymill.kafka.authentication import is_unverified

WIDE: Final = 1000
"""Columns of what is no terminal: a line there is never broken."""


def print_listing(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print *columns* of every row under a header, or with *as_json* the rows as they are, as one array."""
    if as_json:
        print_json(rows)
        return
    table = Table(*(Column(name, overflow="fold") for name in columns), box=None)
    for row in rows:
        table.add_row(*map(_cell, (row[name] for name in columns)))
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = WIDE
    console.print(table)


def print_result(result: Mapping[str, Any], *, as_json: bool, text: str | None = None) -> None:
    """Print one thing: as one line of JSON, else *text*, where there is none a line per member."""
    if as_json:
        print_json(result)
    elif text is not None:
        typer.echo(text)
    else:
        width = max(map(len, result))
        for name, value in result.items():
            typer.echo(f"{name:{width}}  {_cell(value)}")


def print_differences(differences: Iterable[Mapping[str, Any]]) -> None:
    """Print what a comparison found, a line each."""
    for each in differences:
        typer.echo(f"{each['kind']}: {each['record_key']}: {each['detail']}")


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    typer.echo(json_of(value))


def json_of(value: Any) -> str:
    """
    Return a value as one line of JSON.

    Its objects, or those of the array that it is, have `"verified": false` when what was read was not verified.
    """
    if is_unverified():
        told = msgspec.to_builtins(value)
        value = [_marked(each) for each in told] if isinstance(told, list | tuple) else _marked(told)
    return msgspec.json.encode(value).decode()


def _marked(told: Any) -> Any:
    return told | {"verified": False} if isinstance(told, dict) else told


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict | list | tuple):
        return msgspec.json.encode(value).decode()
    return "-" if value in (None, "") else str(value)
