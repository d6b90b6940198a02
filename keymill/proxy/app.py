"""
The proxy's HTTP surface: license requests through the door, everything else through Starlette's router.

A worker refuses licenses as not ready until its view's folder can be opened, and until the view has caught up once.
"""

from typing import Final

from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from keymill.errors import KeymillError
from keymill.http.health import health_routes
from keymill.http.problems import HttpReject
from keymill.http.server import dress
from keymill.proxy.door import LicenseDoor
from keymill.proxy.life import Life
from keymill.proxy.routes import route_of

HEALTH: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_ASKED_WITH: Final = {
    "POST": "a license is asked for with POST, the player's challenge as the body",
    "GET": "a clear HLS key is asked for with GET",
}


def application(life: Life) -> ASGIApp:
    """The ASGI application of one worker."""
    return LicenseDoor(life, beside=dress(_Others(life), program="proxy", cors=True))


class _Others:
    """The life span, the health routes, and what is no license request."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._health = Router(routes=health_routes(life.readiness))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        path: str = scope["path"]
        if path in HEALTH:
            await self._health(scope, receive, send)
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
