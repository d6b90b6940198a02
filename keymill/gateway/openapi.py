"""The gateway's OpenAPI document, made of the structs that bodies and answers are, and a page that needs no network."""

from collections.abc import Callable
from html import escape
from typing import Any, Final

import msgspec

from keymill.core import bodies
from keymill.core.formats import azure_document, naver_document
from keymill.gateway import answers, entitlements, policy_answers
from keymill.gateway.dialects import naver, widevine
from schemas.policy import Policy

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
    Policy,
    azure_document.Document,
    naver_document.PolicyRequest,
    policy_answers.StoredPolicy,
    policy_answers.DeletedPolicy,
    policy_answers.PolicyDetail,
    policy_answers.PolicyList,
    policy_answers.EntitlementAnswer,
    entitlements.EntitlementBody,
    naver.NaverPolicy,
    naver.NaverPage,
    naver.NaverError,
    Problem,
)
SECURITY: Final = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "ncp": {
        "type": "apiKey",
        "in": "header",
        "name": "x-ncp-apigw-signature-v2",
        "description": "with x-ncp-apigw-timestamp and x-ncp-iam-access-key, as docs/policies.md says",
    },
}
_PROBLEMS: Final = {
    "400": "the body or a parameter breaks its format; `field` names it",
    "401": "no known, unrevoked API key",
    "403": "the API key is another organization's",
    "404": "the organization has no such asset or policy",
    "409": "it contradicts an earlier request or event",
    "413": "the body is too large",
    "422": "understood, but it cannot be done",
    "503": "not caught up, or Kafka does not answer; Retry-After says when to try again",
}


def reading(answer: type[Any]) -> Json:
    """`openapi_extra` of a GET."""
    return {
        "security": [{"bearer": []}],
        "responses": {"200": content(answer, "what the gateway's view holds")} | problems("401", "403", "404", "503"),
    }


def writing(body: type[Any]) -> Json:
    """`openapi_extra` of a POST that publishes an event."""
    return {
        "security": [{"bearer": []}],
        "parameters": [
            switch("wait", "1 waits for the records and answers 201"),
            idempotency_key("asset"),
        ],
        "requestBody": {
            "required": body in (bodies.IngestBody, bodies.PolicyBody),
            "content": {"application/json": {"schema": ref(body)}},
        },
        "responses": {
            "201": content(answers.ProvisionedAnswer, "with wait=1: the event's records are in the view"),
            "202": content(answers.AcceptedAnswer, "the event is in the log"),
        }
        | problems(*(status for status in _PROBLEMS if status != "404" or body is not bodies.IngestBody)),
    }


def packaging() -> Json:
    """`openapi_extra` of the packager door."""
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": ref(widevine.Envelope)}}},
        "responses": {"200": content(widevine.Answer, "base64 of JSON: status, and tracks with keys when it is OK")}
        | problems("400", "413"),
    }


def switch(name: str, description: str) -> Json:
    """A query parameter that is 1 or 0."""
    schema = {"type": "string", "enum": ["0", "1"], "default": "0"}
    return {"name": name, "in": "query", "schema": schema, "description": description}


def idempotency_key(scope: str) -> Json:
    """The header that makes a request safe to repeat."""
    return {
        "name": "Idempotency-Key",
        "in": "header",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        "description": f"the same key and body, for one {scope}, have one effect",
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
            components["securitySchemes"] = SECURITY
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
    for each in described.get("content", {}).values():
        refs = [schema["$ref"] for schema in each["schema"].get("anyOf", [each["schema"]])]
        names = [ref.rpartition("/")[2] for ref in refs]
        return " or ".join(f'<a href="#{name}">{name}</a>' for name in names)
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


def ref(kind: type[Any]) -> Json:
    """Where a struct's schema stands."""
    return {"$ref": REF.format(name=kind.__name__)}


def content(kind: type[Any], description: str) -> Json:
    """A response whose body is a struct."""
    return {"description": description, "content": {"application/json": {"schema": ref(kind)}}}


def problems(*statuses: str) -> Json:
    """Responses that are problem documents."""
    schema = {"application/problem+json": {"schema": ref(Problem)}}
    return {status: {"description": _PROBLEMS[status], "content": schema} for status in statuses}
