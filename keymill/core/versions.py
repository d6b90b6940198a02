"""Key versions of an asset: what their first event chose, and the tracks that later events add."""

import hashlib
from functools import lru_cache
from typing import Final

import msgspec

from keymill.core import wishes
from keymill.core.identity import key_set_digest
from keymill.core.period import with_periods
from keymill.core.wishes import Derived, Tracks
from keymill.errors import Conflict, InvalidRecord
from schemas.codec import encode_as
from schemas.events import AssetEvent, AssetEventBody, AssetIngested, KeysRotated, PeriodRange
from schemas.records import KeySet, KeyVersion, LivePeriods, TrackIdentity
from schemas.values import DEFAULT_LABELS, MAX_TIME_MS, LogPosition, Record, Scheme

DEFAULT_SCHEMES: Final = (Scheme.CBCS,)
ROTATED_PERIODS: Final = 10
"""How many of the newest crypto periods a rotation gives new keys at once: one block of Shaka Packager."""

Versions = tuple[KeyVersion, ...]


class Choice(Record, frozen=True, kw_only=True):
    """Who chooses, where in the log, and what the log's time fixes; `derived` tells a track's own KID."""

    organization: str
    asset: str
    at: LogPosition
    root_version: int
    derived: Derived | None = None


class _Said(Record, frozen=True, kw_only=True):
    """The fields of an `AssetEvent`, of which its checks need not see the same ones again."""

    organization: str
    asset: str
    event_id: None = None
    request_hash: None = None
    event_time: int = 0
    body: AssetEventBody


def body_hash(event: AssetEvent) -> bytes:
    """SHA-256 of what an event says, apart from when it was said and under which id."""
    said = _Said(organization=event.organization, asset=event.asset, body=event.body)
    return hashlib.sha256(encode_as(AssetEvent, said)).digest()


def ingest(body: AssetIngested, choice: Choice, held: Versions) -> Versions:
    """The versions after an ingest event: a new one, more tracks or periods, or no change."""
    current = len(held)
    wanted = body.key_version or max(current, 1)
    if wanted > current + 1:
        raise _gap("key_version", wanted, current)
    if wanted == current + 1:
        return (*held, _begin(body, choice, wanted, held[-1] if held else None))
    version = held[wanted - 1]
    _check_sticky(body, version)
    return (*held[: wanted - 1], _add(body, choice, version), *held[wanted:])


def rotate(body: KeysRotated, choice: Choice, held: Versions) -> Versions:
    """The versions after a rotation: all tracks of the newest version get new keys."""
    current, previous = len(held), held[-1]
    if body.to_version > current + 1:
        raise _gap("to_version", body.to_version, current)
    if body.to_version <= current:
        if body.salt is not None and body.salt != held[body.to_version - 1].salt:
            raise _sticky("salt", body.to_version)
        return held
    return (*held, _begin(AssetIngested(salt=body.salt), choice, body.to_version, previous))


def _begin(body: AssetIngested, choice: Choice, number: int, previous: KeyVersion | None) -> KeyVersion:
    """A version's first event: what it names no choice for is inherited, the tracks too if it names none."""
    version = _first(body, choice, number, previous)
    if body.tracks is None and body.periods is None:
        if previous:
            return _renew(choice, version, previous)
        return _with_key_set(choice, version, _defaults(version.schemes))
    return _add(body, choice, version, previous)


def _first(body: AssetIngested, choice: Choice, number: int, previous: KeyVersion | None) -> KeyVersion:
    """A version without tracks. A salt is inherited: a salted title never falls back to the root alone."""
    salt, single_key, schemes = (
        (previous.salt, previous.single_key, previous.schemes) if previous else (None, False, DEFAULT_SCHEMES)
    )
    return KeyVersion(
        key_version=number,
        root_version=choice.root_version,
        salt=salt if body.salt is None else body.salt,
        single_key=single_key if body.single_key is None else body.single_key,
        schemes=schemes if body.schemes is None else tuple(dict.fromkeys(body.schemes)),
        created=choice.at,
    )


