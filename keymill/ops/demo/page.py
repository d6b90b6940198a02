"""The demo's page: a small web server on loopback for the encrypted film, the player, and what is known about it."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from keymill.errors import Unavailable
from keymill.ops.demo.media import ATTRIBUTION
from keymill.ops.demo.package import Packaged

WEB = Path(__file__).parent / "web"
START_DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Where a record stands in the log."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Show:
    """
    What the page shows.

    Args:
        license_url: called once for every page load, so that a page opened tomorrow gets a token of tomorrow.
        player: Shaka Player's file.
    """

    packaged: Packaged
    event: Coordinates | None
    record: Coordinates | None
    license_url: Callable[[], str]
    player: Path


@contextlib.contextmanager
def serving(show: Show, *, port: int = 0) -> Iterator[str]:
    """Serve *show* on 127.0.0.1 from a thread; gives the page's address. Port 0 takes a free one."""
    listener = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(_app(show), log_config=None, access_log=False, timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True, name="demo-page")
    thread.start()
    try:
        _wait_until_started(server, thread)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise Unavailable("the demo page's web server did not start")
        time.sleep(0.01)


def _app(show: Show) -> Starlette:

    def session(_request: Request) -> Response:
        body = msgspec.json.encode(_session(show))
        return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})

    def player(_request: Request) -> Response:
        return FileResponse(show.player, media_type="text/javascript")

    routes = [
        Route("/session.json", session),
        Route("/shaka-player.js", player),
        Mount("/media", StaticFiles(directory=show.packaged.folder)),  # answers Range, which on-demand DASH lives on
        Mount("/", StaticFiles(directory=WEB, html=True)),
    ]
    # A name that somebody else resolves to 127.0.0.1 must not read the token in session.json.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    return Starlette(routes=routes, middleware=[hosts])


def _session(show: Show) -> dict[str, object]:
    packaged = show.packaged
    return {
        "asset": packaged.asset,
        "scheme": packaged.scheme,
        "manifest": f"/media/{packaged.manifest.name}",
        "license": show.license_url(),
        "tracks": [{"label": label, "kid": kid.hex()} for label, kid in packaged.kids.items()],
        "event": show.event,
        "record": show.record,
        "attribution": ATTRIBUTION,
    }
