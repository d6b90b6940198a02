"""What the processors write down: asset, key and policy records, claims, dead letters.

The `.avsc` files beside this module are the contract; field names and order are theirs.
"""

from enum import StrEnum

from schemas.policy import Policy
from schemas.values import FINGERPRINT_SIZE, HASH_SIZE, KID_SIZE, LogPosition, Record, Scheme, check_least, check_size


class AssetState(StrEnum):
    """Whether licenses may be given for an asset."""

    ACTIVE = "ACTIVE"
    REVOKED = "REVOKED"


class PolicyState(StrEnum):
    """Whether a policy takes new assignments."""

    READY = "READY"
    DELETED = "DELETED"


class KeyOrigin(StrEnum):
    """Where a CEK comes from."""

    DERIVED = "DERIVED"
    CHOSEN = "CHOSEN"
    IMPORTED = "IMPORTED"


class TrackIdentity(Record, frozen=True, kw_only=True):
    """A track of a key version; `declared` is False when its first event named no tracks, so that it was defaulted."""

    label: str
    scheme: Scheme
    declared: bool
    kid: bytes | None = None


class KeySet(Record, frozen=True, kw_only=True):
    """The tracks that one event brought: one key record, named by `digest`."""

    digest: bytes
    at: LogPosition
    tracks: tuple[TrackIdentity, ...]


class PeriodSpan(Record, frozen=True, kw_only=True):
    """Indexes of crypto periods, both ends included."""

    from_index: int
    through_index: int


class LivePeriods(Record, frozen=True, kw_only=True):
    """
    Crypto periods of a version, each with a key record of its own.

    [from_index, through_index] spans what was asked for lately, `earlier` what was asked for before the content's
    clock jumped: disjoint spans, the last one left last. A period inside a span that no event asked for is derived
    all the same, and published when one does or by a repair.
    """

    period_s: int
    start: int | None = None
    from_index: int
    through_index: int
    at: LogPosition
    tracks: tuple[TrackIdentity, ...]
    earlier: tuple[PeriodSpan, ...] = ()


class KeyVersion(Record, frozen=True, kw_only=True):
    """One key version with the choices that its first event made."""

    key_version: int
    root_version: int
    salt: bytes | None = None
    single_key: bool
    schemes: tuple[Scheme, ...]
    created: LogPosition
    key_sets: tuple[KeySet, ...] = ()
    live: LivePeriods | None = None


class AcceptedEvent(Record, frozen=True, kw_only=True):
    """An idempotency id that was accepted, with the hash of its request."""

    event_id: str
    request_hash: bytes
    at: LogPosition
    timestamp: int


class AssetRecord(Record, frozen=True, kw_only=True):
    """The fold of an asset's events; `versions` ascending, `recent` newest last."""

    organization: str
    asset: str
    state: AssetState
    applied: LogPosition
    policy_id: int
    product_id: str | None = None
    available_from: int | None = None
    available_until: int | None = None
    versions: tuple[KeyVersion, ...]
    recent: tuple[AcceptedEvent, ...] = ()


class TrackKey(Record, frozen=True, kw_only=True):
    """One track's key, without the key."""

    kid: bytes
    fp: bytes
    label: str
    scheme: Scheme
    origin: KeyOrigin

    def __post_init__(self) -> None:
        if len(self.kid) != KID_SIZE or len(self.fp) != FINGERPRINT_SIZE:  # one look: there are many
            check_size(self.kid, KID_SIZE, "tracks.kid")
            check_size(self.fp, FINGERPRINT_SIZE, "tracks.fp")


class CryptoPeriod(Record, frozen=True, kw_only=True):
    """One crypto period, [start, end) in epoch ms where the content has a clock."""

    index: int
    start: int | None = None
    end: int | None = None


class KeyRecord(Record, frozen=True, kw_only=True):
    """Wrapped keys of the tracks that one event brought, in its order. Write-once but for a higher KEK epoch."""

    kek_epoch: int
    tracks: tuple[TrackKey, ...]
    wrapped: bytes
    organization: str
    asset: str
    key_version: int
    root_version: int
    period: CryptoPeriod | None = None
    event: LogPosition


class Claim(Record, frozen=True, kw_only=True):
    """
    Who asks for a KID that the caller chose or brought. The lowest offset wins, until its claim is released.

    A release is a claim of nobody: `asset` is empty, all else is the claim's that it ends (`keymill.core.claim_log`).
    """

    organization: str
    kid: bytes
    asset: str
    key_version: int
    label: str
    scheme: Scheme
    root_version: int
    fp: bytes | None = None
    event: LogPosition


class AcceptedRequest(Record, frozen=True, kw_only=True):
    """An idempotency id of a policy change that was accepted, with the hash of its request."""

    request_id: str
    request_hash: bytes | None = None

    def __post_init__(self) -> None:
        check_size(self.request_hash, HASH_SIZE, "request_hash")


class PolicyRecord(Record, frozen=True, kw_only=True):
    """A policy as it now is; `version` only goes up."""

    organization: str
    policy_id: int
    version: int
    state: PolicyState
    name: str
    policy: Policy
    applied: LogPosition
    created_by: AcceptedRequest | None = None
    changed_by: AcceptedRequest | None = None
    created: int
    changed: int


class DeadLetter(Record, frozen=True, kw_only=True):
    """An event that was refused: where it stood, why, and a hash of it. Never its content."""

    topic: str
    partition: int
    generation: int
    offset: int
    timestamp: int
    reason: str
    field: str
    message: str
    organization: str | None = None
    asset: str | None = None
    event_id: str | None = None
    request_id: str | None = None
    value_size: int
    value_sha256: bytes


class TopicAdopted(Record, frozen=True, kw_only=True):
    """
    The topic id that programs work with; `generation` counts the topics of that name (`LogPosition`).

    `authenticated_from` has an offset per partition: records below it are older than authenticators, and are trusted.
    """

    topic: str
    topic_id: str
    generation: int
    partitions: int
    adopted: int
    authenticated_from: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_least(self.generation, 0, "generation")
        check_least(self.partitions, 1, "partitions")
