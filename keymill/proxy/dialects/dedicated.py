"""
`POST /playready|fairplay|clearkey/{organization}/{asset}?token=`: an endpoint per DRM system, the challenge as it is.

The Content-Type is not looked at: players send none, or any. Widevine's has a file of its own.
"""

from dataclasses import dataclass

from keymill.errors import InvalidRecord
from keymill.proxy.request import Answer, LicenseRequest, RawRequest, Reason, Refusal, Response
from keymill.proxy.responses import licensed, refused
from schemas import ids
from schemas.values import DrmSystem


@dataclass(frozen=True, slots=True)
class Dedicated:
    """The endpoint of one DRM system."""

    drm_system: DrmSystem

    def parse(self, raw: RawRequest) -> LicenseRequest | Refusal:
        """See `Dialect`."""
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
            drm_system=self.drm_system,
            organization=organization,
            asset=asset,
        )

    def respond(self, outcome: Answer | Refusal) -> Response:
        """See `Dialect`."""
        return licensed(outcome) if isinstance(outcome, Answer) else refused(outcome)
