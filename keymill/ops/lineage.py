"""Where a key, an asset or a license comes from, as values: what `keymill explain` tells."""

from schemas.audit import EventPlace
from schemas.values import LogPosition, Record


class Place(Record, frozen=True, kw_only=True):
    """Coordinates of a record; `record_key` where it says more than they do."""

    topic: str
    partition: int
    offset: int
    record_key: str | None = None


class Answered(Record, frozen=True, kw_only=True):
    """An audit event as it is told: who asked, when, for what, with which outcome."""

    at: str
    what: str
    outcome: str
    reason: str
    request_id: str
    user: str
    caller: str
    client: str
    drm_system: str
    organization: str
    asset: str
    kids: tuple[str, ...]
    key_versions: tuple[int, ...]
    policy_id: int | None
    policy_version: int | None
    writer: str
    sequence: int
    audit: Place
    event: EventPlace | None


class EventTold(Record, frozen=True, kw_only=True):
    """
    An event of the log.

    Args:
        found: None while the log was not asked.
        error: why the log says nothing, or less, of it.
        asked: the gateway's audit event of the request that it was.
    """

    topic: str
    generation: int
    partition: int | None
    offset: int
    found: bool | None = None
    recorded: str | None = None
    kind: str | None = None
    event_id: str | None = None
    event_time: str | None = None
    request_id: str | None = None
    error: str | None = None
    asked: Answered | None = None


class PolicyTold(Record, frozen=True, kw_only=True):
    """
    A policy in one version; `place` and `change`, the change that made it, are None for the built-in content, and for a
    version that the topic keeps no more.
    """

    id: int
    version: int | None
    name: str
    changed: str | None = None
    place: Place | None = None
    change: LogPosition | None = None


class ClaimTold(Record, frozen=True, kw_only=True):
    """The claim that won a chosen or imported KID."""

    asset: str
    key_version: int
    track: str
    imported: bool
    recorded: str
    place: Place


class KeyLineage(Record, frozen=True, kw_only=True):
    """A key from its KID back to the event that called for it. `incomplete`: why the log was not asked, or in part."""

    kid: str
    fingerprint: str
    organization: str
    asset: str
    state: str | None
    origin: str
    tracks: tuple[str, ...]
    key_version: int
    root_version: int
    kek_epoch: int
    period: int | None
    policy: PolicyTold
    key_record: Place
    asset_record: Place | None
    claim: ClaimTold | None = None
    event: EventTold
    audit: tuple[Answered, ...] = ()
    incomplete: str | None = None


class KeyTold(Record, frozen=True, kw_only=True):
    """A key of an asset, in short; `event_offset` is that of the event that called for it."""

    key_version: int
    kid: str
    track: str
    origin: str
    period: int | None
    root_version: int
    kek_epoch: int
    fingerprint: str
    event_offset: int
    key_record: Place


class AssetLineage(Record, frozen=True, kw_only=True):
    """An asset with all its keys, and the events that its record remembers, oldest first."""

    organization: str
    asset: str
    state: str
    key_versions: int
    product_id: str | None
    policy: PolicyTold
    asset_record: Place | None
    keys: tuple[KeyTold, ...]
    events: tuple[EventTold, ...]
    audit: tuple[Answered, ...] = ()
    incomplete: str | None = None


class RequestLineage(Record, frozen=True, kw_only=True):
    """
    What a request was answered.

    Args:
        policies: in the version that the answer was made under.
        keys: the lineage of every key in the answer.
        assets: what was asked for where no key is named.
        events: what the request became.
    """

    request_id: str
    answers: tuple[Answered, ...]
    policies: tuple[PolicyTold, ...] = ()
    keys: tuple[KeyLineage, ...] = ()
    assets: tuple[AssetLineage, ...] = ()
    events: tuple[EventTold, ...] = ()
    incomplete: str | None = None
