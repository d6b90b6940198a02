"""
`POST /playready|fairplay|clearkey/{organization}/{asset}?token=`: an endpoint per DRM system, the challenge as it is.

The Content-Type is not looked at: players send none, or any. Widevine's has a file of its own.
"""

from dataclasses import dataclass
from typing import Final

from keymill.drm.clearkey import ClearKeyLicense, ClearKeyMessage
from keymill.errors import InvalidRecord
from keymill.proxy.interface import ANY, JSON, OCTETS, Interface
from keymill.proxy.request import Answer, LicenseRequest, RawRequest, Reason, Refusal, Response
from keymill.proxy.responses import licensed, refused
from schemas import ids
from schemas.values import DrmSystem

_INTERFACES: Final = {
    DrmSystem.CLEARKEY: Interface(
        summary="A ClearKey license, of which the proxy is the license server",
        bodies={JSON: (ClearKeyMessage,)},
        licenses={JSON: (ClearKeyLicense,)},
    ),
    DrmSystem.PLAYREADY: Interface(
        summary="A PlayReady license for the player's challenge (SOAP)", bodies={"text/xml": ()}, licenses={ANY: ()}
    ),
    DrmSystem.FAIRPLAY: Interface(
        summary="A FairPlay license (CKC) for the player's challenge (SPC)", bodies={OCTETS: ()}, licenses={ANY: ()}
    ),
}


@dataclass(frozen=True, slots=True)
class Dedicated:
    """The endpoint of one DRM system."""

    drm_system: DrmSystem

    @property
    def interface(self) -> Interface:
        """See `Dialect`."""
        return _INTERFACES[self.drm_system]

    def parse(self, raw: RawRequest) -> LicenseRequest | Refusal:
        """See `Dialect`."""
        try:
            organization = ids.check_organization(raw.path["organization"])
            asset = ids.check_asset(raw.path["asset"])
            token = raw.token(self.interface.token)
        except InvalidRecord as error:
            return Refusal(reason=Reason.MALFORMED, message=str(error))
        if not raw.body:
            return Refusal(reason=Reason.MISSING_CHALLENGE, message="the body must hold the player's license request")
        return LicenseRequest(
            token=token,
            token_name=self.interface.token,
            challenge=raw.body,
            client=raw.client,
            drm_system=self.drm_system,
            organization=organization,
            asset=asset,
        )

    def respond(self, outcome: Answer | Refusal) -> Response:
        """See `Dialect`."""
        return licensed(outcome) if isinstance(outcome, Answer) else refused(outcome)
