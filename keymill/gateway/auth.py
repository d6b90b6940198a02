"""Who asks: bearer API keys, found by their SHA-256 in the view."""

from typing import Final

from keymill.core.credentials import ORGANIZATION_ID, api_key_id, is_token_of, token_digest
from keymill.gateway.asking import caller
from keymill.http.problems import HttpReject
from keymill.snapshot.reader import SnapshotReader
from schemas.access import ApiKey, Credential

_SCHEME: Final = "bearer "
_MAX_HEADER: Final = 1024


def authenticate(reader: SnapshotReader, authorization: str, organization: str) -> Credential:
    """
    Return the credential behind an Authorization header, which must be of that organization.

    Raises:
        HttpReject: 401 without a known, unrevoked API key; 403 when it is another organization's, or the
            organization itself is revoked.
    """
    credential = _credential(reader, authorization)
    caller.set(credential.credential)
    if credential.organization != organization:
        message = f"this API key is not of organization {organization!r}"
        raise HttpReject(403, "forbidden", message)
    itself = reader.credential(organization, ORGANIZATION_ID)
    if itself is not None and itself.revoked:
        raise HttpReject(403, "organization_revoked", f"organization {organization} is revoked")
    return credential


def _credential(reader: SnapshotReader, authorization: str) -> Credential:
    if not authorization:
        raise _unauthorized("send an API key: Authorization: Bearer …")
    if len(authorization) > _MAX_HEADER or authorization[: len(_SCHEME)].lower() != _SCHEME:
        raise _unauthorized("the Authorization header is no bearer token")
    digest = token_digest(authorization[len(_SCHEME) :].strip())
    with reader.at_once() as view:
        found = view.credentials_by_id(api_key_id(digest))
    for credential in found:
        if isinstance(credential.body, ApiKey) and is_token_of(digest, credential.body) and not credential.revoked:
            return credential
    raise _unauthorized("the API key is unknown or revoked")


def _unauthorized(message: str) -> HttpReject:
    return HttpReject(401, "unauthorized", message, headers={"www-authenticate": 'Bearer realm="keymill"'})
