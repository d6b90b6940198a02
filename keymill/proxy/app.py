"""
The proxy's HTTP surface, as plain ASGI: it is the hot path, and a framework would cost more than the license.

A worker refuses licenses as not ready until its view's folder can be opened, and until the view has caught up once.
"""

import math
from typing import Final
from urllib.parse import unquote_plus

from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from keymill.errors import KeymillError, Retry
from keymill.http.health import health_routes
from keymill.http.problems import HttpReject
from keymill.proxy.life import Life
from keymill.proxy.procedure import answer
from keymill.proxy.request import RawRequest, Reason, Refusal, Response
from keymill.proxy.routes import LicenseRoute, route_of

HEALTH: Final = frozenset({"/healthz", "/readyz", "/metrics"})
MAX_QUERY: Final = 8192
"""Bytes of a query: a token of 4096, and room for the rest."""
STALENESS: Final = b"x-keymill-staleness"
"""Seconds since the copy that a license was made from last heard from the brokers."""

_UNKNOWN: Final = math.inf


class ProxyApp:
    """The ASGI application of one worker."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._max_body = life.settings.max_challenge_bytes
        self._health = Router(routes=health_routes(life.readiness))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or live one life span."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        path: str = scope["path"]
        found = route_of(path)
        if found is None:
            if path not in HEALTH:
                raise HttpReject(404, "no_such_endpoint", f"there is no endpoint {path[:128]}")
            await self._health(scope, receive, send)
            return
        route, named = found
        scope["route"] = route
        if scope["method"] != "POST":
            message = "a license is asked for with POST, the player's challenge as the body"
            raise HttpReject(405, "method_not_allowed", message, headers={"allow": "POST, OPTIONS"})
        response, staleness_s = await self._license(route, named, scope, receive)
        await _send(send, response, staleness_s)

    async def _license(
        self, route: LicenseRoute, named: dict[str, str], scope: Scope, receive: Receive
    ) -> tuple[Response, float]:
        """The answer, and how old the copy was that it was made from (s)."""
        raw = await _read(scope, receive, named, self._max_body)
        if isinstance(raw, Refusal):
            return route.dialect.respond(raw), _UNKNOWN
        means = self._life.means
        if means is None:
            raise RuntimeError("the life span has not begun")
        try:
            state = self._life.state()
            return await answer(route.dialect, raw, state, means), state.staleness_s
        except Retry as error:
            request = route.dialect.parse(raw)
            refusal = request if isinstance(request, Refusal) else None
            return route.dialect.respond(refusal or Refusal(reason=Reason.NOT_READY, message=str(error))), _UNKNOWN

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._life.start()
        except KeymillError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._life.stop()
        await send({"type": "lifespan.shutdown.complete"})


async def _read(scope: Scope, receive: Receive, named: dict[str, str], limit: int) -> RawRequest | Refusal:
    query: bytes = scope["query_string"]
    if len(query) > MAX_QUERY:
        return Refusal(reason=Reason.TOO_LARGE, message=f"the query must have at most {MAX_QUERY} bytes")
    body = await _body(receive, limit)
    if body is None:
        return Refusal(reason=Reason.TOO_LARGE, message=f"the body must have at most {limit} bytes")
    client = scope.get("client")
    return RawRequest(
        path=named,
        query=_members(query),
        content_type=_content_type(scope),
        body=body,
        client=client[0] if client else "",
    )


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


def _content_type(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"content-type":
            return str(value.decode("latin-1"))
    return ""


async def _send(send: Send, response: Response, staleness_s: float) -> None:
    headers = [*response.headers, (b"content-length", b"%d" % len(response.body))]
    if staleness_s < _UNKNOWN:
        headers.append((STALENESS, b"%.3f" % staleness_s))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
