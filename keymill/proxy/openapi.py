"""The proxy's OpenAPI document, made of the table of routes and of what each dialect tells about itself."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

from keymill.http.openapi import BINARY, VERSION, Json, common, ref, schemas_of
from keymill.proxy.interface import Interface, Parameter
from keymill.proxy.request import Reason, Refusal, Response
from keymill.proxy.routes import ROUTES, LicenseRoute
from schemas import ids

_DESCRIPTION: Final = (
    "License requests in, licenses out, answered from a local copy of the key topic. Every endpoint needs a player "
    "token, in the query or as Authorization: Bearer, may be asked from any origin unless set otherwise, and answers a "
    "CORS preflight; a slash at the end of a path means nothing. docs/licenses.md has examples, and what each code "
    "means."
)
_PATH: Final[dict[str, Json]] = {
    "organization": {"type": "string", "pattern": f"^{ids.ORGANIZATION.pattern}$"},
    "asset": {"type": "string", "pattern": f"^{ids.NAME.pattern}$"},
    "kid": {"type": "string", "format": "uuid"},
}
"""The schema of a path's named part; of any other, text."""
_RETRY_AFTER: Final = {
    "Retry-After": {"required": True, "schema": {"type": "integer"}, "description": "seconds until it may succeed"}
}
_STALENESS: Final = {
    "X-Keymill-Staleness": {
        "schema": {"type": "number"},
        "description": "seconds since the copy last heard from the brokers",
    }
}


BEARER: Final = "bearer"


@cache
def document() -> Json:
    """The document; made once."""
    tokens = sorted({route.dialect.interface.token for route in ROUTES})
    return {
        "openapi": VERSION,
        "info": {"title": "keymill proxy", "version": "1", "description": _DESCRIPTION},
        "paths": common({route.path: {route.method.lower(): _operation(route)} for route in ROUTES}),
        "components": {
            "schemas": schemas_of(_kinds(route.dialect.interface for route in ROUTES)),
            "securitySchemes": {
                **{name: {"type": "apiKey", "in": "query", "name": name} for name in tokens},
                BEARER: {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _operation(route: LicenseRoute) -> Json:
    told = route.dialect.interface
    operation: Json = {
        "summary": told.summary,
        "security": [{told.token: []}, {BEARER: []}],
        "parameters": [*map(_part, re.findall(r"{(\w+)}", route.path)), *map(_member, told.parameters)],
        "responses": {"200": _license(told)} | _refusals(route),
    }
    if told.description:
        operation["description"] = told.description
    if told.bodies:
        operation["requestBody"] = {"required": True, "content": _content(told.bodies)}
    return operation


def _part(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": _PATH.get(name, {"type": "string"})}


def _member(parameter: Parameter) -> Json:
    schema: Json = {"type": "string"}
    if parameter.values:
        schema["enum"] = list(parameter.values)
    if parameter.pattern:
        schema["pattern"] = f"^{parameter.pattern}$"
    return {
        "name": parameter.name,
        "in": "query",
        "required": parameter.required,
        "schema": schema,
        "description": parameter.description,
    }


def _license(told: Interface) -> Json:
    return {"description": "the license, unmodified", "headers": _STALENESS, "content": _content(told.licenses)}


def _refusals(route: LicenseRoute) -> Json:
    """Every reason as the dialect words it, by status."""
    worded: dict[int, list[tuple[Reason, Response]]] = {}
    for reason in Reason:
        response = route.dialect.respond(Refusal(reason=reason, message=""))
        worded.setdefault(response.status, []).append((reason, response))
    return {str(status): _refusal(worded[status], route.dialect.interface) for status in sorted(worded)}


def _refusal(worded: list[tuple[Reason, Response]], told: Interface) -> Json:
    headers = [dict(response.headers) for _, response in worded]
    kinds = {each[b"content-type"].decode() for each in headers}
    refusal: Json = {
        "description": ", ".join(reason.value for reason, _ in worded),
        "content": _content(dict.fromkeys(sorted(kinds), (told.error,))),
    }
    if all(b"retry-after" in each for each in headers):
        refusal["headers"] = _RETRY_AFTER
    return refusal


def _content(kinds: Mapping[str, tuple[type[Any], ...]]) -> Json:
    return {kind: {"schema": _schema(structs)} for kind, structs in kinds.items()}


def _schema(structs: tuple[type[Any], ...]) -> Json:
    match structs:
        case ():
            return dict(BINARY)
        case (only,):
            return ref(only)
    return {"anyOf": [ref(each) for each in structs]}


def _kinds(told: Iterable[Interface]) -> list[type[Any]]:
    found: dict[type[Any], None] = {}
    for each in told:
        for structs in (*each.bodies.values(), *each.licenses.values(), (each.error,)):
            found |= dict.fromkeys(structs)
    return list(found)
