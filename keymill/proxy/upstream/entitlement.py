"""A license service as Axinom's: it gets the challenge as it is, and a signed message beside it."""

import base64
from collections.abc import Callable
from typing import Final

from keymill.proxy.request import Answer, Reason, Refusal
from keymill.proxy.upstream import entitlement_message
from keymill.proxy.upstream.challenges import CHALLENGE_HEADERS
from keymill.proxy.upstream.contract import OPAQUE, PARSES_NOTHING, Asked, Granted
from keymill.proxy.upstream.entitlement_terms import unsayable
from keymill.proxy.upstream.forward import passed
from keymill.proxy.upstream.http import Server
from keymill.secret import Secret
from keymill.upstream_settings import EntitlementUpstream
from schemas.values import DrmSystem

MESSAGE_HEADER: Final = "X-AxDRM-Message"


class Entitlement:
    """An `Upstream` of the kind `entitlement`."""

    def __init__(
        self, server: Server, settings: EntitlementUpstream, certificate: Answer | None, now_ms: Callable[[], int]
    ) -> None:
        self._server = server
        self._system = settings.drm_system
        self._key = Secret(base64.b64decode(settings.communication_key.get_secret_value()))
        self._key_id = settings.communication_key_id
        self._lifetime_ms = settings.message_lifetime_s * 1000
        self._certificate = certificate
        self._now_ms = now_ms

    def read(self, challenge: bytes) -> Asked | Refusal:
        """See `Upstream`: the challenge is encrypted, or its signature would break."""
        return OPAQUE

    async def license(self, granted: Granted) -> Answer | Refusal:
        """See `Upstream`."""
        if granted.parse_only:
            return PARSES_NOTHING
        demand = unsayable(granted.policy, self._system, [label for key in granted.keys for label in key.labels])
        if demand:
            message = f"the policy demands {demand}, which this license server cannot be told"
            return Refusal(reason=Reason.POLICY_UNENFORCEABLE, message=message)
        signed = entitlement_message.license_message(
            granted, key=self._key, key_id=self._key_id, expires_ms=self._now_ms() + self._lifetime_ms
        )
        return await self._post(granted.challenge, signed)

    async def certificate(self, challenge: bytes) -> Answer | Refusal:
        """See `Upstream`."""
        if self._certificate is not None:
            return self._certificate
        if self._system is not DrmSystem.WIDEVINE:
            return Refusal(reason=Reason.MALFORMED, message=f"{self._system.value} has no service certificate request")
        expires_ms = self._now_ms() + self._lifetime_ms
        signed = entitlement_message.certificate_message(key=self._key, key_id=self._key_id, expires_ms=expires_ms)
        return await self._post(challenge, signed)

    async def _post(self, challenge: bytes, message: str) -> Answer | Refusal:
        headers = {**CHALLENGE_HEADERS[self._system], MESSAGE_HEADER: message}
        return passed(await self._server.post(challenge, headers))
