"""How commands print a listing: a table for people, an array of objects for programs."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import typer
from rich.console import Console
from rich.table import Column, Table

WIDE: Final = 1000
"""Columns of what is no terminal: a line there is never broken."""


def print_listing(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print *columns* of every row under a header, or with *as_json* the rows as they are, as one array."""
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(*(Column(name, overflow="fold") for name in columns), box=None)
    for row in rows:
        table.add_row(*map(_cell, (row[name] for name in columns)))
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = WIDE
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value in (None, "") else str(value)
