"""What a license server is handed, and what it answers."""

from typing import Final, Protocol

from keymill.core.envelope import ClearKey
from keymill.proxy.auth import Claims
from keymill.proxy.request import Answer, Reason, Refusal
from schemas.policy import Policy
from schemas.records import AssetRecord
from schemas.values import DrmSystem, Record, Scheme


class Asked(Record, frozen=True, kw_only=True):
    """What a challenge tells: the KIDs it names, in its order (None where the proxy cannot see them)."""

    kids: tuple[bytes, ...] | None
    persistent: bool = False


OPAQUE: Final = Asked(kids=None)
"""What the proxy sees of a challenge that only its license server can read."""
PARSES_NOTHING: Final = Refusal(
    reason=Reason.MALFORMED, message="parse_only is a request to Widevine's license server, and none is configured here"
)


class GrantedKey(Record, frozen=True, kw_only=True):
    """
    One key that this caller may have.

    Args:
        label: of the highest track that it opens.
        labels: of every track that it opens: its terms are the strictest of them all.
    """

    kid: bytes
    label: str
    labels: tuple[str, ...]
    scheme: Scheme
    clear: ClearKey
    key_version: int


class Granted(Record, frozen=True, kw_only=True):
    """
    Everything a license is made of. `keys` is never empty.

    Args:
        upstream: the name of a service configuration's license server.
        policy: merged; `keymill.core.merging` gives the demands for a track.
        provider: the organization's name at Widevine's license server, unless the policy names another.
    """

    drm_system: DrmSystem
    claims: Claims
    asset: AssetRecord
    policy: Policy
    policy_version: int
    keys: tuple[GrantedKey, ...]
    challenge: bytes
    persistent: bool
    upstream: str | None = None
    parse_only: bool = False
    provider: str = ""


class Upstream(Protocol):
    """A license server."""

    def read(self, challenge: bytes) -> Asked | Refusal:
        """What the challenge asks for; pure."""
        ...

    async def license(self, granted: Granted) -> Answer | Refusal:
        """The license for these keys, unmodified."""
        ...

    async def certificate(self, challenge: bytes) -> Answer | Refusal:
        """The answer to a service-certificate request, which names no key: from the settings, or passed on."""
        ...


class Upstreams(Protocol):
    """The license servers of a worker."""

    def find(self, organization: str, drm_system: DrmSystem, name: str | None = None) -> Upstream | None:
        """
        The license server of an organization and DRM system; None when none is configured.

        Args:
            name: the one that a service configuration names, which must be the organization's, of that DRM system.
        """
        ...
