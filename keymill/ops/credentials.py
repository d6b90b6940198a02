"""
Organizations and their credentials: made, listed, revoked, all in the compacted topic that every gateway follows.

A secret is shown once, when it is made. API keys are stored as their SHA-256, other secrets wrapped under the
organization's KEK.
"""

import secrets
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from keymill.core.credentials import (
    ORGANIZATION_ID,
    SIGNER_IV_SIZE,
    SIGNER_KEY_SIZE,
    api_key_id,
    join_signer,
    ncp_identity,
    signer_identity,
    token_digest,
)
from keymill.core.envelope import wrap_secret
from keymill.errors import Conflict, Corrupt, InvalidRecord, Misconfigured, UnknownKey
from keymill.kms.keyfile import KeyFile, add_organization
from keymill.kms.keyring import Keyring
from keymill.ops import access
from keymill.secret import Secret
from schemas import ids
from schemas.access import ApiKey, Credential, NcpKey, OrganizationCreated, TokenKey, WidevineSigner
from schemas.values import check_text

TOKEN_BYTES: Final = 32
NCP_ACCESS_BYTES: Final = 15
NCP_SECRET_BYTES: Final = 30
"""20 and 40 characters, as NAVER's are."""


class Kind(StrEnum):
    """What a credential is for."""

    API_KEY = "api-key"
    NCP = "ncp"
    WIDEVINE_SIGNER = "widevine-signer"


BODIES: Final = {Kind.API_KEY: ApiKey, Kind.NCP: NcpKey, Kind.WIDEVINE_SIGNER: WidevineSigner}
"""A credential of a kind has a body of this class."""


@dataclass(frozen=True, slots=True)
class Created:
    """A new credential. `secrets` is the only copy of what the caller needs; it is in no record and no repr."""

    organization: str
    credential: str
    kind: Kind
    secrets: dict[str, str] = field(repr=False)

    def told(self) -> dict[str, str]:
        """What is shown, once: the secrets with what they are for."""
        told = {"organization": self.organization, "credential": self.credential, "kind": self.kind.value}
        return told | self.secrets


def create_organization(bootstrap: str, key_file: Path, organization: str, display_name: str = "") -> bool:
    """
    Give an organization its keys and its record; False when it has both already.

    The key file is created only while no organization exists: a lost one must be restored, since every derived key
    hangs on its roots.

    Raises:
        Misconfigured: the organization's record exists, but its keys do not.
    """
    ids.check_organization(organization)
    access.prepare_keys(bootstrap, key_file)
    known = access.organizations(bootstrap)
    if organization not in known and organization in access.organizations(bootstrap, verified=False):
        message = f"organization {organization} exists, and its records do not verify under {key_file}"
        raise Misconfigured(f"{message}: restore the key file's backup, or run `keymill topics sign` after an upgrade")
    fresh = add_organization(key_file, organization)
    if organization in known:
        return fresh
    body = OrganizationCreated(display_name=display_name or organization)
    access.publish(bootstrap, [_record(organization, ORGANIZATION_ID, "", body)])
    return True


def revoke_organization(bootstrap: str, organization: str, *, revoked: bool = True) -> bool:
    """Refuse all that the organization asks for, or no longer; False when it is so already. Nothing is deleted."""
    held = existing(bootstrap, organization)[ORGANIZATION_ID]
    if held.revoked is revoked:
        return False
    access.publish(bootstrap, [msgspec.structs.replace(held, revoked=revoked)])
    return True


def create_credential(bootstrap: str, key_file: Path, organization: str, kind: Kind, name: str = "") -> Created:
    """
    Make a credential.

    Args:
        name: id of a Widevine signer, the name that the packager gives; a label for people otherwise.

    Raises:
        Conflict: the organization has a credential of that id.
        UnknownKey: there is no such organization.
    """
    held = existing(bootstrap, organization)
    credential, body, shown = _make(Keyring(KeyFile(key_file)), organization, kind, name)
    if credential in held:
        message = f"organization {organization} has a credential {credential} already: choose another name"
        raise Conflict(message, field="name")
    access.publish(bootstrap, [_record(organization, credential, name, body)])
    return Created(organization=organization, credential=credential, kind=kind, secrets=shown)


