"""
Policies over HTTP: created, replaced and deleted as documents of a format, listed, shown and exported.

A name comes from `?name=`, else from the document, else it is the format's; a PUT without any keeps the one there is.
"""

import re
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from keymill.core.formats import native
from keymill.core.formats.contract import Imported
from keymill.core.formats.table import export_policy, format_of
from keymill.errors import InvalidRecord
from keymill.gateway.auth import admit
from keymill.gateway.policies import Policies
from keymill.gateway.policy_answers import DeletedPolicy, PolicyList, PolicySummary, StoredPolicy, detail, summary
from keymill.gateway.policy_lists import PolicyLists
from keymill.gateway.requests import flag, read_limited
from keymill.gateway.service import Service
from schemas.values import MAX_COUNT

_ID: Final = re.compile(r"[0-9]{1,16}")


class PolicyApi:
    """Handlers over one `Service`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._policies = Policies(service)
        self._lists = PolicyLists(service.reader)

    async def create(self, request: Request, organization: str) -> Response:
        """POST a policy: a document of the format that `?format=` names."""
        imported, name = await self._imported(request, organization)
        given = name or imported.name or _format(request)
        record = await self._policies.create(organization, given, imported.policy, _key(request))
        answer = StoredPolicy(policy_id=record.policy_id, version=record.version, warnings=imported.warnings)
        location = f"/v1/organizations/{organization}/policies/{record.policy_id}"
        return _json(201, answer, {"location": location})

    async def index(self, request: Request, organization: str) -> Response:
        """GET the policies; deleted ones too with `?deleted=1`, a page with `?limit=`, what comes behind `?after=`."""
        await admit(self._service, request, organization)
        limit, after = _number(request, "limit", MAX_COUNT), _number(request, "after", -1)
        found: list[PolicySummary] = []
        async for record in self._lists.each(organization, deleted=flag(request, "deleted"), after=after):
            found.append(summary(record))
            if len(found) == limit:
                break
        return _json(200, PolicyList(policies=tuple(found)))

    async def show(self, request: Request, organization: str, policy_id: str) -> Response:
        """GET a policy; with `?format=` its document."""
        await admit(self._service, request, organization)
        record = await self._policies.one(organization, policy_id_of(policy_id))
        if "format" not in request.query_params:
            return _json(200, detail(record))
        document = export_policy(_format(request), record.policy, record.name)
        return Response(document, 200, {"cache-control": "no-store"}, "application/json")

    async def replace(self, request: Request, organization: str, policy_id: str) -> Response:
        """PUT another content for a policy: a document of the format that `?format=` names."""
        imported, name = await self._imported(request, organization)
        given = name or imported.name
        record = await self._policies.update(
            organization, policy_id_of(policy_id), given, imported.policy, _key(request)
        )
        answer = StoredPolicy(policy_id=record.policy_id, version=record.version, warnings=imported.warnings)
        return _json(200, answer)

    async def delete(self, request: Request, organization: str, policy_id: str) -> Response:
        """DELETE a policy: its id stays taken, and the assets that have it go on with its last content."""
        await admit(self._service, request, organization)
        record = await self._policies.delete(organization, policy_id_of(policy_id), _key(request))
        return _json(200, DeletedPolicy(policy_id=record.policy_id, version=record.version, state=record.state))

    async def _imported(self, request: Request, organization: str) -> tuple[Imported, str]:
        await admit(self._service, request, organization)
        body = await read_limited(request, self._service.settings.max_body_bytes)
        return format_of(_format(request)).read(body), request.query_params.get("name", "")


def policy_id_of(text: str) -> int:
    """A policy id in a path; raises `InvalidRecord`."""
    if not _ID.fullmatch(text) or int(text) > MAX_COUNT:
        raise InvalidRecord(f"policy_id must be 0 to {MAX_COUNT}", field="policy_id")
    return int(text)


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    least = 1 if name == "limit" else 0
    if not _ID.fullmatch(text) or not least <= int(text) <= MAX_COUNT:
        raise InvalidRecord(f"{name} must be {least} to {MAX_COUNT}", field=name)
    return int(text)


def _format(request: Request) -> str:
    return request.query_params.get("format", native.NAME)


def _key(request: Request) -> str | None:
    return request.headers.get("idempotency-key")


def _json(status: int, value: Any, headers: dict[str, str] | None = None) -> Response:
    content = msgspec.json.encode(native.plain(value))
    return Response(content, status, {"cache-control": "no-store"} | (headers or {}), "application/json")
