"""/healthz (the process answers), /readyz (it should be sent work), /metrics (Prometheus), and what it counts."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keymill import telemetry
from keymill.disk import allocate
from keymill.errors import NotReady
from keymill.http.problems import problem

BLOCK: Final = 512
"""Bytes, the unit of `st_blocks` (POSIX leaves it open; Linux)."""
STOPPING: Final = "the program is stopping"
_ALSO: Final[list[Collector]] = []
Check = Callable[[], str | None]
"""Why the program is not ready, or None."""


def joined(*reasons: str | None) -> str | None:
    """Return all that is wrong as one text; None where nothing is."""
    return "; ".join(filter(None, reasons)) or None


class Readiness:
    """
    Whether work should be sent here: not once the program stops, and only while every check passes.

    Args:
        degraded: what some of the work fails for while the rest is done; it is told, and the program stays ready.
    """

    def __init__(self, *checks: Check, degraded: Check = lambda: None) -> None:
        self._checks = checks
        self.degraded = degraded
        self._said: str | None = "the program is starting"
        self.stopping = False

    def reason(self) -> str | None:
        """Why not, for a person; None when ready."""
        if self.stopping:
            return STOPPING
        self._said = next((reason for check in self._checks if (reason := check())), None)
        return self._said

    @property
    def said(self) -> str | None:
        """The last `reason`, without a check: for other threads than the program's."""
        return STOPPING if self.stopping else self._said

    def require(self) -> None:
        """Raise `NotReady` (503 with Retry-After) when not ready."""
        if reason := self.reason():
            raise NotReady(reason)


def probe_routes(readiness: Readiness) -> list[BaseRoute]:
    """/healthz and /readyz, for whoever sends work here; they need no credential and show no secret."""

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        if reason := readiness.reason():
            return problem(503, "not_ready", reason, headers={"retry-after": "1"})
        degraded = readiness.degraded()
        return JSONResponse({"status": "ready"} | ({"degraded": degraded} if degraded else {}))

    return [Route("/healthz", healthz), Route("/readyz", readyz)]


def health_routes(readiness: Readiness) -> list[BaseRoute]:
    """The probes, and /metrics: for those who operate the program."""

    async def metrics(_request: Request) -> Response:
        return PlainTextResponse(generate_latest(_registry()), media_type=CONTENT_TYPE_LATEST)

    return [*probe_routes(readiness), Route("/metrics", metrics)]


def show_also(collector: Collector) -> None:
    """Show what *collector* gives in /metrics, whether or not several workers share theirs."""
    _ALSO.append(collector)
    REGISTRY.register(collector)


def _registry() -> CollectorRegistry:
    """The registry of this process, or of all workers when prometheus_client shares files between them."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    for each in _ALSO:
        registry.register(each)
    return registry


def allocate_metrics() -> None:
    """
    Give the files of this process that `prometheus_client` maps and shares their blocks; nothing where it has none.

    Raises:
        OSError: there is no room; a worker that counts on is ended by the kernel once such a file is written to.
    """
    if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        for path in Path(folder).glob(f"*_{os.getpid()}.db"):
            found = path.stat()
            if found.st_blocks * BLOCK < found.st_size:
                allocate(path, found.st_size)


class Measured:
    """ASGI middleware: counts and times answers by program, route template (never the path) and status."""

    def __init__(self, app: ASGIApp, *, program: str) -> None:
        self._app = app
        self._program = program

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, begun = 0, time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            telemetry.REQUESTS.labels(self._program, route, str(status)).inc()
            telemetry.REQUEST_SECONDS.labels(self._program, route).observe(time.perf_counter() - begun)