def set_organization(
    bootstrap: str, organization: str, *, entitlements_required: bool | None = None, provider: str | None = None
) -> OrganizationCreated:
    """
    Change what an organization's record says; None leaves a member as it is, an empty provider is none.

    Every gateway and proxy knows within a second.
    """
    held = existing(bootstrap, organization)[ORGANIZATION_ID]
    body = held.body
    if not isinstance(body, OrganizationCreated):
        raise Corrupt(f"the record of organization {organization} holds a {type(body).__name__}")
    if provider:
        check_text(provider, "provider")
    required = body.entitlements_required if entitlements_required is None else entitlements_required
    named = body.provider if provider is None else provider or None
    changed = msgspec.structs.replace(body, entitlements_required=required, provider=named)
    if changed != body:
        access.publish(bootstrap, [msgspec.structs.replace(held, body=changed)])
    return changed


def revoke_credential(bootstrap: str, organization: str, credential: str, kind: Kind | None = None) -> bool:
    """
    Revoke for ever; False when it is revoked already. Every gateway knows within a second.

    Raises:
        UnknownKey: the organization has no such credential of *kind*, which is any kind if None.
        InvalidRecord: it is the organization's own record, which proves nobody's identity.
    """
    if credential == ORGANIZATION_ID:
        message = f"{credential} is the organization itself, no credential: revoke what `keymill credential list` shows"
        raise InvalidRecord(message, field="credential")
    held = existing(bootstrap, organization).get(credential)
    if held is not None and kind is not None and not isinstance(held.body, BODIES[kind]):
        raise UnknownKey(f"credential {credential} of {organization} is no {kind.value}", field="credential")
    if held is None:
        raise UnknownKey(f"organization {organization} has no credential {credential}", field="credential")
    if held.revoked:
        return False
    access.publish(bootstrap, [msgspec.structs.replace(held, revoked=True)])
    return True


Body = OrganizationCreated | ApiKey | NcpKey | WidevineSigner | TokenKey


def existing(bootstrap: str, organization: str) -> dict[str, Credential]:
    """An organization's credentials by id, its own record among them; raises `UnknownKey` for no organization."""
    ids.check_organization(organization)
    held = access.credentials(bootstrap, organization)
    if ORGANIZATION_ID not in held:
        message = f"there is no organization {organization}: run `keymill org create {organization}`"
        raise UnknownKey(message, field="organization")
    return held


def _make(keyring: Keyring, organization: str, kind: Kind, name: str) -> tuple[str, Body, dict[str, str]]:
    match kind:
        case Kind.API_KEY:
            token = secrets.token_urlsafe(TOKEN_BYTES)
            digest = token_digest(token)
            return api_key_id(digest), ApiKey(token_sha256=digest), {"api_key": token}
        case Kind.NCP:
            return _make_ncp(keyring, organization)
        case Kind.WIDEVINE_SIGNER:
            return _make_signer(keyring, organization, name)


def _make_ncp(keyring: Keyring, organization: str) -> tuple[str, Body, dict[str, str]]:
    access_key, secret_key = secrets.token_urlsafe(NCP_ACCESS_BYTES), secrets.token_urlsafe(NCP_SECRET_BYTES)
    epoch = keyring.current_epoch(organization)
    kek = keyring.kek(organization, epoch)
    wrapped = wrap_secret(kek, Secret(secret_key.encode()), *ncp_identity(organization, access_key))
    return (
        access_key,
        NcpKey(kek_epoch=epoch, wrapped=wrapped),
        {"ncp_access_key": access_key, "ncp_secret_key": secret_key},
    )


def _make_signer(keyring: Keyring, organization: str, name: str) -> tuple[str, Body, dict[str, str]]:
    ids.check_name(name, "name")
    if name == ORGANIZATION_ID:
        raise InvalidRecord(f"name {name} is the organization's own", field="name")
    key, iv = secrets.token_bytes(SIGNER_KEY_SIZE), secrets.token_bytes(SIGNER_IV_SIZE)
    epoch = keyring.current_epoch(organization)
    kek = keyring.kek(organization, epoch)
    wrapped = wrap_secret(kek, join_signer(key, iv), *signer_identity(organization, name))
    shown = {"widevine_signer": name, "widevine_key_hex": key.hex(), "widevine_iv_hex": iv.hex()}
    return name, WidevineSigner(kek_epoch=epoch, wrapped=wrapped), shown


def _record(organization: str, credential: str, label: str, body: Body) -> Credential:
    created = time.time_ns() // 1_000_000
    return Credential(
        organization=organization, credential=credential, revoked=False, created=created, label=label, body=body
    )
