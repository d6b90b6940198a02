"""
`GET /hls/{organization}/{asset}/{kid}?token=`: the key of clear-key HLS, as the URI of an EXT-X-KEY tag.

The KID stands in any spelling of a UUID. Only the key of an HLS_AES128 track is ever given.
"""

import uuid
from typing import Final

from keymill.errors import InvalidRecord
from keymill.proxy.interface import OCTETS, Interface
from keymill.proxy.request import Answer, LicenseRequest, RawRequest, Reason, Refusal, Response
from keymill.proxy.responses import licensed, refused
from schemas import ids
from schemas.values import DrmSystem

interface: Final = Interface(summary="The key of clear-key HLS, 16 bytes", licenses={OCTETS: ()})


def parse(raw: RawRequest) -> LicenseRequest | Refusal:
    """See `Dialect`. A body is not looked at."""
    try:
        organization = ids.check_organization(raw.path["organization"])
        asset = ids.check_asset(raw.path["asset"])
        token = raw.token(interface.token)
        kid = uuid.UUID(raw.path["kid"]).bytes
    except InvalidRecord as error:
        return Refusal(reason=Reason.MALFORMED, message=str(error))
    except ValueError:
        return Refusal(reason=Reason.MALFORMED, message="the KID must be a UUID")
    return LicenseRequest(
        token=token,
        token_name=interface.token,
        challenge=kid,
        client=raw.client,
        drm_system=DrmSystem.CLEARKEY,
        organization=organization,
        asset=asset,
        hls=True,
    )


def respond(outcome: Answer | Refusal) -> Response:
    """See `Dialect`."""
    return licensed(outcome) if isinstance(outcome, Answer) else refused(outcome)
