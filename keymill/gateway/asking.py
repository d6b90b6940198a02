"""Who is asking the gateway right now: kept for the audit trail while one request is answered."""

from collections.abc import Iterable
from contextvars import ContextVar
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from keymill import telemetry
from keymill.http.client_address import HEADER, ClientAddress
from keymill.trail.line import ACCEPTED, AuditLine, name_of
from keymill.trail.recorder import utc
from schemas.audit import EventPlace, What

caller: Final[ContextVar[str]] = ContextVar("caller", default="")
"""Id of the credential that proved who asks; empty until one has."""
client: Final[ContextVar[str]] = ContextVar("client", default="")
"""IP address of who asks; empty where a trusted proxy names none."""
PROGRAM: Final = "gateway"


class Asking:
    """
    ASGI middleware: a request begins without a caller, from its client's address.

    Args:
        trusted: proxies whose X-Forwarded-For is believed.
    """

    def __init__(self, app: ASGIApp, *, trusted: Iterable[str] = ()) -> None:
        self._app = app
        self._address = ClientAddress(trusted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        peer = scope.get("client")
        forwarded = ",".join(value.decode("latin-1") for name, value in scope["headers"] if name == HEADER)
        called, connected = caller.set(""), client.set(self._address.of(peer[0] if peer else "", forwarded))
        try:
            await self._app(scope, receive, send)
        finally:
            caller.reset(called)
            client.reset(connected)


def published(what: What, organization: str, asset: str, place: EventPlace, at_ms: int, *, user: str = "") -> AuditLine:
    """The audit event of a request that became an event of the log; *user* is who was entitled, or no longer is."""
    return AuditLine(
        timestamp=utc(at_ms), event=what.value, program=PROGRAM, request_id=telemetry.request_id.get(),
        reason=ACCEPTED, organization=organization, asset=asset, user=user, caller=caller.get(), client=client.get(),
        became=place,
    )  # fmt: skip


def delivered(
    organization: str, asset: str, kids: tuple[bytes, ...], key_versions: tuple[int, ...], reason: str, at_ms: int
) -> AuditLine:
    """The audit event of a packager's request for keys: which it got, or why none."""
    return AuditLine(
        timestamp=utc(at_ms), event=What.KEY_DELIVERY.value, program=PROGRAM,
        request_id=telemetry.request_id.get(), reason=reason, drm_system="widevine",
        organization=name_of(organization), asset=name_of(asset), kids=tuple(kid.hex() for kid in kids),
        key_versions=key_versions, caller=caller.get(), client=client.get(),
    )  # fmt: skip
