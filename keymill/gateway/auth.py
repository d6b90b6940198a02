"""Who asks: bearer API keys, found by their SHA-256 in the view."""

from typing import Final

from starlette.requests import Request

from keymill.core.credentials import ORGANIZATION_ID, api_key_id, is_token_of, token_digest
from keymill.gateway.asking import caller
from keymill.gateway.service import Service
from keymill.http.problems import HttpReject
from schemas.access import ApiKey, Credential

_SCHEME: Final = "bearer "
_MAX_HEADER: Final = 1024


async def admit(service: Service, request: Request, organization: str) -> Credential:
    """
    Return the credential of a request, whose Authorization header must have an API key of that organization.

    Raises:
        HttpReject: 401 without a known, unrevoked API key; 403 when it is another organization's, or the
            organization itself is revoked.
        NotReady: the view is not there yet, or behind, so that a key which it lacks may exist.
    """
    service.readiness.require()
    reader = service.reader
    digest = _digest(request.headers.get("authorization", ""))
    with reader.at_once() as view:
        found = view.credentials_by_id(api_key_id(digest))
    keys = [each for each in found if isinstance(each.body, ApiKey) and is_token_of(digest, each.body)]
    credential = next((each for each in keys if not each.revoked), None)
    if credential is None:
        refusal = _unauthorized("the API key is unknown or revoked")
        raise refusal if keys else await service.absent(refusal, "an API key")
    caller.set(credential.credential)
    if credential.organization != organization:
        message = f"this API key is not of organization {organization!r}"
        raise HttpReject(403, "forbidden", message)
    itself = reader.credential(organization, ORGANIZATION_ID)
    if itself is not None and itself.revoked:
        raise HttpReject(403, "organization_revoked", f"organization {organization} is revoked")
    return credential


def _digest(authorization: str) -> bytes:
    if not authorization:
        raise _unauthorized("send an API key: Authorization: Bearer …")
    if len(authorization) > _MAX_HEADER or authorization[: len(_SCHEME)].lower() != _SCHEME:
        raise _unauthorized("the Authorization header is no bearer token")
    return token_digest(authorization[len(_SCHEME) :].strip())


def _unauthorized(message: str) -> HttpReject:
    return HttpReject(401, "unauthorized", message, headers={"www-authenticate": 'Bearer realm="keymill"'})
