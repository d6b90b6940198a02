"""What the OpenAPI document says about policies and entitlements."""

from typing import Final

from keymill.core.formats import azure_document, naver_document
from keymill.core.formats.table import FORMATS
from keymill.gateway.entitlements import EntitlementBody
from keymill.gateway.openapi import idempotency_key, number, problems, switch
from keymill.gateway.policy_answers import DeletedPolicy, EntitlementAnswer, PolicyDetail, PolicyList, StoredPolicy
from keymill.http.openapi import Json, content, ref
from schemas.policy import Policy
from schemas.values import MAX_COUNT

_BEARER: Final[Json] = {"security": [{"bearer": []}]}
_FORMAT: Final[Json] = {
    "name": "format",
    "in": "query",
    "schema": {"type": "string", "enum": list(FORMATS)},
    "description": "the format of the document; native if absent",
}
_NAME: Final[Json] = {
    "name": "name",
    "in": "query",
    "schema": {"type": "string", "maxLength": 512},
    "description": "the policy's name; else the document's",
}
_DOCUMENT: Final[Json] = {
    "anyOf": [ref(kind) for kind in (Policy, azure_document.Document, naver_document.PolicyRequest)]
}
_BODY: Final[Json] = {"required": True, "content": {"application/json": {"schema": _DOCUMENT}}}
_KEY: Final = idempotency_key("organization")


def creating() -> Json:
    """`openapi_extra` of POST policies."""
    return _BEARER | {
        "parameters": [_FORMAT, _NAME, _KEY],
        "requestBody": _BODY,
        "responses": {"201": content(StoredPolicy, "the policy is in the view")}
        | problems("400", "401", "403", "409", "413", "422", "503"),
    }


def listing() -> Json:
    """`openapi_extra` of GET policies."""
    return _BEARER | {
        "parameters": [
            switch("deleted", "1 lists the deleted policies too"),
            number("limit", 1, MAX_COUNT, "lists so many at most; the last one's id is `after` of the next page"),
            number("after", 0, MAX_COUNT, "lists what comes behind the policy of this id"),
        ],
        "responses": {"200": content(PolicyList, "what the gateway's view holds")}
        | problems("400", "401", "403", "503"),
    }


def showing() -> Json:
    """`openapi_extra` of GET a policy."""
    schema: Json = {"anyOf": [ref(PolicyDetail), *_DOCUMENT["anyOf"]]}
    shown = {
        "description": "the policy, or with format its document",
        "content": {"application/json": {"schema": schema}},
    }
    return _BEARER | {
        "parameters": [_FORMAT],
        "responses": {"200": shown} | problems("400", "401", "403", "404", "422", "503"),
    }


def replacing() -> Json:
    """`openapi_extra` of PUT a policy."""
    return _BEARER | {
        "parameters": [_FORMAT, _NAME, _KEY],
        "requestBody": _BODY,
        "responses": {"200": content(StoredPolicy, "the new version is in the view")}
        | problems("400", "401", "403", "404", "409", "413", "422", "503"),
    }


def deleting() -> Json:
    """`openapi_extra` of DELETE a policy."""
    return _BEARER | {
        "parameters": [_KEY],
        "responses": {"200": content(DeletedPolicy, "the policy takes no new assignments")}
        | problems("400", "401", "403", "404", "409", "422", "503"),
    }


def entitling() -> Json:
    """`openapi_extra` of PUT an entitlement."""
    return _BEARER | {
        "requestBody": {"content": {"application/json": {"schema": ref(EntitlementBody)}}},
        "responses": {
            "200": content(EntitlementAnswer, "the entitlement is in the view"),
            "202": content(EntitlementAnswer, "the broker has it, the view is behind"),
        }
        | problems("400", "401", "403", "413", "503"),
    }


def disentitling() -> Json:
    """`openapi_extra` of DELETE an entitlement."""
    return _BEARER | {
        "responses": {
            "204": {"description": "there is none any more"},
            "202": {"description": "the broker has it, the view is behind"},
        }
        | problems("400", "401", "403", "503"),
    }
