"""The gateway's application: its routes, and the life span that follows the view and the dead letters."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from keymill.core.bodies import IngestBody, PolicyBody, RestoreBody, RevokeBody, RotateBody
from keymill.disk import DiskSpace
from keymill.errors import KeymillError
from keymill.gateway import openapi, openapi_naver, openapi_policies
from keymill.gateway.answers import AssetAnswer
from keymill.gateway.asking import PROGRAM, Asking
from keymill.gateway.assets import Assets
from keymill.gateway.dialects.naver_route import PREFIX, NaverApi, error_of, handles
from keymill.gateway.dialects.widevine_route import WidevineDoor
from keymill.gateway.entitlements import Entitlements
from keymill.gateway.policy_api import PolicyApi
from keymill.gateway.service import Service
from keymill.http.admin import ByPort, admin_application, described_routes
from keymill.http.health import health_routes, joined, probe_routes
from keymill.http.openapi import Json
from keymill.http.problems import HANDLERS, problem_of
from keymill.http.server import dress
from keymill.snapshot import gauges
from keymill.snapshot.follower import Follower
from keymill.snapshot.reader import SnapshotReader
from schemas import topics

VIEW: Final = tuple(
    topic.name for topic in (topics.KEYS, topics.POLICIES, topics.ENTITLEMENTS, topics.SERVICES, topics.CREDENTIALS)
)
OBSERVE_S: Final = 1.0
ASSET: Final = "/v1/organizations/{organization}/assets/{asset}"
POLICIES: Final = "/v1/organizations/{organization}/policies"
ENTITLEMENT: Final = "/v1/organizations/{organization}/entitlements/{user}/{product}"


class CaughtUp:
    """A readiness check: once since its start the view held all there was. Cut off afterwards, what it holds serves."""

    def __init__(self, reader: SnapshotReader, follower: Follower, disk: DiskSpace) -> None:
        self._reader = reader
        self._disk = disk
        self._follower = follower
        self._once = False

    def __call__(self) -> str | None:
        """Why the view cannot be trusted yet."""
        if self._once:
            return None
        state = self._reader.state()
        self._once = state.live
        if self._once:
            return None
        return self._follower.failure or state.error or f"the view is catching up, {state.behind} records behind"

    def degraded(self) -> str | None:
        """Why the view may lack what was written, though it held all there was once."""
        view = self._follower.failure or self._reader.state().degraded() if self._once else None
        return joined(view, self._disk.degraded())


def application(service: Service, follower: Follower, *, main_port: int, admin_port: int | None) -> ASGIApp:
    """The ASGI application on both ports; without an admin port everything is on the main one."""
    web = build_app(service, follower)
    if admin_port is None:
        web.router.routes.extend([*health_routes(service.readiness), *described_routes(web.openapi)])
    else:
        web.router.routes.extend(probe_routes(service.readiness))
    main = Asking(dress(web, program=PROGRAM), trusted=service.settings.trusted_proxies)
    if admin_port is None:
        return main
    admin = admin_application(service.readiness, web.openapi, program=PROGRAM, main_port=main_port)
    return ByPort(main, admin, admin_port)


def build_app(service: Service, follower: Follower) -> FastAPI:
    """The application over one `Service`; its life span starts and stops what the service uses."""

    @contextlib.asynccontextmanager
    async def span(_app: FastAPI) -> AsyncIterator[None]:
        service.waiter.start()
        follower.start()
        await asyncio.to_thread(service.reader.open)
        await asyncio.to_thread(service.letters.start)
        tasks = [asyncio.create_task(follower.run()), asyncio.create_task(_observe(service))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.to_thread(service.letters.close)
            await asyncio.to_thread(service.intake.close, service.settings.stop_timeout_s)
            service.reader.close()
            await asyncio.to_thread(follower.stop)

    app = FastAPI(
        title="keymill gateway",
        version="1",
        description="Asset events in, key identities out. The gateway says events and reads a view; it makes no keys.",
        lifespan=span,
        exception_handlers=_HANDLERS,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    _add_routes(app, service)
    app.openapi = openapi.completed(app.openapi)  # type: ignore[method-assign]
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    assets, door = Assets(service), WidevineDoor(service)
    policies, naver, entitlements = PolicyApi(service), NaverApi(service), Entitlements(service)
    _add(app, "POST", ASSET.removesuffix("/{asset}"), assets.ingest, openapi.writing(IngestBody))
    _add(app, "GET", ASSET, assets.show, openapi.reading(AssetAnswer))
    _add(app, "POST", f"{ASSET}/rotate", assets.rotate, openapi.writing(RotateBody))
    _add(app, "POST", f"{ASSET}/policy", assets.assign_policy, openapi.writing(PolicyBody))
    _add(app, "POST", f"{ASSET}/revoke", assets.revoke, openapi.writing(RevokeBody))
    _add(app, "POST", f"{ASSET}/restore", assets.restore, openapi.writing(RestoreBody))
    _add(app, "POST", "/widevine/{organization}", door.answer, openapi.packaging())
    _add(app, "POST", POLICIES, policies.create, openapi_policies.creating())
    _add(app, "GET", POLICIES, policies.index, openapi_policies.listing())
    _add(app, "GET", f"{POLICIES}/{{policy_id}}", policies.show, openapi_policies.showing())
    _add(app, "PUT", f"{POLICIES}/{{policy_id}}", policies.replace, openapi_policies.replacing())
    _add(app, "DELETE", f"{POLICIES}/{{policy_id}}", policies.delete, openapi_policies.deleting())
    _add(app, "PUT", ENTITLEMENT, entitlements.put, openapi_policies.entitling())
    _add(app, "DELETE", ENTITLEMENT, entitlements.delete, openapi_policies.disentitling())
    _add(app, "POST", PREFIX, naver.create, openapi_naver.creating())
    _add(app, "GET", PREFIX, naver.index, openapi_naver.listing())
    _add(app, "GET", f"{PREFIX}/{{policy_id}}", naver.show, openapi_naver.showing())
    _add(app, "PUT", f"{PREFIX}/{{policy_id}}", naver.replace, openapi_naver.replacing())
    _add(app, "DELETE", f"{PREFIX}/{{policy_id}}", naver.delete, openapi_naver.deleting())


def _add(app: FastAPI, method: str, path: str, handler: Callable[..., Any], extra: Json) -> None:
    summary = (handler.__doc__ or "").strip().partition("\n")[0]
    app.add_api_route(
        path,
        handler,
        methods=[method],
        summary=summary,
        response_model=None,
        response_class=Response,
        openapi_extra=extra,
    )


def _worded(request: Request, error: Exception) -> Response:
    """The answer to an error, in the form of the interface that was asked."""
    return error_of(error) if handles(request) else problem_of(error)


_HANDLERS: Final[dict[Any, Any]] = dict.fromkeys(HANDLERS, _worded)


async def _observe(service: Service) -> None:
    """Show the view's state in the metrics, and look at the readiness for who only reads what was seen."""
    while True:
        with contextlib.suppress(KeymillError):
            gauges.show(service.reader.state())
            service.readiness.reason()
            service.readiness.degraded()
        await asyncio.sleep(OBSERVE_S)
