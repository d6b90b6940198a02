"""What the OpenAPI document says about NAVER's policy API."""

from typing import Final

from keymill.core.formats.naver_document import PolicyRequest
from keymill.gateway.dialects.naver import MAX_PAGE_SIZE, PAGE_SIZE, NaverError, NaverPage, NaverPolicy
from keymill.gateway.openapi import idempotency_key
from keymill.http.openapi import Json, content, ref

_ERRORS: Final = {
    "400": "the body, a parameter, the region or the Content-Type is not as it must be",
    "401": "a signature header is missing or wrong",
    "403": "the organization is revoked",
    "404": "the organization has no such policy",
    "409": "the policy is deleted or the default, or the Idempotency-Key was used with another request",
    "413": "the body is too large",
    "422": "understood, but it cannot be done",
    "503": "not caught up, or the change is not processed in time; send it again with the same Idempotency-Key",
}
_KEY: Final = idempotency_key("organization")
_BODY: Final[Json] = {"required": True, "content": {"application/json": {"schema": ref(PolicyRequest)}}}


def creating() -> Json:
    """`openapi_extra` of POST."""
    return _operation(NaverPolicy, "created", "400", "409", "413", "422", parameters=[_KEY]) | {"requestBody": _BODY}


def listing() -> Json:
    """`openapi_extra` of GET the list."""
    paging = [_paging("pageNo", 1, 10**9), _paging("pageSize", PAGE_SIZE, MAX_PAGE_SIZE)]
    return _operation(NaverPage, "a page of the policies that are not deleted", "400", parameters=paging)


def replacing() -> Json:
    """`openapi_extra` of PUT."""
    statuses = ("400", "404", "409", "413", "422")
    return _operation(NaverPolicy, "replaced", *statuses, parameters=[_KEY]) | {"requestBody": _BODY}


def showing() -> Json:
    """`openapi_extra` of GET."""
    return _operation(NaverPolicy, "the policy", "400", "404", parameters=[])


def deleting() -> Json:
    """`openapi_extra` of DELETE."""
    return _operation(NaverPolicy, "deleted; its id stays taken", "400", "404", "409", "422", parameters=[_KEY])


def _operation(answer: type, description: str, *statuses: str, parameters: list[Json]) -> Json:
    errors = {status: content(NaverError, _ERRORS[status]) for status in sorted({*statuses, "401", "403", "503"})}
    headers = [_header("x-ncp-apigw-timestamp"), _header("x-ncp-iam-access-key"), _header("x-ncp-region_code")]
    return {
        "security": [{"ncp": []}],
        "parameters": [*headers, *parameters],
        "responses": {"200": content(answer, description)} | errors,
    }


def _header(name: str) -> Json:
    return {"name": name, "in": "header", "required": True, "schema": {"type": "string"}}


def _paging(name: str, default: int, most: int) -> Json:
    schema = {"type": "integer", "minimum": 1, "maximum": most, "default": default}
    return {"name": name, "in": "query", "schema": schema}
