"""
`POST /license?drm=&asset=&token=`: one endpoint for every DRM system. The organization is the token's.

The body is as on the endpoint of that DRM system.
"""

from typing import Final

from keymill.core.formats.azure_document import Document
from keymill.drm.clearkey import ClearKeyMessage
from keymill.errors import InvalidRecord
from keymill.proxy.interface import ANY, JSON, OCTETS, Interface, Parameter
from keymill.proxy.message import read_widevine
from keymill.proxy.request import Answer, LicenseRequest, RawRequest, Reason, Refusal, Response
from keymill.proxy.responses import licensed, refused
from schemas import ids
from schemas.values import DrmSystem

interface: Final = Interface(
    summary="A license of any DRM system",
    description="The organization is the token's, the body as on the endpoint of that DRM system.",
    parameters=(
        Parameter(name="drm", description="the DRM system", values=tuple(DrmSystem), required=True),
        Parameter(name="asset", description="the asset's id", pattern=ids.NAME.pattern, required=True),
    ),
    bodies={OCTETS: (), "text/xml": (), JSON: (Document, ClearKeyMessage)},
    licenses={ANY: ()},
)


def parse(raw: RawRequest) -> LicenseRequest | Refusal:
    """See `Dialect`."""
    try:
        drm_system = _system(raw.query.get("drm", ""))
        asset = ids.check_asset(raw.query.get("asset", ""))
        token = raw.token(interface.token)
        challenge, message = read_widevine(raw) if drm_system is DrmSystem.WIDEVINE else (raw.body, None)
    except InvalidRecord as error:
        return Refusal(reason=Reason.MALFORMED, message=str(error))
    if not challenge:
        return Refusal(reason=Reason.MISSING_CHALLENGE, message="the body must hold the player's license request")
    return LicenseRequest(
        token=token,
        token_name=interface.token,
        challenge=challenge,
        client=raw.client,
        drm_system=drm_system,
        asset=asset,
        message=message,
    )


def respond(outcome: Answer | Refusal) -> Response:
    """See `Dialect`."""
    return licensed(outcome) if isinstance(outcome, Answer) else refused(outcome)


def _system(name: str) -> DrmSystem:
    try:
        return DrmSystem(name)
    except ValueError:
        raise InvalidRecord(f"drm must be one of {', '.join(DrmSystem)}", field="drm") from None
