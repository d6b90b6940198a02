"""The gateway's OpenAPI document, made of the structs that bodies and answers are."""

from collections.abc import Callable
from typing import Any, Final

from keymill.core import bodies
from keymill.core.formats import azure_document, naver_document
from keymill.gateway import answers, entitlements, policy_answers
from keymill.gateway.dialects import naver, widevine
from keymill.http.openapi import Json, Problem, common, content, problem, ref, schemas_of
from schemas.policy import Policy

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


def number(name: str, least: int, most: int, description: str) -> Json:
    """A query parameter that is a whole number."""
    schema = {"type": "integer", "minimum": least, "maximum": most}
    return {"name": name, "in": "query", "description": description, "schema": schema}


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
            components = document.setdefault("components", {})
            components["schemas"] = schemas_of(TYPES)
            components["securitySchemes"] = SECURITY
            for each in _operations(document):
                _drop_defaults(each["responses"])
            document["paths"] = common(document["paths"])
            made.append(document)
        return made[0]

    return openapi


def _drop_defaults(responses: Json) -> None:
    """Take out what FastAPI adds for bodies and answers that it checks itself; ours are checked elsewhere."""
    for status in list(responses):
        told = responses[status].get("content", {})
        validated = "HTTPValidationError" in str(told.get("application/json"))
        if validated:
            del told["application/json"]
        if (validated and not told) or responses[status]["description"] == "Successful Response":
            del responses[status]


def _operations(document: Json) -> list[Json]:
    return [operation for operations in document["paths"].values() for operation in operations.values()]


def problems(*statuses: str) -> Json:
    """Responses that are problem documents."""
    return {status: problem(_PROBLEMS[status]) for status in statuses}
