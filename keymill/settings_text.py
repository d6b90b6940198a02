"""Settings written out: masked for a person, whole for a child process."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, SecretStr

from keymill.config import Settings
from keymill.config_sources import PREFIX, TABLES
from keymill.upstream_settings import REVEAL


def masked(settings: BaseModel) -> dict[str, str]:
    """The settings as text, secrets masked; the members of a table under its name."""
    return {
        name: ("********" if value else "") if isinstance(value, SecretStr) else _text(value)
        for name, value in _members(settings)
        if value is not None
    }


def told(settings: Settings) -> dict[str, Any]:
    """The settings as JSON values, secrets among them: for the pipe to a child process, and nothing else."""
    return settings.model_dump(mode="json", exclude_none=True, context={REVEAL: True})


def as_environment(settings: Settings, kind: type[Settings], **given: Any) -> dict[str, str]:
    """The variables with which a child of that kind has these settings; tables it reads from the file itself."""
    values = {name: getattr(settings, name) for name in kind.model_fields} | given
    return {
        PREFIX + name.upper(): value.get_secret_value() if isinstance(value, SecretStr) else _text(value)
        for name, value in values.items()
        if value is not None and name not in TABLES
    }


def _members(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, dict):
            for key, within in value.items():
                if isinstance(within, BaseModel):
                    yield from _members(within, f"{prefix}{name}.{key}.")
                else:
                    yield f"{prefix}{name}.{key}", within
        else:
            yield prefix + name, value


def _text(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
