"""What a license server is handed, and what it answers."""

from typing import Protocol

from keymill.core.envelope import ClearKey
from keymill.proxy.auth import Claims
from keymill.proxy.request import Answer, Refusal
from schemas.policy import Policy
from schemas.records import AssetRecord
from schemas.values import DrmSystem, Record, Scheme


class Asked(Record, frozen=True, kw_only=True):
    """What a challenge tells: the KIDs it names, in its order (None where the proxy cannot see them)."""

    kids: tuple[bytes, ...] | None
    persistent: bool = False


class GrantedKey(Record, frozen=True, kw_only=True):
    """One key that this caller may have."""

    kid: bytes
    label: str
    scheme: Scheme
    clear: ClearKey


class Granted(Record, frozen=True, kw_only=True):
    """Everything a license is made of. `keys` is never empty."""

    drm_system: DrmSystem
    claims: Claims
    asset: AssetRecord
    policy: Policy
    policy_version: int
    keys: tuple[GrantedKey, ...]
    challenge: bytes
    persistent: bool


class Upstream(Protocol):
    """A license server."""

    def read(self, challenge: bytes) -> Asked | Refusal:
        """What the challenge asks for; pure."""
        ...

    async def license(self, granted: Granted) -> Answer | Refusal:
        """The license for these keys, unmodified."""
        ...
