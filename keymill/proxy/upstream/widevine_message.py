"""
Widevine's GetLicense call: the signed request. Pure; its answer is read in `widevine_answer`.

The request is a JSON message in base64 beside its signature: AES-256-CBC, under the signer's key and IV, of the SHA-1
of the message's bytes, padded as PKCS #7. Every key stands in it in clear, so it travels over TLS alone.

Source: Azure Media Services' Widevine license template (member names); alfg/widevine on GitHub (envelope, signature);
NAVER's policy API (CGMS, analog output, SRM rule, device revocation).
"""

import base64
import hashlib
from collections.abc import Sequence

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from keymill.core.merging import widevine_terms
from keymill.proxy.upstream.contract import Granted, GrantedKey
from keymill.secret import Secret
from schemas.ids import content_id_of_asset
from schemas.policy import Cgms, Hdcp, Policy, Renewal, SrmRule, WidevineTerms
from schemas.values import DEFAULT_LABELS


class _Protection(msgspec.Struct, frozen=True, omit_defaults=True):
    hdcp: Hdcp | None = None
    cgms_flags: Cgms | None = None
    disable_analog_output: bool | None = None
    hdcp_srm_rule: SrmRule | None = None


class _KeySpec(msgspec.Struct, frozen=True, omit_defaults=True):
    track_type: str | None = None
    key_id: str | None = None
    key: str | None = None
    security_level: int | None = None
    required_output_protection: _Protection | None = None


class _Overrides(msgspec.Struct, frozen=True, omit_defaults=True):
    can_play: bool | None = None
    can_persist: bool | None = None
    can_renew: bool | None = None
    license_duration_seconds: int | None = None
    rental_duration_seconds: int | None = None
    playback_duration_seconds: int | None = None
    renewal_server_url: str | None = None
    renewal_delay_seconds: int | None = None
    renewal_retry_interval_seconds: int | None = None
    renewal_recovery_duration_seconds: int | None = None
    renew_with_usage: bool | None = None


class _Session(msgspec.Struct, frozen=True, omit_defaults=True):
    provider_session_token: str | None = None
    provider_client_token: str | None = None
    override_provider_client_token: bool | None = None


class _Message(msgspec.Struct, frozen=True, omit_defaults=True):
    payload: str
    provider: str | None = None
    content_id: str | None = None
    policy_name: str | None = None
    content_key_specs: tuple[_KeySpec, ...] = ()
    policy_overrides: _Overrides | None = None
    session_init: _Session | None = None
    use_policy_overrides_exclusively: bool | None = None
    override_device_revocation: bool | None = None
    parse_only: bool = False


class _Signed(msgspec.Struct, frozen=True):
    request: str
    signature: str
    signer: str


def license_message(granted: Granted) -> bytes:
    """The message that asks for a license with the granted keys, or with `parse_only` for none: then without keys."""
    policy = granted.policy
    request = policy.widevine_request
    content_id = request.content_id if request else None
    return msgspec.json.encode(
        _Message(
            payload=_text(granted.challenge),
            provider=(request.provider if request else None) or granted.provider or None,
            content_id=_text(content_id_of_asset(granted.asset.asset) if content_id is None else content_id),
            policy_name=request.policy_name if request else None,
            content_key_specs=tuple(_key_spec(key, policy, with_key=not granted.parse_only) for key in granted.keys),
            policy_overrides=_overrides(policy),
            session_init=_session(policy),
            use_policy_overrides_exclusively=request.use_policy_overrides_exclusively if request else None,
            override_device_revocation=_revocation([widevine_terms(policy, *key.labels) for key in granted.keys]),
            parse_only=granted.parse_only,
        )
    )


def certificate_message(challenge: bytes) -> bytes:
    """The message that asks for the service certificate: it names no content."""
    return msgspec.json.encode(_Message(payload=_text(challenge)))


def signed(message: bytes, *, signer: str, key: Secret, iv: Secret) -> bytes:
    """The body to post: *message*, which must not change any more, and its signature."""
    body = _Signed(request=_text(message), signature=_text(signature(message, key=key, iv=iv)), signer=signer)
    return msgspec.json.encode(body)


def signature(message: bytes, *, key: Secret, iv: Secret) -> bytes:
    """32 bytes: the padded SHA-1 of the exact bytes, encrypted."""
    padder = PKCS7(128).padder()
    digest = hashlib.sha1(message, usedforsecurity=False).digest()  # as the protocol has it
    padded = padder.update(digest) + padder.finalize()
    encryptor = Cipher(key.keyed(algorithms.AES), modes.CBC(iv.reveal())).encryptor()
    return encryptor.update(padded) + encryptor.finalize()


def _key_spec(key: GrantedKey, policy: Policy, *, with_key: bool) -> _KeySpec:
    terms = widevine_terms(policy, *key.labels)
    return _KeySpec(
        track_type=key.label if key.label in DEFAULT_LABELS else None,  # Widevine knows these; the key id says the rest
        key_id=_text(key.kid),
        key=_text(key.clear.cek.reveal()) if with_key else None,
        security_level=terms.security_level,
        required_output_protection=_protection(terms),
    )


def _protection(terms: WidevineTerms) -> _Protection | None:
    demanded = _Protection(
        hdcp=terms.hdcp,
        cgms_flags=terms.cgms,
        disable_analog_output=terms.disable_analog_output,
        hdcp_srm_rule=terms.hdcp_srm_rule,
    )
    return None if demanded == _Protection() else demanded


def _overrides(policy: Policy) -> _Overrides:
    """Permissions are always said: what is absent means false there. Renewal is only used if `can_renew` is true."""
    renewal = (policy.renewal if policy.can_renew else None) or Renewal()
    return _Overrides(
        can_play=bool(policy.can_play),
        can_persist=bool(policy.can_persist),
        can_renew=bool(policy.can_renew),
        license_duration_seconds=policy.license_duration_s,
        rental_duration_seconds=policy.rental_duration_s,
        playback_duration_seconds=policy.playback_duration_s,
        renewal_server_url=renewal.server_url,
        renewal_delay_seconds=renewal.delay_s,
        renewal_retry_interval_seconds=renewal.retry_interval_s,
        renewal_recovery_duration_seconds=renewal.recovery_duration_s,
        renew_with_usage=renewal.with_usage,
    )


def _session(policy: Policy) -> _Session | None:
    if (session := policy.session_init) is None:
        return None
    return _Session(
        provider_session_token=_optional(session.provider_session_token),
        provider_client_token=_optional(session.provider_client_token),
        override_provider_client_token=session.override_provider_client_token,
    )


def _revocation(every: Sequence[WidevineTerms]) -> bool | None:
    """One switch for the whole license: on only if every track says so."""
    said = {terms.override_device_revocation for terms in every}
    return False if False in said else True if said == {True} else None


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _optional(value: bytes | None) -> str | None:
    return None if value is None else _text(value)
