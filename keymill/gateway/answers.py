"""What the gateway answers about assets, made of the view's records. Pure; nothing here holds a key or a salt."""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from keymill.core.folding import DEFAULT_POLICY
from schemas import topics
from schemas.records import AssetRecord, AssetState, CryptoPeriod, KeyRecord, KeyVersion, PolicyRecord
from schemas.values import Record, Scheme

BUILT_IN_VERSION: Final = 0
"""The version of policy 0 while nobody has stored one: its content is built in."""


class Place(Record, frozen=True, kw_only=True):
    """Coordinates of a record in Kafka."""

    topic: str
    partition: int
    offset: int


class PolicyAnswer(Record, frozen=True, kw_only=True):
    """The policy that holds; `version` is null when its record is not there (licenses are refused then)."""

    id: int
    version: int | None


class TrackAnswer(Record, frozen=True, kw_only=True):
    """A track that has a key; `kid` is lower-case and dashed."""

    track_type: str
    scheme: Scheme
    kid: str


class PeriodAnswer(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A crypto period with its tracks; start and end where the content has a clock."""

    index: int
    tracks: tuple[TrackAnswer, ...]
    start: str | None = None
    end: str | None = None


class VersionAnswer(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A key version."""

    key_version: int
    single_key: bool
    schemes: tuple[Scheme, ...]
    tracks: tuple[TrackAnswer, ...]
    crypto_periods: tuple[PeriodAnswer, ...] = ()


class Coordinates(Record, frozen=True, kw_only=True):
    """The last event that the asset's record holds, and the record itself."""

    event: Place
    record: Place


class AssetAnswer(Record, frozen=True, kw_only=True):
    """An asset as the gateway's view has it."""

    organization: str
    asset_id: str
    state: AssetState
    key_version: int
    policy: PolicyAnswer
    product_id: str | None
    available_from: str | None
    available_until: str | None
    versions: tuple[VersionAnswer, ...]
    coordinates: Coordinates


class AcceptedAnswer(Record, frozen=True, kw_only=True):
    """202: the event is in the log. The coordinates are the event's."""

    event_id: str
    topic: str
    partition: int
    offset: int


class ProvisionedAnswer(AcceptedAnswer, frozen=True, kw_only=True):
    """201: the event's records are in the view."""

    key_version: int
    state: AssetState
    policy: PolicyAnswer
    tracks: tuple[TrackAnswer, ...]


def policy_answer(policy_id: int, stored: PolicyRecord | None) -> PolicyAnswer:
    """A policy by id, with the version that the view holds."""
    if stored is not None:
        return PolicyAnswer(id=policy_id, version=stored.version)
    return PolicyAnswer(id=policy_id, version=BUILT_IN_VERSION if policy_id == DEFAULT_POLICY else None)


class KeyAnswers:
    """The tracks and crypto periods of an asset's key records, taken one by one in any order."""

    def __init__(self) -> None:
        self._static: dict[int, list[KeyRecord]] = defaultdict(list)
        self._periods: dict[int, list[PeriodAnswer]] = defaultdict(list)

    def take(self, record: KeyRecord) -> None:
        """Add a key record."""
        if record.period is None:
            self._static[record.key_version].append(record)
        else:
            self._periods[record.key_version].append(_period(record, record.period))

    def version(self, version: KeyVersion) -> VersionAnswer:
        """What is answered about a key version, its periods ascending."""
        return VersionAnswer(
            key_version=version.key_version,
            single_key=version.single_key,
            schemes=version.schemes,
            tracks=tracks_of(self._static[version.key_version]),
            crypto_periods=tuple(sorted(self._periods[version.key_version], key=lambda each: each.index)),
        )


def asset_answer(
    asset: AssetRecord, keys: KeyAnswers, stored: PolicyRecord | None, partition: int, offset: int
) -> AssetAnswer:
    """
    Everything about an asset.

    Args:
        keys: of the asset's key records.
        partition, offset: where the asset record stands; its events stand on the same partition.
    """
    return AssetAnswer(
        organization=asset.organization,
        asset_id=asset.asset,
        state=asset.state,
        key_version=len(asset.versions),
        policy=policy_answer(asset.policy_id, stored),
        product_id=asset.product_id,
        available_from=rfc3339(asset.available_from),
        available_until=rfc3339(asset.available_until),
        versions=tuple(keys.version(version) for version in asset.versions),
        coordinates=Coordinates(
            event=Place(topic=topics.ASSETS.name, partition=partition, offset=asset.applied.offset),
            record=Place(topic=topics.KEYS.name, partition=partition, offset=offset),
        ),
    )


def provisioned_answer(
    accepted: AcceptedAnswer,
    key_version: int,
    asset: AssetRecord,
    keys: Sequence[KeyRecord],
    stored: PolicyRecord | None,
) -> ProvisionedAnswer:
    """What `?wait=1` answers: the tracks are all of the key version's, whichever event brought them."""
    return ProvisionedAnswer(
        **msgspec.structs.asdict(accepted),
        key_version=key_version,
        state=asset.state,
        policy=policy_answer(asset.policy_id, stored),
        tracks=tracks_of(keys),
    )


def tracks_of(keys: Iterable[KeyRecord]) -> tuple[TrackAnswer, ...]:
    """The tracks of a key version's key records for all time, in the order in which events brought them."""
    return tuple(each for record in sorted(keys, key=lambda record: record.event) for each in _tracks(record))


def lacks_keys(version: KeyVersion, keys: Sequence[KeyRecord]) -> bool:
    """Whether a key record that the version names is not among *keys*: quarantined, or not read back yet."""
    return sum(len(key_set.tracks) for key_set in version.key_sets) > sum(len(record.tracks) for record in keys)


def rfc3339(time_ms: int | None) -> str | None:
    """A time in UTC, to the millisecond only where it has one."""
    if time_ms is None:
        return None
    precision = "milliseconds" if time_ms % 1000 else "seconds"
    moment = datetime.fromtimestamp(time_ms // 1000, UTC).replace(microsecond=time_ms % 1000 * 1000)
    return moment.isoformat(timespec=precision).replace("+00:00", "Z")


def dashed(kid: bytes) -> str:
    """A KID as people and manifests write it."""
    return str(uuid.UUID(bytes=kid))


def _period(record: KeyRecord, period: CryptoPeriod) -> PeriodAnswer:
    return PeriodAnswer(
        index=period.index,
        tracks=tuple(_tracks(record)),
        start=rfc3339(period.start),
        end=rfc3339(period.end),
    )


def _tracks(record: KeyRecord) -> list[TrackAnswer]:
    return [TrackAnswer(track_type=each.label, scheme=each.scheme, kid=dashed(each.kid)) for each in record.tracks]
