"""What credentials are made of: ids of API keys, and the identities that wrapped secrets are bound to."""

import hashlib
import hmac
from typing import Final

from keymill.core.identity import Part
from keymill.secret import Secret
from schemas.access import ApiKey

SIGNER_KEY_SIZE: Final = 32
SIGNER_IV_SIZE: Final = 16
ORGANIZATION_ID: Final = "self"
"""Credential id of the organization's own record."""
_API_KEY_ID_SIZE: Final = 16
"""Hex digits of the token's hash that name it: enough to be unique, nothing towards the token's 256 bits."""


def token_digest(token: str) -> bytes:
    """SHA-256 of an API key; its 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(token.encode()).digest()


def api_key_id(digest: bytes) -> str:
    """Credential id of the API key with that digest, so that it is found without a search."""
    return f"ak-{digest.hex()[:_API_KEY_ID_SIZE]}"


def is_token_of(digest: bytes, key: ApiKey) -> bool:
    """Whether the presented token's digest is the stored one, in constant time."""
    return hmac.compare_digest(digest, key.token_sha256)


def signer_identity(organization: str, credential: str) -> tuple[Part, ...]:
    """Identity of a Widevine signer's wrapped key and IV."""
    return ("widevine-signer", organization, credential)


def ncp_identity(organization: str, credential: str) -> tuple[Part, ...]:
    """Identity of an NCP access key's wrapped secret."""
    return ("ncp", organization, credential)


def token_key_identity(organization: str, credential: str, kek_epoch: int | None) -> tuple[str, str, str, int | None]:
    """What an HS256 secret's wrapping is bound to."""
    return ("token-key", organization, credential, kek_epoch)


def join_signer(key: bytes, iv: bytes) -> Secret:
    """Key (32 bytes) and IV (16) as they are wrapped together."""
    if (len(key), len(iv)) != (SIGNER_KEY_SIZE, SIGNER_IV_SIZE):
        raise ValueError("a signer has a key of 32 bytes and an IV of 16")
    return Secret(key + iv)
