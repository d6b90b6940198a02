"""
NAVER's policy API on the gateway: POST, GET, PUT and DELETE under /api/v1/policy.

    1. signature headers: present, timely, of an unrevoked access key whose organization they name (401)
    2. region, and Content-Type where there is a body (400); the body within its limit and of its form
    3. the change, through the log and back into the view, see `keymill.gateway.policies`

Every answer, errors too, is of the API's own form.
"""

import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from keymill import telemetry
from keymill.core.credentials import ORGANIZATION_ID, ncp_identity
from keymill.core.envelope import unwrap_secret
from keymill.core.formats.contract import Imported
from keymill.core.formats.naver import read
from keymill.errors import InvalidRecord, NotReady, UnknownKey
from keymill.gateway.asking import caller
from keymill.gateway.dialects import naver
from keymill.gateway.dialects.naver import NaverPolicy, Signed, Status, unauthorized
from keymill.gateway.policies import Policies
from keymill.gateway.policy_api import policy_id_of
from keymill.gateway.policy_lists import PolicyLists
from keymill.gateway.requests import read_limited
from keymill.gateway.service import Service
from keymill.http.problems import HttpReject, describe
from keymill.secret import Secret
from schemas.access import Credential, NcpKey

PREFIX: Final = "/api/v1/policy"
JSON: Final = "application/json"
CONTENT_TYPE: Final = "application/json;charset=utf-8"
REMEMBERED: Final = 1024
"""Secret keys kept unwrapped, the most recently used."""


class NaverApi:
    """Handlers over one `Service`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._policies = Policies(service)
        self._lists = PolicyLists(service.reader)
        self._secrets: OrderedDict[tuple[str, str, bytes], Secret] = OrderedDict()

    async def create(self, request: Request) -> Response:
        """POST a policy of NAVER's form."""
        organization = self._admit(request)
        imported = await self._imported(request)
        record = await self._policies.create(organization, imported.name or "", imported.policy, _key(request))
        return _answer(NaverPolicy(success=True, content=naver.content_of(record, Status.CREATED)))

    async def index(self, request: Request) -> Response:
        """GET a page of the policies that are not deleted."""
        organization = self._admit(request)
        query = request.query_params
        number, size = naver.paging(query.get("pageNo"), query.get("pageSize"))
        total, page = self._lists.count(organization), []
        async for record in self._lists.each(organization, skip=(number - 1) * size):
            page.append(record)
            if len(page) == size:
                break
        return _answer(naver.page_of(page, total))

    async def show(self, request: Request, policy_id: str) -> Response:
        """GET a policy in NAVER's form."""
        organization = self._admit(request)
        record = await self._policies.one(organization, _id(policy_id))
        return _answer(NaverPolicy(success=True, content=naver.content_of(record)))

    async def replace(self, request: Request, policy_id: str) -> Response:
        """PUT another content for a policy, of NAVER's form."""
        organization = self._admit(request)
        imported = await self._imported(request)
        record = await self._policies.update(
            organization, _id(policy_id), imported.name, imported.policy, _key(request)
        )
        return _answer(NaverPolicy(success=True, content=naver.content_of(record, Status.UPDATING)))

    async def delete(self, request: Request, policy_id: str) -> Response:
        """DELETE a policy and answer it as it was."""
        organization = self._admit(request)
        record = await self._policies.delete(organization, _id(policy_id), _key(request))
        return _answer(NaverPolicy(success=True, content=naver.content_of(record)))

    def _admit(self, request: Request) -> str:
        """The organization whose access key signed the request."""
        self._service.readiness.require()
        organization = self._organization(_signed(request))
        regions = self._service.settings.ncp_regions.split(",")
        if request.headers.get("x-ncp-region_code") not in regions:
            message = f"x-ncp-region_code must be one of {', '.join(regions)}"
            raise InvalidRecord(message, field="x-ncp-region_code")
        return organization

    def _organization(self, signed: Signed) -> str:
        if not naver.is_timely(signed.timestamp, time.time_ns() // 1_000_000):
            raise unauthorized("x-ncp-apigw-timestamp must be the time in milliseconds, less than 5 minutes away")
        with self._service.reader.at_once() as view:
            found = [each for each in view.credentials_by_id(signed.access_key) if isinstance(each.body, NcpKey)]
            revoked = {
                each.organization
                for each in found
                if (itself := view.credential(each.organization, ORGANIZATION_ID)) is not None and itself.revoked
            }
        proven = [each for each in found if naver.is_signed(signed, self._secret(each)) and not each.revoked]
        if not found:
            naver.is_signed(signed, naver.NO_SECRET)
        if not found and not self._service.reader.state().live:
            raise NotReady("the view is behind the log, so an access key that it lacks may exist")
        if not proven:
            raise unauthorized("the access key is unknown or revoked, or its signature does not fit the request")
        if proven[0].organization in revoked:
            raise HttpReject(403, "organization_revoked", f"organization {proven[0].organization} is revoked")
        caller.set(proven[0].credential)
        return proven[0].organization

    def _secret(self, credential: Credential) -> Secret:
        assert isinstance(credential.body, NcpKey)
        slot = (credential.organization, credential.credential, credential.body.wrapped)
        held = self._secrets.get(slot)
        if held is None:
            kek = self._service.keyring.kek(credential.organization, credential.body.kek_epoch)
            held = unwrap_secret(kek, credential.body.wrapped, *ncp_identity(*slot[:2]))
            self._secrets[slot] = held
            if len(self._secrets) > REMEMBERED:
                self._secrets.popitem(last=False)
        self._secrets.move_to_end(slot)
        return held

    async def _imported(self, request: Request) -> Imported:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != JSON:
            raise InvalidRecord(f"Content-Type must be {JSON}", field="Content-Type")
        return read(await read_limited(request, self._service.settings.max_body_bytes))


def handles(request: Request) -> bool:
    """Whether errors about a request are to be of this API's form."""
    path = request.scope["path"]
    return bool(path == PREFIX or path.startswith(f"{PREFIX}/"))


def error_of(error: Exception) -> Response:
    """The answer to an error, in this API's form."""
    told = describe(error)
    message = told.detail if not told.field or told.field in told.detail else f"{told.field}: {told.detail}"
    return _answer(naver.error_answer(told.status, told.code, message), told.status, told.headers)


def _signed(request: Request) -> Signed:
    names = ("x-ncp-apigw-timestamp", "x-ncp-iam-access-key", "x-ncp-apigw-signature-v2")
    given = [request.headers.get(name, "") for name in names]
    if missing := [name for name, value in zip(names, given, strict=True) if not value]:
        raise unauthorized(f"{', '.join(missing)} missing")
    query = request.scope["query_string"]
    target = request.scope["raw_path"] + (b"?" + query if query else b"")
    timestamp, access_key, signature = given
    return Signed(method=request.method, target=target, timestamp=timestamp, access_key=access_key, signature=signature)


def _id(text: str) -> int:
    """What cannot be an id is the id of no policy."""
    try:
        return policy_id_of(text)
    except InvalidRecord:
        raise UnknownKey(f"there is no policy {text[:64]}", field="policyId", code="policy_unknown") from None


def _key(request: Request) -> str | None:
    return request.headers.get("idempotency-key")


def _answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    own = {
        "content-type": CONTENT_TYPE,
        "access-control-allow-origin": "*",
        "cache-control": "no-store",
        "x-ncp-trace-id": telemetry.request_id.get() or "",
    }
    return Response(msgspec.json.encode(value), status, {**(headers or {}), **own})
