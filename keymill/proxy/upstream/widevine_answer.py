"""
What Widevine's GetLicense call answers, and what a player gets of it. Pure.

An answer holds more than the license: `session_state` has a signing key. Of a license's answer the license alone goes
on; of a parse-only answer what the server read in the challenge, member by member of a list.

Source: alfg/widevine on GitHub (the members of an answer).
"""

import binascii
import re
from typing import Any, Final

import msgspec

from keymill.proxy.request import Answer, Reason, Refusal

OCTETS: Final = "application/octet-stream"
JSON: Final = "application/json"
OK: Final = "OK"
_STATUS: Final = re.compile(r"[A-Z][A-Z_]{0,63}")
_UNREADABLE: Final = frozenset({"INVALID_LICENSE_CHALLENGE", "INVALID_PSSH"})
_OURS: Final = frozenset(
    {"SIGNATURE_FAILED", "INTERNAL_ERROR", "INVALID_ARGUMENT", "PROVIDER_ID_MISSING", "PROVIDER_ID_UNKNOWN",
     "CONTENT_ID_MISSING", "TRACK_TYPE_MISSING", "TRACK_TYPE_UNKNOWN", "POLICY_UNKNOWN"}
)  # fmt: skip
"""Statuses that no player can cause: signer, provider, policy name, or the server itself."""
_PARSED: Final = (
    "status", "license_metadata", "supported_tracks", "make", "model", "platform", "security_level", "internal_status",
    "message_type", "device_state", "device_whitelist_state", "drm_cert_serial_number", "client_max_hdcp_version",
    "platform_verification_status", "pssh_data", "client_info",
)  # fmt: skip
"""What a parse-only answer shows: what the server read in the challenge, and nothing that it made."""
_WITHHELD: Final = frozenset({"key", "keys", "signing_key", "session_state", "license"})


class _Response(msgspec.Struct):
    status: str
    license: str | None = None


def license_in(body: bytes) -> Answer | Refusal:
    """The license in an answer, byte for byte as the server made it."""
    try:
        response = msgspec.json.decode(body, type=_Response)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _bad("is no JSON object with a status")
    if response.status != OK:
        return _refusal(response.status)
    try:
        made = binascii.a2b_base64(response.license or "", strict_mode=True)
    except (binascii.Error, ValueError):
        return _bad("has a license that is not base64")
    return Answer(body=made, content_type=OCTETS) if made else _bad("has no license")


def parsed_in(body: bytes) -> Answer | Refusal:
    """What a parse-only answer tells of the challenge, as JSON."""
    try:
        members = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _bad("is no JSON object")
    status = members.get("status")
    if status != OK:
        return _refusal(status if isinstance(status, str) else "")
    shown = {name: _without_secrets(members[name]) for name in _PARSED if name in members}
    return Answer(body=msgspec.json.encode(shown), content_type=JSON)


def _refusal(status: str) -> Refusal:
    shown = status if _STATUS.fullmatch(status) else "an unknown status"
    if status in _UNREADABLE:
        return Refusal(reason=Reason.MALFORMED, message=f"the license server cannot read the challenge ({shown})")
    if status in _OURS or shown != status:
        return Refusal(reason=Reason.UPSTREAM_FAILED, message=f"the license server made no license ({shown})")
    return Refusal(reason=Reason.UPSTREAM_REFUSED, message=f"the license server refuses a license ({shown})")


def _bad(what: str) -> Refusal:
    return Refusal(reason=Reason.UPSTREAM_FAILED, message=f"the license server's answer {what}")


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_secrets(within) for name, within in value.items() if name not in _WITHHELD}
    return [_without_secrets(each) for each in value] if isinstance(value, list) else value
