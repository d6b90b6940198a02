"""What a dialect tells about itself, for the OpenAPI document: how to ask, and what a license comes in."""

from collections.abc import Mapping
from typing import Any, Final

from keymill.http.openapi import Problem
from schemas.values import Record

OCTETS: Final = "application/octet-stream"
JSON: Final = "application/json"
ANY: Final = "*/*"
"""The license server's Content-Type is passed on, whatever it is."""


class Parameter(Record, frozen=True, kw_only=True):
    """A member of the query; `values` are all that it may be, where they are few, and a whole one matches `pattern`."""

    name: str
    description: str
    values: tuple[str, ...] = ()
    pattern: str = ""
    required: bool = False


class Interface(Record, frozen=True, kw_only=True):
    """
    How a dialect is spoken. Its statuses are not here: `Dialect.respond` words every refusal, and is asked.

    Args:
        token: the query's member that is the player's token.
        bodies: media types of the request's body, each with the structs that it may be; of bytes, none.
        licenses: media types of a license, likewise.
        error: what a refusal's body is.
    """

    summary: str
    licenses: Mapping[str, tuple[type[Any], ...]]
    description: str = ""
    token: str = "token"  # noqa: S105 a name
    parameters: tuple[Parameter, ...] = ()
    bodies: Mapping[str, tuple[type[Any], ...]] = {}
    error: type[Any] = Problem
