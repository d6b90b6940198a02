"""The small protocol that every key management service is spoken to through."""

from typing import Protocol

from keymill.secret import Secret
from schemas.values import Record


class RootActivation(Record, frozen=True, kw_only=True):
    """From *activates* (record timestamp, epoch ms) on, new key versions pin this root version."""

    root_version: int
    activates: int


class Kms(Protocol):
    """
    Roots that never leave, and the KEKs that a program may hold in memory.

    Every method raises `UnknownKey` for an organization, version or epoch that does not exist, and `Unavailable`
    when the service does not answer.
    """

    def hmac(self, organization: str, root_version: int, message: bytes) -> Secret:
        """HMAC-SHA-256 of *message* under the organization's root of that version, 32 bytes."""
        ...

    def kek(self, organization: str, epoch: int) -> Secret:
        """The KEK of an epoch, 64 bytes, for wrapping in process: a KMS call per record would be too slow."""
        ...

    def epochs(self, organization: str) -> tuple[int, ...]:
        """The KEK epochs that may still be met, ascending; the last one wraps."""
        ...

    def schedule(self, organization: str) -> tuple[RootActivation, ...]:
        """The append-only schedule of root versions, ascending; the first holds from the beginning."""
        ...

    def intake_kek(self, epoch: int | None = None) -> tuple[int, Secret]:
        """(epoch, KEK) under which imported keys travel in events; the newest if no epoch is named."""
        ...

    def organizations(self) -> tuple[str, ...]:
        """Every organization that has keys."""
        ...
