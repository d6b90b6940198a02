"""A slash at the end of a path means nothing: routes see the path without it, and nobody is redirected."""

from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send


class TrailingSlash:
    """
    ASGI middleware, around the routes. A redirect would lose the body of a POST.

    The path as it was sent, which is what callers sign, stays in `raw_path`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] == "http":
            scope["path"] = routed(scope["path"], scope.get("raw_path"))
        await self._app(scope, receive, send)


def routed(path: str, raw_path: Any = None) -> str:
    """Return the path that routes match: one slash less, unless it was sent escaped and belongs to the last part."""
    sent = raw_path if isinstance(raw_path, bytes) else path.encode("utf-8", "surrogateescape")
    one = len(path) > 1 and path.endswith("/") and not path.endswith("//")
    return path[:-1] if one and sent.endswith(b"/") else path
