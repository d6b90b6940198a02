"""The request id: taken from X-Request-Id or drawn, answered, logged, and carried on into Kafka headers."""

import re
import uuid
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keymill import telemetry

_ACCEPTED: Final = re.compile(r"[A-Za-z0-9._~:@-]{1,128}")


class RequestId:
    """ASGI middleware: `telemetry.request_id` holds the request's id while it is answered, and the answer names it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        current = accepted(Headers(scope=scope).get(telemetry.REQUEST_ID_HEADER, ""))

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[telemetry.REQUEST_ID_HEADER] = current
            await send(message)

        token = telemetry.request_id.set(current)
        try:
            await self._app(scope, receive, named)
        finally:
            telemetry.request_id.reset(token)


def accepted(given: str) -> str:
    """The caller's id when it is 1 to 128 harmless characters, else a fresh one."""
    return given if _ACCEPTED.fullmatch(given) else uuid.uuid4().hex
