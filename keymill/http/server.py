"""
Serving an ASGI application: one process, one socket, uvicorn with uvloop and httptools.

On SIGTERM or SIGINT: not ready, no new connections, the requests at hand get *stop_timeout_s*, exit 0. The same signal
again cuts them off.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final, Self

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keymill.config import HttpSettings, Settings
from keymill.core.cors import CorsRules
from keymill.errors import KeymillError, Misconfigured
from keymill.http.health import Measured, Readiness
from keymill.http.problems import Problems
from keymill.http.protocol import BoundedProtocol, protocol_of
from keymill.http.request_id import RequestId
from keymill.http.trailing_slash import TrailingSlash

BACKLOG: Final = 2048
CLOSE_S: Final = 2.0
"""What a `ServingThread` may take to end; its requests are health checks."""
KEEP_ALIVE_S: Final = 75
"""Longer than the idle time of usual load balancers, so that they and not we close an idle connection."""


def dress(app: ASGIApp, *, program: str, cors: CorsRules | None = None) -> ASGIApp:
    """*app* inside what every HTTP program wears: request id, metrics, problem documents (with *cors* for browsers)."""
    return RequestId(Measured(Problems(TrailingSlash(app), cors=cors), program=program))


def listen(host: str, port: int) -> socket.socket:
    """
    A listening socket; port 0 takes a free one. Several processes may serve from it.

    Raises:
        Misconfigured: the address is taken or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        bound.close()
        raise Misconfigured(
            f"cannot listen on {host}:{port}: {error}; choose another port or stop what holds it"
        ) from None
    bound.set_inheritable(True)
    return bound


def url_of(bound: socket.socket, settings: Settings) -> str:
    """The base URL that callers of *bound* use."""
    host, port = bound.getsockname()[:2]
    scheme = "https" if isinstance(settings, HttpSettings) and settings.tls_cert else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def announce(url: str, admin: str = "") -> None:
    """Tell whoever started this program where it answers callers and who operates it: one line of JSON on stdout."""
    line = {"listening": url} | ({"admin": admin} if admin else {})
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(line).encode() + b"\n")


def serve(
    app: ASGIApp,
    *,
    settings: Settings,
    bound: socket.socket,
    readiness: Readiness | None = None,
    on_stop: Callable[[], None] | None = None,
    admin: socket.socket | None = None,
) -> int:
    """
    Serve until a signal; return the exit code. Call in the main thread.

    Args:
        readiness: marked as stopping as soon as the signal comes.
        on_stop: called in the event loop before requests are waited for, to end long waits.
        admin: served too; the application tells by the port (`keymill.http.admin`).

    Raises:
        KeymillError: what the application's life span raised at its start.
    """
    if isinstance(settings, HttpSettings):
        settings.require_tls()
    span = _Span(app)
    sockets = [bound, admin] if admin else [bound]
    server = _Server(_config(span, settings), readiness, on_stop, [url_of(each, settings) for each in sockets])
    try:
        server.run(sockets=sockets)
    except SystemExit as error:
        if span.failure is not None:
            raise span.failure from None
        return error.code if isinstance(error.code, int) else 1
    if span.failure is not None:
        raise span.failure
    return 0


class ServingThread:
    """Serves an application in a thread of its own, beside a program that has its own loop and signal handling."""

    def __init__(self, app: ASGIApp, *, settings: Settings, bound: socket.socket) -> None:
        self._server = _Beside(_config(app, settings, lifespan=False))
        self._thread = threading.Thread(target=self._server.run, args=([bound],), name="http", daemon=True)

    def start(self) -> Self:
        """Serve from now on."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Take no more requests and end the thread."""
        self._server.should_exit = True
        self._thread.join(CLOSE_S)


def _config(app: ASGIApp, settings: Settings, *, lifespan: bool = True) -> uvicorn.Config:
    tls = settings if isinstance(settings, HttpSettings) else None
    protocol = protocol_of(tls.request_timeout_s, tls.max_connections) if tls else BoundedProtocol
    try:
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=protocol,
            ws="none",
            lifespan="on" if lifespan else "off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=settings.stop_timeout_s,
            ssl_certfile=tls.tls_cert if tls else None,
            ssl_keyfile=tls.tls_key if tls else None,
        )
        config.load()
    except OSError as error:
        raise Misconfigured(f"tls_cert or tls_key cannot be read: {error}") from None
    return config


class _Span:
    """Keeps the life span's own error, which uvicorn would only log as a trace."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.failure: KeymillError | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def brief(message: Message) -> None:
            known = isinstance(sys.exception(), KeymillError)
            await send({**message, "message": ""} if known else message)

        try:
            await self._app(scope, receive, brief)
        except KeymillError as error:
            self.failure = error


class _Server(uvicorn.Server):
    """uvicorn with our signals, and a line on stdout when it answers."""

    def __init__(
        self, config: uvicorn.Config, readiness: Readiness | None, on_stop: Callable[[], None] | None, urls: list[str]
    ) -> None:
        super().__init__(config)
        self._readiness = readiness
        self._on_stop = on_stop
        self._urls = urls
        self._seen: set[int] = set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT, and do not raise them again afterwards: a stop that was asked for exits 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for each, old in before.items():
                signal.signal(each, old)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal stops, the same one again cuts off. Ctrl-C reaches a child twice, as SIGINT and SIGTERM."""
        if self._readiness is not None:
            self._readiness.stopping = True
        self.force_exit = self.force_exit or sig in self._seen
        self._seen.add(sig)
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say where."""
        await super().startup(sockets)
        if not self.should_exit:
            announce(*self._urls)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the long waits, then finish."""
        if self._on_stop is not None:
            self._on_stop()
        await super().shutdown(sockets)


class _Beside(uvicorn.Server):
    """uvicorn without signal handlers, which only the main thread may set."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the program around."""
        yield
