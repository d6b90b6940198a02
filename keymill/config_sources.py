"""Where settings stand, variables and a TOML file, and how a mistake in one is told."""

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from keymill.errors import Misconfigured

PREFIX: Final = "KEYMILL_"
TABLES: Final = frozenset({"upstreams"})
"""Settings that only the file can hold."""
OTHER_VARIABLES: Final = frozenset({"KEYMILL_SETTINGS", "KEYMILL_CHROMIUM"})
"""Variables that no settings class holds: the settings file itself, and the demo's browser."""


def from_environment(environ: Mapping[str, str], members: Collection[str], known: Collection[str]) -> dict[str, Any]:
    """
    The values of *members* that variables give.

    Args:
        known: members of any program; a variable that is none of them is `Misconfigured`.
    """
    values: dict[str, Any] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable in OTHER_VARIABLES or variable.startswith(f"{PREFIX}TEST_"):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in known:
            raise Misconfigured(f"{variable} is no setting of keymill: see docs/settings.md, or unset it")
        if name in TABLES and value:
            raise Misconfigured(f"{variable}: {name} are tables of the settings file, no variable can hold them")
        if name in members and value:  # empty is how a compose file leaves a variable out
            values[name] = value
    return values


def from_file(file: Path, members: Collection[str], known: Collection[str]) -> dict[str, Any]:
    """The values of *members* in a TOML file; *known* as for `from_environment`."""
    try:
        content = tomllib.loads(file.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"settings file {file}: {error}") from None
    unknown = set(content) - set(known)
    if unknown:
        raise Misconfigured(
            f"settings file {file}: {sorted(unknown)[0]} is no setting of keymill, see docs/settings.md"
        )
    return {name: value for name, value in content.items() if name in members}


def worded(error: ValidationError) -> str:
    """The first mistake, with the setting's name; never what was given, which may be a secret."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = [str(part) for part in first["loc"]]
    if place[0] in TABLES:
        place = place[:2] + place[3:]  # without the kind, by which pydantic chose the class
    name = ".".join(place)
    variable = "" if place[0] in TABLES else f" ({PREFIX}{name.upper()})"
    return f"setting {name}{variable}: {first['msg'].removeprefix('Value error, ')}"
