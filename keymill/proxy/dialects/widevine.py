"""
`POST /widevine/{organization}/{asset}?token=`: Widevine's endpoint.

The body is the challenge, whatever its Content-Type, but with `application/json` the whole message of Azure Media
Services' license template, whose `payload` is the challenge.
"""

from typing import Final

from keymill.core.formats.azure_document import Document
from keymill.errors import InvalidRecord
from keymill.proxy.interface import ANY, JSON, OCTETS, Interface
from keymill.proxy.message import read_widevine
from keymill.proxy.request import Answer, LicenseRequest, RawRequest, Reason, Refusal, Response
from keymill.proxy.responses import licensed, refused
from schemas import ids
from schemas.values import DrmSystem

interface: Final = Interface(
    summary="A Widevine license, or the license server's certificate",
    description="The body is the challenge, whatever its Content-Type, but with application/json the message of Azure "
    "Media Services' license template around it; with parse_only the answer is JSON, and no license.",
    bodies={OCTETS: (), JSON: (Document,)},
    licenses={ANY: ()},
)


def parse(raw: RawRequest) -> LicenseRequest | Refusal:
    """See `Dialect`."""
    try:
        organization = ids.check_organization(raw.path["organization"])
        asset = ids.check_asset(raw.path["asset"])
        token = raw.token(interface.token)
        challenge, message = read_widevine(raw)
    except InvalidRecord as error:
        return Refusal(reason=Reason.MALFORMED, message=str(error))
    if not challenge:
        return Refusal(reason=Reason.MISSING_CHALLENGE, message="the body must hold the player's license request")
    return LicenseRequest(
        token=token,
        token_name=interface.token,
        challenge=challenge,
        client=raw.client,
        drm_system=DrmSystem.WIDEVINE,
        organization=organization,
        asset=asset,
        message=message,
    )


def respond(outcome: Answer | Refusal) -> Response:
    """See `Dialect`."""
    return licensed(outcome) if isinstance(outcome, Answer) else refused(outcome)
