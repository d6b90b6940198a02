"""What happened and what was asked for: asset events and policy changes, the inputs of the processors."""

from keymill.errors import InvalidRecord
from schemas import ids
from schemas.policy import Policy
from schemas.values import (
    FINGERPRINT_SIZE,
    HASH_SIZE,
    KID_SIZE,
    MAX_COUNT,
    MAX_INT,
    MAX_PERIODS,
    MAX_TIME_MS,
    MAX_TRACKS,
    Record,
    Scheme,
    check_label,
    check_range,
    check_salt,
    check_size,
    check_text,
    check_window,
)


class ImportedKey(Record, frozen=True, kw_only=True):
    """A key that existed before, wrapped under the intake KEK."""

    intake_epoch: int
    wrapped: bytes
    fp: bytes

    def __post_init__(self) -> None:
        check_range(self.intake_epoch, 1, MAX_INT, "tracks.imported.intake_epoch")
        check_size(self.wrapped, 48, "tracks.imported.wrapped")
        check_size(self.fp, FINGERPRINT_SIZE, "tracks.imported.fp")


class TrackWish(Record, frozen=True, kw_only=True):
    """One track that needs a key."""

    label: str
    scheme: Scheme | None = None
    kid: bytes | None = None
    imported: ImportedKey | None = None

    def __post_init__(self) -> None:
        check_label(self.label)
        check_size(self.kid, KID_SIZE, "tracks.kid")


class PeriodRange(Record, frozen=True, kw_only=True):
    """Crypto periods that are needed now: *count* from *first_index*; `start` is where period 0 begins, epoch ms."""

    first_index: int
    count: int
    period_s: int
    start: int | None = None

    def __post_init__(self) -> None:
        check_range(self.first_index, 0, MAX_COUNT, "periods.first_index")
        check_range(self.count, 1, MAX_PERIODS, "periods.count")
        check_range(self.period_s, 1, MAX_INT, "periods.period_s")
        check_range(self.start, 0, MAX_TIME_MS, "periods.start")


class AssetIngested(Record, frozen=True, kw_only=True, tag=True):
    """The asset exists and needs keys. What is None is inherited, or defaulted on the first event of a version."""

    tracks: tuple[TrackWish, ...] | None = None
    schemes: tuple[Scheme, ...] | None = None
    single_key: bool | None = None
    key_version: int | None = None
    policy_id: int | None = None
    product_id: str | None = None
    available_from: int | None = None
    available_until: int | None = None
    salt: bytes | None = None
    periods: PeriodRange | None = None

    def __post_init__(self) -> None:
        for name, values in (("tracks", self.tracks), ("schemes", self.schemes)):
            if values is not None and not 0 < len(values) <= MAX_TRACKS:
                raise InvalidRecord(f"{name} must name 1 to {MAX_TRACKS}, or be absent", field=name)
        check_range(self.key_version, 1, MAX_INT, "key_version")
        check_range(self.policy_id, 0, MAX_COUNT, "policy_id")
        check_salt(self.salt)
        if self.product_id is not None:
            ids.check_name(self.product_id, "product_id")
        check_window(self.available_from, self.available_until)


class KeysRotated(Record, frozen=True, kw_only=True, tag=True):
    """A new key version begins: the current one plus one."""

    to_version: int
    salt: bytes | None = None

    def __post_init__(self) -> None:
        check_range(self.to_version, 1, MAX_INT, "to_version")
        check_salt(self.salt)


class PolicyAssigned(Record, frozen=True, kw_only=True, tag=True):
    """Another policy holds for the asset."""

    policy_id: int

    def __post_init__(self) -> None:
        check_range(self.policy_id, 0, MAX_COUNT, "policy_id")


class AssetRevoked(Record, frozen=True, kw_only=True, tag=True):
    """No license is given any more."""

    reason: str | None = None

    def __post_init__(self) -> None:
        _check_reason(self.reason)


class AssetRestored(Record, frozen=True, kw_only=True, tag=True):
    """Licenses are given again."""

    reason: str | None = None

    def __post_init__(self) -> None:
        _check_reason(self.reason)


def _check_reason(reason: str | None) -> None:
    if reason is not None:
        check_text(reason, "reason")


AssetEventBody = AssetIngested | KeysRotated | PolicyAssigned | AssetRevoked | AssetRestored


class AssetEvent(Record, frozen=True, kw_only=True):
    """What an ingest system or an operator says about one asset."""

    organization: str
    asset: str
    event_id: str | None = None
    request_hash: bytes | None = None
    event_time: int
    body: AssetEventBody

    def __post_init__(self) -> None:
        ids.check_organization(self.organization)
        ids.check_asset(self.asset)
        _check_request(self.event_id, "event_id", self.request_hash, self.event_time)


def _check_request(name: str | None, field: str, request_hash: bytes | None, event_time: int) -> None:
    if name is not None:
        ids.check_name(name, field)
    check_size(request_hash, HASH_SIZE, "request_hash")
    check_range(event_time, 0, MAX_TIME_MS, "event_time")


class PolicyCreated(Record, frozen=True, kw_only=True, tag=True):
    """A new policy; its id is 1 + the number of creates accepted before."""

    name: str
    policy: Policy

    def __post_init__(self) -> None:
        check_text(self.name, "name")


class PolicyUpdated(Record, frozen=True, kw_only=True, tag=True):
    """Another content for a policy."""

    policy_id: int
    name: str
    policy: Policy

    def __post_init__(self) -> None:
        check_range(self.policy_id, 0, MAX_COUNT, "policy_id")
        check_text(self.name, "name")


class PolicyDeleted(Record, frozen=True, kw_only=True, tag=True):
    """The policy takes no new assignments; its id stays taken. Policy 0 is never deleted."""

    policy_id: int

    def __post_init__(self) -> None:
        check_range(self.policy_id, 1, MAX_COUNT, "policy_id")


class PolicyChange(Record, frozen=True, kw_only=True):
    """A request to change an organization's policies."""

    organization: str
    request_id: str | None = None
    request_hash: bytes | None = None
    event_time: int
    body: PolicyCreated | PolicyUpdated | PolicyDeleted

    def __post_init__(self) -> None:
        ids.check_organization(self.organization)
        _check_request(self.request_id, "request_id", self.request_hash, self.event_time)
