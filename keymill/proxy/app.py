"""
The proxy's HTTP surface: license requests through the door, everything else through Starlette's router.

A worker refuses licenses as not ready until its view's folder can be opened, and until the view has caught up once.
"""

from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from keymill.errors import KeymillError
from keymill.http.health import health_routes
from keymill.http.openapi import page
from keymill.http.problems import HttpReject
from keymill.http.server import dress
from keymill.proxy import openapi
from keymill.proxy.door import LicenseDoor
from keymill.proxy.life import Life
from keymill.proxy.routes import route_of

BESIDE: Final = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"})
_ASKED_WITH: Final = {
    "POST": "a license is asked for with POST, the player's challenge as the body",
    "GET": "a clear HLS key is asked for with GET",
}


def application(life: Life) -> ASGIApp:
    """The ASGI application of one worker."""
    return LicenseDoor(life, beside=dress(_Others(life), program="proxy", cors=True))


class _Others:
    """The life span, the routes beside the licenses, and what is no license request."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._beside = Router(routes=[*health_routes(life.readiness), *_described()])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        path: str = scope["path"]
        if path in BESIDE:
            await self._beside(scope, receive, send)
            return
        found = route_of(path)
        if found is None:
            raise HttpReject(404, "no_such_endpoint", f"there is no endpoint {path[:128]}")
        scope["route"] = found[0]
        method = found[0].method
        raise HttpReject(405, "method_not_allowed", _ASKED_WITH[method], headers={"allow": f"{method}, OPTIONS"})

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


def _described() -> list[BaseRoute]:
    """The OpenAPI document and its page."""

    async def document(_request: Request) -> Response:
        return JSONResponse(openapi.document())

    async def docs(_request: Request) -> Response:
        return HTMLResponse(page(openapi.document()))

    return [Route("/openapi.json", document), Route("/docs", docs)]
