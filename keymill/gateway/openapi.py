"""The gateway's OpenAPI document, made of the structs that bodies and answers are, and a page that needs no network."""

from collections.abc import Callable
from html import escape
from typing import Any, Final

import msgspec

from keymill.core import bodies
from keymill.gateway import answers
from keymill.gateway.dialects import widevine

REF: Final = "#/components/schemas/{name}"
Json = dict[str, Any]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A problem document (RFC 9457). `code` is stable, see docs/errors.md; `field` names what the caller sent wrong."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str | None = None
    field: str | None = None


TYPES: Final = (
    bodies.IngestBody,
    bodies.RotateBody,
    bodies.PolicyBody,
    bodies.RevokeBody,
    bodies.RestoreBody,
    answers.AcceptedAnswer,
    answers.ProvisionedAnswer,
    answers.AssetAnswer,
    widevine.Envelope,
    widevine.Answer,
    Problem,
)
_PROBLEMS: Final = {
    "400": "the body or a parameter breaks its format; `field` names it",
    "401": "no known, unrevoked API key",
    "403": "the API key is another organization's",
    "404": "the organization has no such asset",
    "409": "it contradicts an earlier request or event",
    "413": "the body is too large",
    "422": "understood, but it cannot be done",
    "503": "not caught up, or Kafka does not answer; Retry-After says when to try again",
}


def reading(answer: type[Any]) -> Json:
    """`openapi_extra` of a GET."""
    return {
        "security": [{"bearer": []}],
        "responses": {"200": _content(answer, "what the gateway's view holds")} | _problems("401", "403", "404", "503"),
    }


def writing(body: type[Any]) -> Json:
    """`openapi_extra` of a POST that publishes an event."""
    wait = {"type": "string", "enum": ["0", "1"], "default": "0"}
    return {
        "security": [{"bearer": []}],
        "parameters": [
            {"name": "wait", "in": "query", "schema": wait, "description": "1 waits for the records and answers 201"},
            {
                "name": "Idempotency-Key",
                "in": "header",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255},
                "description": "the same key and body, for one asset, have one effect",
            },
        ],
        "requestBody": {
            "required": body in (bodies.IngestBody, bodies.PolicyBody),
            "content": {"application/json": {"schema": _ref(body)}},
        },
        "responses": {
            "201": _content(answers.ProvisionedAnswer, "with wait=1: the event's records are in the view"),
            "202": _content(answers.AcceptedAnswer, "the event is in the log"),
        }
        | _problems(*(status for status in _PROBLEMS if status != "404" or body is not bodies.IngestBody)),
    }


def packaging() -> Json:
    """`openapi_extra` of the packager door."""
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(widevine.Envelope)}}},
        "responses": {"200": _content(widevine.Answer, "base64 of JSON: status, and tracks with keys when it is OK")}
        | _problems("400", "413"),
    }


def completed(make: Callable[[], Json]) -> Callable[[], Json]:
    """FastAPI's document with our schemas and the bearer scheme; made once."""
    made: list[Json] = []

    def openapi() -> Json:
        if not made:
            document = make()
            _, schemas = msgspec.json.schema_components(TYPES, ref_template=REF)
            components = document.setdefault("components", {})
            components["schemas"] = schemas
            components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
            for each in _operations(document):
                _drop_defaults(each["responses"])
            made.append(document)
        return made[0]

    return openapi


def page(document: Json) -> str:
    """The document as one page of HTML without scripts or anything fetched."""
    parts = [
        f"<!doctype html><meta charset=utf-8><title>keymill gateway</title><style>{_STYLE}</style>",
        "<h1>keymill gateway</h1>",
    ]
    parts.append('<p>The machine-readable document is <a href="/openapi.json">/openapi.json</a>.</p>')
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(
                f"<h2><b>{method.upper()}</b> <code>{escape(path)}</code></h2><p>{escape(operation['summary'])}</p>"
            )
            parts.extend(_rows(operation))
    parts.append("<h1>Schemas</h1>")
    for name, schema in document["components"]["schemas"].items():
        text = msgspec.json.format(msgspec.json.encode(schema), indent=2).decode()
        parts.append(f'<h2 id="{name}">{name}</h2><pre>{escape(text)}</pre>')
    return "".join(parts)


_STYLE: Final = (
    "body{font:16px/1.5 system-ui;max-width:60em;margin:2em auto;padding:0 1em}pre{background:#eee;padding:1em}"
)


def _rows(operation: Json) -> list[str]:
    rows = [
        f"<li>{escape(each['name'])} ({each['in']}): {escape(each.get('description', ''))}"
        for each in operation.get("parameters", ())
    ]
    if body := operation.get("requestBody"):
        rows.append(f"<li>body: {_link(body)}")
    rows += [
        f"<li>{status}: {_link(each)} {escape(each['description'])}" for status, each in operation["responses"].items()
    ]
    return ["<ul>", *rows, "</ul>"]


def _link(described: Json) -> str:
    for content in described.get("content", {}).values():
        name = content["schema"]["$ref"].rpartition("/")[2]
        return f'<a href="#{name}">{name}</a>'
    return ""


def _drop_defaults(responses: Json) -> None:
    """Take out what FastAPI adds for bodies and answers that it checks itself; ours are checked elsewhere."""
    for status in list(responses):
        content = responses[status].get("content", {})
        if "HTTPValidationError" in str(content.get("application/json")):
            del content["application/json"]
        if not content or responses[status]["description"] == "Successful Response":
            del responses[status]


def _operations(document: Json) -> list[Json]:
    return [operation for operations in document["paths"].values() for operation in operations.values()]


def _ref(kind: type[Any]) -> Json:
    return {"$ref": REF.format(name=kind.__name__)}


def _content(kind: type[Any], description: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": _ref(kind)}}}


def _problems(*statuses: str) -> Json:
    schema = {"application/problem+json": {"schema": _ref(Problem)}}
    return {status: {"description": _PROBLEMS[status], "content": schema} for status in statuses}
