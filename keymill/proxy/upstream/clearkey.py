"""ClearKey: the proxy is the license server, W3C EME's JWK set is the license."""

from keymill.drm import clearkey
from keymill.errors import InvalidRecord
from keymill.proxy.request import Answer, Reason, Refusal
from keymill.proxy.upstream.contract import Asked, Granted


class ClearKey:
    """An `Upstream` that asks nobody."""

    def read(self, challenge: bytes) -> Asked | Refusal:
        """See `Upstream`."""
        try:
            request = clearkey.parse_request(challenge)
        except InvalidRecord as error:
            return Refusal(reason=Reason.MALFORMED, message=str(error))
        return Asked(kids=request.kids, persistent=request.session_type is clearkey.SessionType.PERSISTENT)

    async def license(self, granted: Granted) -> Answer | Refusal:
        """See `Upstream`."""
        asked = clearkey.SessionType.PERSISTENT if granted.persistent else clearkey.SessionType.TEMPORARY
        body = clearkey.license_of(((key.kid, key.clear.cek) for key in granted.keys), asked)
        return Answer(body=body, content_type=clearkey.CONTENT_TYPE)

    async def certificate(self, challenge: bytes) -> Answer | Refusal:
        """See `Upstream`: ClearKey has no service certificate."""
        return Refusal(reason=Reason.MALFORMED, message="ClearKey has no service certificate")
