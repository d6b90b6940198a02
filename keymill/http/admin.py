"""
The admin port: /metrics, /docs and /openapi.json apart from what callers may reach, and the probes there too.

One server listens on both sockets, and a request goes by the port that it came in at; so each worker of a proxy answers
on both, and the numbers of the process that is asked are its own.
"""

import socket
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from keymill.config import HttpSettings
from keymill.errors import Misconfigured
from keymill.http.health import Readiness, health_routes
from keymill.http.openapi import Json, page
from keymill.http.problems import HANDLERS
from keymill.http.server import dress, listen


def listen_admin(settings: HttpSettings, port: int, main: socket.socket) -> socket.socket | None:
    """
    Listen on the admin port; None where its endpoints are on the *main* one.

    Raises:
        Misconfigured: it is taken, or the number of the main port.
    """
    if settings.admin_on_main_port:
        return None
    if port and port == main.getsockname()[1]:
        raise Misconfigured(
            f"the admin port {port} is the main port's number: choose another, or set admin_on_main_port"
        )
    while True:
        bound = listen(settings.admin_host, port)
        if port_of(bound) != port_of(main):
            return bound
        bound.close()  # a free one may be the main port's number at another address


def port_of(bound: socket.socket) -> int:
    """The number of the port that a socket listens on."""
    return int(bound.getsockname()[1])


def described_routes(document: Callable[[], Json], main_port: int | None = None) -> list[BaseRoute]:
    """
    /openapi.json and /docs, its page.

    Args:
        main_port: where what the document describes is, if not here; the document then says so as its server.
    """

    async def openapi(request: Request) -> Response:
        if main_port is None:
            return JSONResponse(document())
        server = request.url.replace(port=main_port, path="", query="", fragment="")
        return JSONResponse(document() | {"servers": [{"url": str(server)}]})

    async def docs(_request: Request) -> Response:
        return HTMLResponse(page(document()))

    return [Route("/openapi.json", openapi), Route("/docs", docs)]


def admin_application(readiness: Readiness, document: Callable[[], Json], *, program: str, main_port: int) -> ASGIApp:
    """What answers on the admin port of a program."""
    routes = [*health_routes(readiness), *described_routes(document, main_port)]
    return dress(Starlette(routes=routes, exception_handlers=HANDLERS), program=program)


class ByPort:
    """ASGI: what comes in at one port goes to *admin*, everything else to *main*."""

    def __init__(self, main: ASGIApp, admin: ASGIApp, admin_port: int) -> None:
        self._main = main
        self._admin = admin
        self._admin_port = admin_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection; the life span is the main application's."""
        server = scope.get("server")
        if server is not None and server[1] == self._admin_port and scope["type"] != "lifespan":
            await self._admin(scope, receive, send)
        else:
            await self._main(scope, receive, send)
