"""
`POST /api/v1/{organization}/assets/{asset}/drm_license[/]?access_token=`: TPStreams.

The body is the raw challenge, or with `application/json` a JSON object whose `player_payload` is the challenge in
base64, standard or URL-safe. With drm_type=clearkey a JSON object without that member is the raw challenge whatever
its Content-Type, since ClearKey challenges are JSON themselves.
"""

import base64
import binascii
from typing import Final

import msgspec

from keymill.errors import InvalidRecord
from keymill.proxy.request import Answer, LicenseRequest, RawRequest, Reason, Refusal, Response
from keymill.proxy.responses import licensed, refused
from schemas import ids
from schemas.values import DrmSystem

CONTENT_TYPE: Final = b"application/octet-stream"
_JSON: Final = "application/json"
_TO_STANDARD: Final = str.maketrans("-_", "+/")


class _Customised(msgspec.Struct, frozen=True):
    player_payload: str | None = None
    drm_type: str | None = None


_customised: Final = msgspec.json.Decoder(_Customised)


def parse(raw: RawRequest) -> LicenseRequest | Refusal:
    """See `Dialect`."""
    try:
        organization = ids.check_organization(raw.path["organization"])
        asset = ids.check_asset(raw.path["asset"])
        drm_system, challenge = _read_body(raw)
    except InvalidRecord as error:
        return Refusal(reason=Reason.MALFORMED, message=str(error))
    if not challenge:
        return Refusal(reason=Reason.MISSING_CHALLENGE, message="the body must hold the player's key message")
    return LicenseRequest(
        token=raw.query.get("access_token", ""),
        challenge=challenge,
        client=raw.client,
        drm_system=drm_system,
        organization=organization,
        asset=asset,
    )


def respond(outcome: Answer | Refusal) -> Response:
    """See `Dialect`. A license is octets whatever its DRM system."""
    if isinstance(outcome, Refusal):
        return refused(outcome)
    return licensed(outcome, CONTENT_TYPE)


def _read_body(raw: RawRequest) -> tuple[DrmSystem, bytes]:
    asked = raw.query.get("drm_type", "")
    if raw.content_type.partition(";")[0].strip().lower() != _JSON or not raw.body:
        return _system(asked), raw.body
    try:
        form = _customised.decode(raw.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRecord(f"the body is no license request in JSON: {error}", field="body") from None
    if asked and form.drm_type and asked != form.drm_type:
        raise InvalidRecord("drm_type differs between query and body", field="drm_type")
    system = _system(asked or form.drm_type or "")
    if form.player_payload is not None:
        return system, _payload(form.player_payload)
    if system is DrmSystem.CLEARKEY:
        return system, raw.body
    raise InvalidRecord("player_payload must hold the player's key message in base64", field="player_payload")


def _system(name: str) -> DrmSystem:
    try:
        return DrmSystem(name) if name else DrmSystem.WIDEVINE
    except ValueError:
        known = ", ".join(system.value for system in DrmSystem)
        raise InvalidRecord(f"drm_type must be one of {known}", field="drm_type") from None


def _payload(text: str) -> bytes:
    digits = text.translate(_TO_STANDARD).rstrip("=")
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRecord("player_payload is not base64", field="player_payload") from None
