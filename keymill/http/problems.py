"""
Problem documents (RFC 9457): what a caller is told when a request fails.

`code` is stable and listed in docs/errors.md, `detail` is for a person. Only messages of our own errors are shown;
whatever else is raised becomes a 500 without detail, and its trace goes to the log.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keymill import telemetry
from keymill.core.cors import CorsRules
from keymill.errors import Conflict, InvalidRecord, KeymillError, Reject, Retry, UnknownKey

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:keymill:problem:"
ORIGIN: Final = b"origin"
_ASKED_HEADERS: Final = b"access-control-request-headers"
_BROWSERS: Final = frozenset({ORIGIN, _ASKED_HEADERS})
log = telemetry.logger("http")


class HttpReject(Reject):
    """A refusal that only HTTP knows (401, 403, 413 …), with its status and the headers that belong to it."""

    def __init__(
        self, status: int, code: str, message: str, *, field: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, field=field, code=code)
        self.status = status
        self.headers = dict(headers or {})


_STATUSES: Final[dict[type[KeymillError], int]] = {
    InvalidRecord: 400,
    Conflict: 409,
    UnknownKey: 404,
    Reject: 422,
    Retry: 503,
}
"""The first class that fits decides."""


def status_of(error: KeymillError) -> int:
    """The HTTP status of an error's fate and class."""
    if isinstance(error, HttpReject):
        return error.status
    return next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 500)


def problem(
    status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any
) -> Response:
    """A problem document; *members* that are empty are left out."""
    document = {
        "type": TYPE_PREFIX + code,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": telemetry.request_id.get(),
    } | members
    content = msgspec.json.encode({name: value for name, value in document.items() if value not in ("", None)})
    return Response(content, status, dict(headers or {}) | {"cache-control": "no-store"}, MEDIA_TYPE)


class Told(NamedTuple):
    """What a caller is told of an error."""

    status: int
    code: str
    detail: str
    field: str = ""
    headers: Mapping[str, str] | None = None


def describe(error: Exception) -> Told:
    """An error's own words when it is ours and no fault of this program, else 500 without detail and a log entry."""
    match error:
        case HttpReject():
            return Told(error.status, error.code, str(error), error.field, error.headers)
        case Reject():
            return Told(status_of(error), error.code, str(error), error.field)
        case Retry():
            return Told(503, error.code, str(error), headers={"retry-after": str(error.retry_after_s)})
        case HTTPException():
            code = HTTPStatus(error.status_code).name.lower()
            return Told(error.status_code, code, str(error.detail), headers=error.headers)
        case ClientDisconnect():
            return Told(400, "disconnected", "the caller went away before its body had come")
    log.error("request failed", error=type(error).__name__, exc_info=error)
    return Told(500, "internal", "the request failed inside keymill; the log names it by its request id")


def problem_of(error: Exception) -> Response:
    """The problem document about an error."""
    told = describe(error)
    return problem(told.status, told.code, told.detail, headers=told.headers, field=told.field)


def handler(_request: Request, error: Exception) -> Response:
    """Answer an error inside Starlette or FastAPI, given there as `exception_handlers=HANDLERS`."""
    return problem_of(error)


HANDLERS: Final[dict[Any, Any]] = {HTTPException: handler, KeymillError: handler, Exception: handler}


class Problems:
    """
    ASGI middleware, outside of the application: whatever it raises becomes a problem document.

    With *cors* every answer, errors too, may be read by the pages that the rules name, and a preflight is answered
    here: players run on pages of others and authenticate with tokens, never with cookies.
    """

    def __init__(self, app: ASGIApp, *, cors: CorsRules | None = None) -> None:
        self._app = app
        self._cors = cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = finished = False
        asked = _asked(scope) if self._cors else None
        shown = self._cors.answered(asked.origin) if self._cors and asked else ()

        async def marked(message: Message) -> None:
            nonlocal started, finished
            finished = message["type"] == "http.response.body" and not message.get("more_body")
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *shown]
            await send(message)

        if self._cors and asked and scope["method"] == "OPTIONS":
            answer = Response(status_code=204)
            answer.raw_headers.extend(self._cors.preflight(asked.origin, asked.headers))
            await answer(scope, receive, marked)
            return
        try:
            await self._app(scope, receive, marked)
        except Exception as error:
            if finished:  # Starlette raises an unexpected error again after its handler has answered it
                return
            if started:
                raise
            await problem_of(error)(scope, receive, marked)


class _Asked(NamedTuple):
    """What a browser says of the page that asks: its origin, and in a preflight the headers that it wants to send."""

    origin: str = ""
    headers: str = ""


def _asked(scope: Scope) -> _Asked:
    given = {name: value.decode("latin-1") for name, value in scope["headers"] if name in _BROWSERS}
    return _Asked(given.get(ORIGIN, ""), given.get(_ASKED_HEADERS, ""))
