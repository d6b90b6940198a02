"""What happened and what was asked for: asset events and policy changes, the inputs of the processors."""

from keymill.errors import InvalidRecord
from schemas import ids
from schemas.values import (
    FINGERPRINT_SIZE,
    KID_SIZE,
    MAX_PERIODS,
    MAX_TRACKS,
    Record,
    Scheme,
    check_label,
    check_least,
    check_salt,
    check_size,
    check_window,
)


class ImportedKey(Record, kw_only=True):
    """A key that existed before, wrapped under the intake KEK."""

    intake_epoch: int
    wrapped: bytes
    fp: bytes

    def __post_init__(self) -> None:
        check_size(self.wrapped, 48, "tracks.imported.wrapped")
        check_size(self.fp, FINGERPRINT_SIZE, "tracks.imported.fp")


class TrackWish(Record, kw_only=True):
    """One track that needs a key."""

    label: str
    scheme: Scheme | None = None
    kid: bytes | None = None
    imported: ImportedKey | None = None

    def __post_init__(self) -> None:
        check_label(self.label)
        check_size(self.kid, KID_SIZE, "tracks.kid")


class PeriodRange(Record, kw_only=True):
    """Crypto periods that are needed now: *count* from *first_index*; `start` is where period 0 begins, epoch ms."""

    first_index: int
    count: int
    period_s: int
    start: int | None = None

    def __post_init__(self) -> None:
        check_least(self.first_index, 0, "periods.first_index")
        check_least(self.count, 1, "periods.count")
        check_least(self.period_s, 1, "periods.period_s")
        if self.count > MAX_PERIODS:
            raise InvalidRecord(f"periods.count must be at most {MAX_PERIODS}", field="periods.count")


class AssetIngested(Record, kw_only=True, tag=True):
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
        check_least(self.key_version, 1, "key_version")
        check_least(self.policy_id, 0, "policy_id")
        check_salt(self.salt)
        if self.product_id is not None:
            ids.check_name(self.product_id, "product_id")
        check_window(self.available_from, self.available_until)


class KeysRotated(Record, kw_only=True, tag=True):
    """A new key version begins: the current one plus one."""

    to_version: int
    salt: bytes | None = None

    def __post_init__(self) -> None:
        check_least(self.to_version, 1, "to_version")
        check_salt(self.salt)


class PolicyAssigned(Record, kw_only=True, tag=True):
    """Another policy holds for the asset."""

    policy_id: int

    def __post_init__(self) -> None:
        check_least(self.policy_id, 0, "policy_id")


class AssetRevoked(Record, kw_only=True, tag=True):
    """No license is given any more."""

    reason: str | None = None


class AssetRestored(Record, kw_only=True, tag=True):
    """Licenses are given again."""

    reason: str | None = None


AssetEventBody = AssetIngested | KeysRotated | PolicyAssigned | AssetRevoked | AssetRestored


class AssetEvent(Record, kw_only=True):
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
        if self.event_id is not None:
            ids.check_name(self.event_id, "event_id")
        check_size(self.request_hash, 32, "request_hash")
        check_least(self.event_time, 0, "event_time")


class Policy(Record, kw_only=True):
    """What a license allows. Durations in seconds, 0 is unlimited; `allowed_tracks` None releases every track."""

    can_play: bool
    can_persist: bool = False
    can_renew: bool = False
    license_duration_s: int = 0
    rental_duration_s: int = 0
    playback_duration_s: int = 0
    allowed_tracks: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("license_duration_s", "rental_duration_s", "playback_duration_s"):
            check_least(getattr(self, name), 0, name)


class PolicyCreated(Record, kw_only=True, tag=True):
    """A new policy; its id is 1 + the number of creates accepted before."""

    name: str
    policy: Policy


class PolicyUpdated(Record, kw_only=True, tag=True):
    """Another content for a policy."""

    policy_id: int
    name: str
    policy: Policy


class PolicyDeleted(Record, kw_only=True, tag=True):
    """The policy takes no new assignments; its id stays taken."""

    policy_id: int


class PolicyChange(Record, kw_only=True):
    """A request to change an organization's policies."""

    organization: str
    request_id: str | None = None
    request_hash: bytes | None = None
    event_time: int
    body: PolicyCreated | PolicyUpdated | PolicyDeleted
