"""
The proxy's HTTP surface: license requests through the door, everything else through Starlette's router.

A worker refuses licenses as not ready until its view's folder can be opened, and until the view has caught up once.
"""

from typing import Final

from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from keymill.errors import KeymillError
from keymill.http.admin import ByPort, admin_application, described_routes
from keymill.http.health import health_routes, probe_routes
from keymill.http.problems import HttpReject
from keymill.http.server import dress
from keymill.proxy import openapi
from keymill.proxy.door import LicenseDoor
from keymill.proxy.life import Life
from keymill.proxy.routes import route_of

PROGRAM: Final = "proxy"
_ASKED_WITH: Final = {
    "POST": "a license is asked for with POST, the player's challenge as the body",
    "GET": "a clear HLS key is asked for with GET",
}


def application(life: Life, *, main_port: int = 0, admin_port: int | None = None) -> ASGIApp:
    """The ASGI application of one worker on both ports; without an admin port everything is on the main one."""
    if admin_port is None:
        routes = [*health_routes(life.readiness), *described_routes(openapi.document)]
    else:
        routes = probe_routes(life.readiness)
    main = LicenseDoor(life, beside=dress(_Others(life, routes), program=PROGRAM, cors=life.settings.cors))
    if admin_port is None:
        return main
    admin = admin_application(life.readiness, openapi.document, program=PROGRAM, main_port=main_port)
    return ByPort(main, admin, admin_port)


class _Others:
    """The life span, the routes beside the licenses, and what is no license request."""

    def __init__(self, life: Life, routes: list[BaseRoute]) -> None:
        self._life = life
        self._beside = Router(routes=routes)
        self._paths = frozenset(route.path for route in routes if isinstance(route, Route))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        path: str = scope["path"]
        if path in self._paths:
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
