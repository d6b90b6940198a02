"""Widevine's license server: keys and policy go into a signed message, the license comes back in another."""

from typing import Final

from keymill.proxy.request import Answer, Refusal
from keymill.proxy.upstream import widevine_answer, widevine_message
from keymill.proxy.upstream.contract import OPAQUE, Asked, Granted
from keymill.proxy.upstream.http import Server
from keymill.secret import Secret
from keymill.upstream_settings import WidevineUpstream

_HEADERS: Final = {"Content-Type": "application/json", "Accept": "application/json"}


class Widevine:
    """An `Upstream` of the kind `widevine`."""

    def __init__(self, server: Server, settings: WidevineUpstream, certificate: Answer | None) -> None:
        self._server = server
        self._signer = settings.signer
        self._key = Secret(bytes.fromhex(settings.key_hex.get_secret_value()))
        self._iv = Secret(bytes.fromhex(settings.iv_hex.get_secret_value()))
        self._certificate = certificate

    def read(self, challenge: bytes) -> Asked | Refusal:
        """See `Upstream`: the challenge is encrypted."""
        return OPAQUE

    async def license(self, granted: Granted) -> Answer | Refusal:
        """See `Upstream`."""
        reply = await self._post(widevine_message.license_message(granted))
        if isinstance(reply, Refusal):
            return reply
        return widevine_answer.parsed_in(reply) if granted.parse_only else widevine_answer.license_in(reply)

    async def certificate(self, challenge: bytes) -> Answer | Refusal:
        """See `Upstream`."""
        if self._certificate is not None:
            return self._certificate
        reply = await self._post(widevine_message.certificate_message(challenge))
        return reply if isinstance(reply, Refusal) else widevine_answer.license_in(reply)

    async def _post(self, message: bytes) -> bytes | Refusal:
        body = widevine_message.signed(message, signer=self._signer, key=self._key, iv=self._iv)
        reply = await self._server.post(body, _HEADERS)
        return reply if isinstance(reply, Refusal) else reply.body
