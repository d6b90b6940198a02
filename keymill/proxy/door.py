"""
The hot path: a license request from ASGI's scope to its answer, in one pass.

What `keymill.http` gives other requests in three layers is done here at once: request id, CORS, counting, and an
answer to every failure in the dialect's own words. The layers would cost a third of a license.
"""

import math
import os
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote_plus

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Receive, Scope, Send

from keymill import telemetry
from keymill.core.bearer import AUTHORIZATION, bearer_in
from keymill.errors import Retry
from keymill.http.client_address import HEADER as FORWARDED
from keymill.http.client_address import ClientAddress
from keymill.http.problems import ORIGIN
from keymill.http.request_id import accepted
from keymill.proxy.life import Life
from keymill.proxy.procedure import answer
from keymill.proxy.request import Dialect, RawRequest, Reason, Refusal, Response
from keymill.proxy.routes import METHODS, route_of

MAX_QUERY: Final = 8192
"""Bytes of a query: a token of 4096, and room for the rest."""
STALENESS: Final = b"x-keymill-staleness"
"""Seconds since the copy that a license was made from last heard from the brokers."""
_REQUEST_ID: Final = telemetry.REQUEST_ID_HEADER.encode()
_UNKNOWN: Final = math.inf
_INTERNAL: Final = Refusal(
    reason=Reason.INTERNAL, message="the request failed inside keymill; the log names it by its request id"
)
log = telemetry.logger("proxy")


class _Head(NamedTuple):
    """A request without its body: its headers, and who asks."""

    content_type: str
    request_id: str
    peer: str
    forwarded: str
    origin: str
    tokens: tuple[str, ...]


class LicenseDoor:
    """Answers license requests; whatever else comes is handed to *beside*."""

    def __init__(self, life: Life, *, beside: ASGIApp) -> None:
        self._life = life
        self._beside = beside
        self._max_body = life.settings.max_challenge_bytes
        self._client = ClientAddress(life.settings.trusted_proxies)
        self._cors = life.settings.cors
        names = {AUTHORIZATION, life.settings.token_header.lower()} - {""}
        self._token_headers = {name.encode("ascii"): name for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        found = route_of(scope["path"]) if scope["type"] == "http" and scope["method"] in METHODS else None
        if found is None or found[0].method != scope["method"]:
            await self._beside(scope, receive, send)
            return
        route, named = found
        begun = time.perf_counter()
        head = _read_head(scope, self._token_headers)
        token = telemetry.request_id.set(head.request_id)
        try:
            response, staleness_s = await self._answer(route.dialect, named, head, scope, receive)
        finally:
            telemetry.request_id.reset(token)
        headers = [*response.headers, (b"content-length", b"%d" % len(response.body))]
        headers.extend(self._cors.answered(head.origin))
        headers.append((_REQUEST_ID, head.request_id.encode()))
        if staleness_s < _UNKNOWN:
            headers.append((STALENESS, b"%.3f" % staleness_s))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})
        requests, seconds = _measures(route.path, response.status)
        requests.inc()
        seconds.observe(time.perf_counter() - begun)

    async def _answer(
        self, dialect: Dialect, named: Mapping[str, str], head: _Head, scope: Scope, receive: Receive
    ) -> tuple[Response, float]:
        """The answer, and how old the copy was that it was made from (s)."""
        try:
            query, body = scope["query_string"], await _body(receive, self._max_body)
            if len(query) > MAX_QUERY or body is None:
                return dialect.respond(self._too_large(query)), _UNKNOWN
            client = self._client.of(head.peer, head.forwarded)
            members = _members(query)
            raw = RawRequest(
                path=named, query=members, content_type=head.content_type, body=body, client=client, tokens=head.tokens
            )
            try:
                state = self._life.state()
                return await answer(dialect, raw, state, self._life.means), state.staleness_s
            except Retry as error:
                request = dialect.parse(raw)
                not_ready = Refusal(reason=Reason.NOT_READY, message=str(error))
                return dialect.respond(request if isinstance(request, Refusal) else not_ready), _UNKNOWN
        except Exception as error:
            log.error("license request failed", error=type(error).__name__, exc_info=error)
            return dialect.respond(_INTERNAL), _UNKNOWN

    def _too_large(self, query: bytes) -> Refusal:
        what, most = ("query", MAX_QUERY) if len(query) > MAX_QUERY else ("body", self._max_body)
        return Refusal(reason=Reason.TOO_LARGE, message=f"the {what} must have at most {most} bytes")


def _read_head(scope: Scope, token_headers: Mapping[bytes, str]) -> _Head:
    """What is looked at; a fresh request id when the caller sent none that is harmless."""
    content_type = request_id = origin = ""
    forwarded: list[str] = []
    tokens: tuple[str, ...] = ()
    for name, value in scope["headers"]:
        if name == b"content-type":
            content_type = value.decode("latin-1")
        elif name == _REQUEST_ID:
            request_id = accepted(value.decode("latin-1"))
        elif name == FORWARDED:
            forwarded.append(value.decode("latin-1"))
        elif name == ORIGIN:
            origin = value.decode("latin-1")
        elif name in token_headers:
            tokens = (*tokens, bearer_in(token_headers[name], value.decode("latin-1")))
    peer = scope.get("client")
    return _Head(
        content_type, request_id or os.urandom(16).hex(), peer[0] if peer else "", ",".join(forwarded), origin, tokens
    )


@lru_cache(maxsize=256)
def _measures(route: str, status: int) -> tuple[Counter, Histogram]:
    return telemetry.REQUESTS.labels("proxy", route, str(status)), telemetry.REQUEST_SECONDS.labels("proxy", route)


async def _body(receive: Receive, limit: int) -> bytes | None:
    """The whole body; None when it is longer than *limit*, or its sender went away."""
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body", False) and len(body) <= limit:
        message = await receive()
        body += message.get("body", b"")
    return None if len(body) > limit or message["type"] == "http.disconnect" else body


def _members(query: bytes) -> dict[str, str]:
    """The query's members; of a repeated one the first."""
    members: dict[str, str] = {}
    for pair in query.decode("latin-1").split("&"):
        name, _, value = pair.partition("=")
        if "%" in pair or "+" in pair:
            name, value = unquote_plus(name), unquote_plus(value)
        members.setdefault(name, value)
    return members