def _renew(choice: Choice, version: KeyVersion, previous: KeyVersion) -> KeyVersion:
    """The tracks of *previous*, and its newest crypto periods, under the keys of *version*."""
    if tracks := tuple(track for key_set in previous.key_sets for track in key_set.tracks):
        version = _with_key_set(choice, version, _derived(tracks))
    if previous.live:
        since = max(previous.live.from_index, previous.live.through_index - ROTATED_PERIODS + 1)
        tracks = _derived(previous.live.tracks)
        live = msgspec.structs.replace(previous.live, from_index=since, at=choice.at, tracks=tracks, earlier=())
        version = msgspec.structs.replace(version, live=live)
    return version


def _check_sticky(body: AssetIngested, version: KeyVersion) -> None:
    if body.salt is not None and body.salt != version.salt:
        raise _sticky("salt", version.key_version)
    if body.single_key is not None and body.single_key != version.single_key:
        raise _sticky("single_key", version.key_version)
    if body.schemes is not None and set(body.schemes) != set(version.schemes):
        raise _sticky("schemes", version.key_version)


def _add(body: AssetIngested, choice: Choice, version: KeyVersion, previous: KeyVersion | None = None) -> KeyVersion:
    if body.periods is not None:
        wanted = wishes.without_kids(body.tracks, version)
        inherited = previous.live.tracks if previous and previous.live else _defaults(version.schemes)
        return _with_periods(body.periods, choice, version, wanted, inherited)
    wished = wishes.wished(body.tracks, version, choice.derived)
    held: Tracks = ()
    added = wished
    if version.key_sets:
        held = tuple([track for key_set in version.key_sets for track in key_set.tracks])
        known = {(track.label, track.scheme) for track in held}
        added = tuple([track for track in wished if (track.label, track.scheme) not in known])
        wishes.check_count(len(known) + len(added))
    wishes.check_clear((*held, *added))
    return _with_key_set(choice, version, added) if added else version


@lru_cache(maxsize=64)
def _defaults(schemes: tuple[Scheme, ...]) -> Tracks:
    return tuple(
        TrackIdentity(label=label, scheme=scheme, declared=False) for scheme in schemes for label in DEFAULT_LABELS
    )


def _derived(tracks: Tracks) -> Tracks:
    return tuple(msgspec.structs.replace(track, kid=None) for track in tracks)


def _with_key_set(choice: Choice, version: KeyVersion, tracks: Tracks) -> KeyVersion:
    digest = key_set_digest(
        organization=choice.organization,
        asset=choice.asset,
        key_version=version.key_version,
        root_version=version.root_version,
        salt=version.salt,
        period=None,
        tracks=tracks,
    )
    key_set = KeySet(digest=digest, at=choice.at, tracks=tracks)
    return msgspec.structs.replace(version, key_sets=(*version.key_sets, key_set))


def _with_periods(
    wanted: PeriodRange, choice: Choice, version: KeyVersion, wished: Tracks, inherited: Tracks
) -> KeyVersion:
    live = version.live
    if live is None:
        live = LivePeriods(
            period_s=wanted.period_s,
            start=wanted.start,
            from_index=wanted.first_index,
            through_index=wanted.first_index + wanted.count - 1,
            at=choice.at,
            tracks=wished or _derived(inherited),
        )
    else:
        _check_sticky_periods(wanted, wished, live, version.key_version)
        live = with_periods(live, wanted)
    _check_clock(live)
    return msgspec.structs.replace(version, live=live)


def _check_sticky_periods(wanted: PeriodRange, wished: Tracks, live: LivePeriods, key_version: int) -> None:
    if wanted.period_s != live.period_s or wanted.start not in (None, live.start):
        raise _sticky("periods", key_version)
    if wished and {(t.label, t.scheme) for t in wished} != {(t.label, t.scheme) for t in live.tracks}:
        raise _sticky("tracks", key_version)


def _check_clock(live: LivePeriods) -> None:
    if live.start is not None and live.start + (live.through_index + 1) * live.period_s * 1000 > MAX_TIME_MS:
        raise InvalidRecord("periods end after the year 9999", field="periods")


def _sticky(field: str, key_version: int) -> Conflict:
    return Conflict(f"{field} of version {key_version} was chosen by an earlier event and differs", field=field)


def _gap(field: str, wanted: int, current: int) -> Conflict:
    message = f"{field} {wanted} skips versions: the asset is at {current}, the next is {current + 1}"
    return Conflict(message, field=field, code="version_gap")
