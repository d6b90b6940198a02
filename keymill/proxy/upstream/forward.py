"""A license server that knows keys and policies itself: it gets the challenge as it is."""

from keymill.proxy.request import Answer, Reason, Refusal
from keymill.proxy.upstream.challenges import CHALLENGE_HEADERS
from keymill.proxy.upstream.contract import OPAQUE, PARSES_NOTHING, Asked, Granted
from keymill.proxy.upstream.http import Server
from keymill.proxy.upstream.outcomes import Reply
from keymill.upstream_settings import ForwardUpstream
from schemas.values import DrmSystem


class Forward:
    """An `Upstream` of the kind `forward`. Only whether there is a license is decided here, not what it allows."""

    def __init__(self, server: Server, settings: ForwardUpstream, certificate: Answer | None) -> None:
        self._server = server
        self._system = settings.drm_system
        given = {name: value.get_secret_value() for name, value in settings.headers.items()}
        named = {name.lower() for name in given}
        usual = CHALLENGE_HEADERS[settings.drm_system]
        self._headers = {name: value for name, value in usual.items() if name.lower() not in named} | given
        self._certificate = certificate

    def read(self, challenge: bytes) -> Asked | Refusal:
        """See `Upstream`: the challenge is encrypted."""
        return OPAQUE

    async def license(self, granted: Granted) -> Answer | Refusal:
        """See `Upstream`."""
        if granted.parse_only:
            return PARSES_NOTHING
        return passed(await self._server.post(granted.challenge, self._headers))

    async def certificate(self, challenge: bytes) -> Answer | Refusal:
        """See `Upstream`."""
        if self._certificate is not None:
            return self._certificate
        if self._system is not DrmSystem.WIDEVINE:
            return Refusal(reason=Reason.MALFORMED, message=f"{self._system.value} has no service certificate request")
        return passed(await self._server.post(challenge, self._headers))


def passed(reply: Reply | Refusal) -> Answer | Refusal:
    """Body and Content-Type of an answer as they came; no other header of it goes on."""
    return reply if isinstance(reply, Refusal) else Answer(body=reply.body, content_type=reply.content_type)
