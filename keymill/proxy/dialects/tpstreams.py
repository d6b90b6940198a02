"""
`POST /api/v1/{organization}/assets/{asset}/drm_license[/]?access_token=`: TPStreams.

The body is the raw challenge, or with `application/json` the customised form: `player_payload` is the challenge in
base64, standard or URL-safe, `widevine.content_key_specs` says what is demanded per track type (`license_specs`, as the
document's prose says, is another name of `widevine`), `drm_type` may stand there instead of the query. A member that
the form does not have is refused. With drm_type=clearkey a JSON object without `player_payload` is the raw challenge
whatever its Content-Type, since ClearKey challenges are JSON themselves.
"""

import base64
import binascii
from typing import Final, TypeVar

import msgspec

from keymill.core.formats.azure_document import Document, KeySpec
from keymill.core.formats.azure_policy import policy_of
from keymill.core.formats.azure_widevine import WidevineMessage
from keymill.drm.clearkey import ClearKeyMessage
from keymill.errors import InvalidRecord
from keymill.proxy.interface import JSON, OCTETS, Interface, Parameter
from keymill.proxy.message import is_json
from keymill.proxy.request import Answer, LicenseRequest, RawRequest, Reason, Refusal, Response
from keymill.proxy.responses import licensed, refused
from schemas import ids
from schemas.values import DrmSystem

CONTENT_TYPE: Final = OCTETS.encode()
_Read = TypeVar("_Read")
_TO_STANDARD: Final = str.maketrans("-_", "+/")


class WidevineSpecs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is demanded of Widevine, per track type."""

    content_key_specs: tuple[KeySpec, ...] | None = None


class _Outline(msgspec.Struct, frozen=True):
    """As much of a JSON body as tells whether it is the customised form."""

    player_payload: str | None = None
    drm_type: str | None = None


class CustomisedForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The challenge in base64, and what is demanded; `license_specs` is another name of `widevine`."""

    player_payload: str
    drm_type: str | None = None
    widevine: WidevineSpecs | None = None
    license_specs: WidevineSpecs | None = None


_outline: Final = msgspec.json.Decoder(_Outline)
_form: Final = msgspec.json.Decoder(CustomisedForm)
interface: Final = Interface(
    summary="A license as TPStreams asks for it",
    description="The body is the challenge, but with application/json the customised form; ClearKey's challenge is "
    "JSON itself.",
    token="access_token",  # noqa: S106 a name
    parameters=(Parameter(name="drm_type", description="the DRM system; widevine if absent", values=tuple(DrmSystem)),),
    bodies={OCTETS: (), JSON: (CustomisedForm, ClearKeyMessage)},
    licenses={OCTETS: ()},
)


def parse(raw: RawRequest) -> LicenseRequest | Refusal:
    """See `Dialect`."""
    try:
        organization = ids.check_organization(raw.path["organization"])
        asset = ids.check_asset(raw.path["asset"])
        token = raw.token(interface.token)
        drm_system, challenge, message = _read_body(raw)
    except InvalidRecord as error:
        return Refusal(reason=Reason.MALFORMED, message=str(error))
    if not challenge:
        return Refusal(reason=Reason.MISSING_CHALLENGE, message="the body must hold the player's key message")
    return LicenseRequest(
        token=token,
        token_name=interface.token,
        challenge=challenge,
        client=raw.client,
        drm_system=drm_system,
        organization=organization,
        asset=asset,
        message=message,
    )


def respond(outcome: Answer | Refusal) -> Response:
    """See `Dialect`. A license is octets whatever its DRM system."""
    if isinstance(outcome, Refusal):
        return refused(outcome)
    return licensed(outcome, CONTENT_TYPE)


def _read_body(raw: RawRequest) -> tuple[DrmSystem, bytes, WidevineMessage | None]:
    asked = raw.query.get("drm_type", "")
    if not raw.body or not is_json(raw.content_type):
        return _system(asked), raw.body, None
    outline = _decode(_outline, raw.body)
    if asked and outline.drm_type and asked != outline.drm_type:
        raise InvalidRecord("drm_type differs between query and body", field="drm_type")
    system = _system(asked or outline.drm_type or "")
    if outline.player_payload is not None:
        form = _decode(_form, raw.body)
        return system, _payload(form.player_payload), _message(form)
    if system is DrmSystem.CLEARKEY:
        return system, raw.body, None
    raise InvalidRecord("player_payload must hold the player's key message in base64", field="player_payload")


def _decode(decoder: msgspec.json.Decoder[_Read], body: bytes) -> _Read:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRecord(f"the body is no license request in JSON: {error}", field="body") from None


def _message(form: CustomisedForm) -> WidevineMessage | None:
    if form.widevine is not None and form.license_specs is not None:
        raise InvalidRecord("license_specs is another name of widevine: drop one of them", field="license_specs")
    said = form.widevine or form.license_specs
    if said is None or said.content_key_specs is None:
        return None
    for spec in said.content_key_specs:
        if {"key", "key_id"} & spec.said().keys() or "track_type" not in spec.said():
            text = "content_key_specs names each track by its track_type, and brings no key"
            raise InvalidRecord(text, field="content_key_specs")
    return WidevineMessage(payload=None, policy=policy_of(Document(content_key_specs=said.content_key_specs)))


def _system(name: str) -> DrmSystem:
    try:
        return DrmSystem(name) if name else DrmSystem.WIDEVINE
    except ValueError:
        raise InvalidRecord(f"drm_type must be one of {', '.join(DrmSystem)}", field="drm_type") from None


def _payload(text: str) -> bytes:
    digits = text.translate(_TO_STANDARD).rstrip("=")
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRecord("player_payload is not base64", field="player_payload") from None
