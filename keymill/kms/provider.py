"""The small protocol that every key management service is spoken to through."""

from enum import StrEnum
from typing import Protocol

from keymill.secret import Secret
from schemas.values import Record


class RootActivation(Record, frozen=True, kw_only=True):
    """From *activates* (record timestamp, epoch ms) on, new key versions pin this root version."""

    root_version: int
    activates: int


class KekState(StrEnum):
    """
    How far a KEK epoch has come; it only ever goes on.

    An announced one is handed out and wraps nothing yet, an active one may wrap, a retired one opens what is old and is
    no longer handed to proxies.
    """

    RETIRED = "retired"
    ACTIVE = "active"
    ANNOUNCED = "announced"


class KekEpoch(Record, frozen=True, kw_only=True):
    """One KEK epoch of an organization."""

    epoch: int
    state: KekState


class Kms(Protocol):
    """
    Roots that never leave, and the KEKs that a program may hold in memory.

    Every method raises `UnknownKey` for an organization, version or epoch that does not exist, and `Unavailable`
    when the service does not answer.
    """

    def hmac(self, organization: str, root_version: int, message: bytes) -> Secret:
        """HMAC-SHA-256 of *message* under the organization's root of that version, 32 bytes."""
        ...

    def installation_hmac(self, message: bytes) -> Secret:
        """HMAC-SHA-256 of *message* under the installation's own key, 32 bytes: for records about no organization."""
        ...

    def kek(self, organization: str, epoch: int) -> Secret:
        """The KEK of an epoch, retired ones too, 64 bytes, for use in process: a KMS call per record is too slow."""
        ...

    def epochs(self, organization: str) -> tuple[KekEpoch, ...]:
        """Every KEK epoch, ascending; the highest active one wraps, and there always is one."""
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
