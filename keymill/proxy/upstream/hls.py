"""Clear-key HLS: the key itself is what the player gets, 16 bytes as RFC 8216 (4.3.2.4) has them."""

from typing import Final

from keymill.proxy.request import Answer, Reason, Refusal
from keymill.proxy.upstream.contract import Asked, Granted

CONTENT_TYPE: Final = "application/octet-stream"


class ClearHls:
    """An `Upstream` that asks nobody. Its challenge is the KID."""

    def read(self, challenge: bytes) -> Asked | Refusal:
        """See `Upstream`."""
        return Asked(kids=(challenge,))

    async def license(self, granted: Granted) -> Answer | Refusal:
        """See `Upstream`."""
        (key,) = granted.keys
        return Answer(body=key.clear.cek.reveal(), content_type=CONTENT_TYPE)

    async def certificate(self, challenge: bytes) -> Answer | Refusal:
        """See `Upstream`: there is none."""
        return Refusal(reason=Reason.MALFORMED, message="clear-key HLS has no service certificate")
