"""OpenAPI documents: what every HTTP program says in its own, and a page of it that needs no network."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

import msgspec

from keymill.http.problems import MEDIA_TYPE

VERSION: Final = "3.1.0"
REF: Final = "#/components/schemas/{name}"
BINARY: Final = {"type": "string", "format": "binary"}
Json = dict[str, Any]
_STYLE: Final = (
    "body{font:16px/1.5 system-ui;max-width:60em;margin:2em auto;padding:0 1em}pre{background:#eee;padding:1em}"
)


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A problem document (RFC 9457). `code` is stable, see docs/errors.md; `field` names what the caller sent wrong."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str | None = None
    field: str | None = None


def ref(kind: type[Any]) -> Json:
    """Where a struct's schema stands."""
    return {"$ref": REF.format(name=kind.__name__)}


def content(kind: type[Any], description: str) -> Json:
    """A response whose body is a struct in JSON."""
    return {"description": description, "content": {"application/json": {"schema": ref(kind)}}}


def problem(description: str) -> Json:
    """A response that is a problem document."""
    return {"description": description, "content": {MEDIA_TYPE: {"schema": ref(Problem)}}}


def schemas_of(kinds: Iterable[type[Any]]) -> Json:
    """The schemas of structs, and of all that they are made of, for `components`."""
    return msgspec.json.schema_components(kinds, ref_template=REF)[1]


def common(paths: Json) -> Json:
    """*paths* with what holds for every program: the limit of a request's head, and the probes."""
    for operations in paths.values():
        for operation in operations.values():
            operation["responses"]["431"] = problem("the head has more than 64 KiB; no endpoint was asked")
    return paths | _PROBES


def page(document: Json) -> str:
    """The document as one page of HTML without scripts or anything fetched."""
    title = escape(document["info"]["title"])
    parts = [f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>"]
    parts.append('<p>The machine-readable document is <a href="/openapi.json">/openapi.json</a>.</p>')
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<h2><b>{method.upper()}</b> <code>{escape(path)}</code></h2>")
            parts += [f"<p>{escape(operation[part])}</p>" for part in ("summary", "description") if part in operation]
            parts.extend(_rows(operation))
    parts.append("<h1>Schemas</h1>")
    for name, schema in document["components"]["schemas"].items():
        text = msgspec.json.format(msgspec.json.encode(schema), indent=2).decode()
        parts.append(f'<h2 id="{name}">{name}</h2><pre>{escape(text)}</pre>')
    return "".join(parts)


def _rows(operation: Json) -> list[str]:
    rows = [
        f"<li>{escape(each['name'])} ({each['in']}): {escape(each.get('description', ''))}"
        for each in operation.get("parameters", ())
    ]
    if body := operation.get("requestBody"):
        rows.append(f"<li>body: {_kinds(body)}")
    rows += [
        f"<li>{status}: {_kinds(each)} {escape(each['description'])}" for status, each in operation["responses"].items()
    ]
    return ["<ul>", *rows, "</ul>"]


def _kinds(described: Json) -> str:
    """Media types, each with its schemas."""
    kinds = described.get("content", {}).items()
    return "; ".join(f"<code>{escape(kind)}</code> {_links(each['schema'])}".strip() for kind, each in kinds)


def _links(schema: Mapping[str, Any]) -> str:
    names = [each["$ref"].rpartition("/")[2] for each in schema.get("anyOf", [schema]) if "$ref" in each]
    return " or ".join(f'<a href="#{name}">{name}</a>' for name in names)


def _probe(summary: str, *responses: tuple[str, Json]) -> Json:
    return {"get": {"summary": summary, "responses": dict(responses)}}


def _plain(description: str, kind: str, schema: Json) -> Json:
    return {"description": description, "content": {kind: {"schema": schema}}}


_STATUS: Final[Json] = {
    "type": "object",
    "properties": {"status": {"type": "string"}},
    "required": ["status"],
}
_PROBES: Final = {
    "/healthz": _probe("The process answers", ("200", _plain("it does", "application/json", _STATUS))),
    "/readyz": _probe(
        "Whether work should be sent here",
        ("200", _plain("it should", "application/json", _STATUS)),
        ("503", problem("not now; `detail` says why")),
    ),
}
