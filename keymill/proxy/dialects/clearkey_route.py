"""`POST /clearkey/{organization}/{asset}?token=`: the dedicated endpoint, a ClearKey request as it is."""

from keymill.errors import InvalidRecord
from keymill.proxy.request import Answer, LicenseRequest, RawRequest, Reason, Refusal, Response
from keymill.proxy.responses import licensed, refused
from schemas import ids
from schemas.values import DrmSystem


def parse(raw: RawRequest) -> LicenseRequest | Refusal:
    """See `Dialect`. The Content-Type is not looked at: players send none."""
    try:
        organization = ids.check_organization(raw.path["organization"])
        asset = ids.check_asset(raw.path["asset"])
    except InvalidRecord as error:
        return Refusal(reason=Reason.MALFORMED, message=str(error))
    if not raw.body:
        return Refusal(reason=Reason.MISSING_CHALLENGE, message="the body must hold the player's license request")
    return LicenseRequest(
        token=raw.query.get("token", ""),
        challenge=raw.body,
        client=raw.client,
        drm_system=DrmSystem.CLEARKEY,
        organization=organization,
        asset=asset,
    )


def respond(outcome: Answer | Refusal) -> Response:
    """See `Dialect`."""
    return licensed(outcome) if isinstance(outcome, Answer) else refused(outcome)
