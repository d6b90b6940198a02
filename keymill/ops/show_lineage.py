"""A lineage on the terminal: a line per member, what it consists of indented below."""

from typing import Any, Final

import msgspec
import typer

from keymill.ops.lineage import AssetLineage, KeyLineage

_WIDTH: Final = 14


def show(lineage: msgspec.Struct, indent: str = "") -> None:
    """Print what is known; what is not is left out."""
    for field in msgspec.structs.fields(lineage):
        value = getattr(lineage, field.name)
        if value in (None, "", ()):
            continue
        if isinstance(value, tuple) and isinstance(value[0], msgspec.Struct):
            _show_all(field.name, value, indent)
        else:
            typer.echo(f"{indent}{field.name:{_WIDTH}} {_line(value)}")


def _show_all(name: str, values: tuple[Any, ...], indent: str) -> None:
    typer.echo(f"{indent}{name}")
    for value in values:
        if isinstance(value, KeyLineage | AssetLineage):
            show(value, indent + "  ")
            typer.echo("")
        else:
            typer.echo(f"{indent}  {_line(value)}")


def _line(value: Any) -> str:
    if isinstance(value, msgspec.Struct):
        told = [(field.name, getattr(value, field.name)) for field in msgspec.structs.fields(value)]
        return ", ".join(
            f"{name} ({_line(each)})" if isinstance(each, msgspec.Struct) else f"{name} {_line(each)}"
            for name, each in told
            if each not in (None, "", ())
        )
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
