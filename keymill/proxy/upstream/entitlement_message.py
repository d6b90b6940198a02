"""
The message that goes beside a challenge to Axinom's license service: keys, demands and license terms. Pure.

A JWT (HS256 under the communication key) around an entitlement message of version 2. Keys stand inline, each encrypted
with AES-256-CBC under the communication key, the KID's 16 big-endian bytes as IV, without padding; FairPlay's IV stands
beside its key as it is.

Source: Axinom's documentation (License Service Message; Entitlement Message: Content Keys Source);
Axinom/Axinom.Drm.PowerShell and Axinom/drm-quick-start on GitHub (how keys are encrypted).
"""

import base64
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import jwt
import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from keymill.proxy.upstream.contract import Granted, GrantedKey
from keymill.proxy.upstream.entitlement_terms import LicenseTerms, UsagePolicy, license_terms, policy_name, usage_policy
from keymill.secret import Secret
from schemas.values import DrmSystem

MAX_MESSAGE: Final = 30_000
"""
Characters of a message, which travels as an HTTP header: ASP.NET Core takes 32 KiB of headers in all, others less.

A key takes about 200 of them, so a license of the usual eight tracks in two crypto periods takes a tenth.
"""


class _Key(msgspec.Struct, frozen=True, omit_defaults=True):
    id: str
    encrypted_key: str
    iv: str | None = None
    usage_policy: str | None = None


class _Keys(msgspec.Struct, frozen=True):
    inline: tuple[_Key, ...] = ()


class _Message(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str
    version: int
    content_keys_source: _Keys
    license: LicenseTerms | None = None
    content_key_usage_policies: tuple[UsagePolicy, ...] = ()


class _Envelope(msgspec.Struct, frozen=True):
    version: int
    com_key_id: str
    expiration_date: str
    message: _Message


def license_message(granted: Granted, *, key: Secret, key_id: str, expires_ms: int) -> str:
    """
    The signed message that entitles to the granted keys under the granted policy.

    No longer than `MAX_MESSAGE`: what does not fit is left out from the end, where the oldest version's keys stand.
    """
    keys = granted.keys
    while True:
        signed = _entitling(granted, keys, key, key_id, expires_ms)
        if len(signed) <= MAX_MESSAGE or len(keys) == 1:
            return signed
        keys = keys[: min(len(keys) - 1, len(keys) * MAX_MESSAGE // len(signed))]


def _entitling(granted: Granted, granted_keys: Sequence[GrantedKey], key: Secret, key_id: str, expires_ms: int) -> str:
    keys = tuple(_key(each, granted, key) for each in granted_keys)
    policies = dict.fromkeys(each.labels for each in granted_keys)
    message = _Message(
        type="entitlement_message",
        version=2,
        license=license_terms(granted.policy, granted.drm_system),
        content_keys_source=_Keys(inline=keys),
        content_key_usage_policies=tuple(
            usage_policy(granted.policy, granted.drm_system, labels) for labels in policies
        ),
    )
    return _signed(message, key, key_id, expires_ms)


def certificate_message(*, key: Secret, key_id: str, expires_ms: int) -> str:
    """The signed message beside a request for the service certificate: it entitles to no key."""
    return _signed(
        _Message(type="entitlement_message", version=2, content_keys_source=_Keys()), key, key_id, expires_ms
    )


def encrypted_key(kid: bytes, cek: Secret, communication_key: Secret) -> bytes:
    """A content key (16 bytes) as only the license service reads it."""
    encryptor = Cipher(communication_key.keyed(algorithms.AES), modes.CBC(kid)).encryptor()
    return encryptor.update(cek.reveal()) + encryptor.finalize()


def _signed(message: _Message, key: Secret, key_id: str, expires_ms: int) -> str:
    expires = datetime.fromtimestamp(expires_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    envelope = _Envelope(version=1, com_key_id=key_id, expiration_date=expires, message=message)
    return jwt.PyJWS().encode(msgspec.json.encode(envelope), key.reveal(), algorithm="HS256", headers={"typ": "JWT"})


def _key(key: GrantedKey, granted: Granted, communication_key: Secret) -> _Key:
    fairplay = granted.drm_system is DrmSystem.FAIRPLAY
    return _Key(
        id=str(uuid.UUID(bytes=key.kid)),
        encrypted_key=_text(encrypted_key(key.kid, key.clear.cek, communication_key)),
        iv=_text(key.clear.iv.reveal()) if fairplay else None,
        usage_policy=policy_name(key.labels),
    )


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")
