"""Key versions of an asset: what their first event chose, and the tracks that later events add."""

import hashlib
from typing import Final

import msgspec

from keymill.core.identity import key_set_digest
from keymill.errors import Conflict, Reject
from schemas.codec import encode
from schemas.events import AssetEvent, AssetIngested, KeysRotated, PeriodRange, TrackWish
from schemas.records import KeySet, KeyVersion, LivePeriods, TrackIdentity
from schemas.values import DEFAULT_LABELS, MAX_PERIODS, MAX_TRACKS, LogPosition, Record, Scheme

DEFAULT_SCHEMES: Final = (Scheme.CBCS,)
ROTATED_PERIODS: Final = 10
"""How many of the newest crypto periods a rotation gives new keys at once: one block of Shaka Packager."""

Versions = tuple[KeyVersion, ...]
Tracks = tuple[TrackIdentity, ...]


class Choice(Record, kw_only=True):
    """Who chooses, where in the log, and what the log's time fixes."""

    organization: str
    asset: str
    at: LogPosition
    root_version: int


def body_hash(event: AssetEvent) -> bytes:
    """SHA-256 of what an event says, apart from when it was said and under which id."""
    plain = msgspec.structs.replace(event, event_id=None, request_hash=None, event_time=0)
    return hashlib.sha256(encode(plain)).digest()


def ingest(body: AssetIngested, choice: Choice, held: Versions) -> Versions:
    """The versions after an ingest event: a new one, more tracks or periods, or no change."""
    current = len(held)
    wanted = body.key_version or max(current, 1)
    if wanted > current + 1:
        raise _gap("key_version", wanted, current)
    if wanted == current + 1:
        version = _first(body, choice, wanted, held[-1] if held else None)
        return (*held, _add(body, choice, version, held[-1] if held else None))
    version = held[wanted - 1]
    _check_sticky(body, version)
    return (*held[: wanted - 1], _add(body, choice, version, None), *held[wanted:])


def rotate(body: KeysRotated, choice: Choice, held: Versions) -> Versions:
    """The versions after a rotation: all tracks of the newest version get new keys."""
    current, previous = len(held), held[-1]
    if body.to_version > current + 1:
        raise _gap("to_version", body.to_version, current)
    if body.to_version <= current:
        if body.salt is not None and body.salt != held[body.to_version - 1].salt:
            raise _sticky("salt", body.to_version)
        return held
    version = _first(AssetIngested(salt=body.salt), choice, body.to_version, previous)
    if tracks := _renewed(previous):
        version = _with_key_set(choice, version, tracks)
    if previous.live:
        newest = previous.live.through_index
        since = max(previous.live.from_index, newest - ROTATED_PERIODS + 1)
        live = msgspec.structs.replace(
            previous.live, from_index=since, at=choice.at, tracks=_derived(previous.live.tracks)
        )
        version = msgspec.structs.replace(version, live=live)
    return (*held, version)


def _first(body: AssetIngested, choice: Choice, number: int, previous: KeyVersion | None) -> KeyVersion:
    single = body.single_key if body.single_key is not None else bool(previous and previous.single_key)
    return KeyVersion(
        key_version=number,
        root_version=choice.root_version,
        salt=body.salt,
        single_key=single,
        schemes=body.schemes or (previous.schemes if previous else DEFAULT_SCHEMES),
        created=choice.at,
    )


def _check_sticky(body: AssetIngested, version: KeyVersion) -> None:
    if body.salt is not None and body.salt != version.salt:
        raise _sticky("salt", version.key_version)
    if body.single_key is not None and body.single_key != version.single_key:
        raise _sticky("single_key", version.key_version)
    if body.schemes is not None and set(body.schemes) != set(version.schemes):
        raise _sticky("schemes", version.key_version)


def _add(body: AssetIngested, choice: Choice, version: KeyVersion, previous: KeyVersion | None) -> KeyVersion:
    wished = _wished(body.tracks, version)
    if body.periods is not None:
        return _with_periods(body.periods, choice, version, wished)
    if not wished and not version.key_sets:
        wished = _renewed(previous) if previous else _defaults(version)
    known = {(track.label, track.scheme) for key_set in version.key_sets for track in key_set.tracks}
    added = tuple(track for track in wished if (track.label, track.scheme) not in known)
    return _with_key_set(choice, version, added) if added else version


def _wished(wishes: tuple[TrackWish, ...] | None, version: KeyVersion) -> Tracks:
    tracks: dict[tuple[str, Scheme], TrackIdentity] = {}
    for wish in wishes or ():
        if wish.kid is not None or wish.imported is not None:
            raise Reject("tracks.kid: KIDs chosen by the caller are not taken", field="tracks.kid", code="chosen_kid")
        for scheme in (wish.scheme,) if wish.scheme else version.schemes:
            tracks[wish.label, scheme] = TrackIdentity(label=wish.label, scheme=scheme, declared=True)
    if len(tracks) > MAX_TRACKS:
        raise Reject(f"tracks: {len(tracks)} keys in one event, at most {MAX_TRACKS}", field="tracks", code="too_many_tracks")
    return tuple(tracks.values())


def _defaults(version: KeyVersion) -> Tracks:
    return tuple(
        TrackIdentity(label=label, scheme=scheme, declared=False) for scheme in version.schemes for label in DEFAULT_LABELS
    )


def _renewed(previous: KeyVersion) -> Tracks:
    return _derived(tuple(track for key_set in previous.key_sets for track in key_set.tracks))


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


def _with_periods(wanted: PeriodRange, choice: Choice, version: KeyVersion, wished: Tracks) -> KeyVersion:
    last = wanted.first_index + wanted.count - 1
    live = version.live
    if live is None:
        live = LivePeriods(
            period_s=wanted.period_s,
            start=wanted.start,
            from_index=wanted.first_index,
            through_index=last,
            at=choice.at,
            tracks=wished or _defaults(version),
        )
        return msgspec.structs.replace(version, live=live)
    if wanted.period_s != live.period_s or wanted.start not in (None, live.start):
        raise _sticky("periods", version.key_version)
    if wished and {(t.label, t.scheme) for t in wished} != {(t.label, t.scheme) for t in live.tracks}:
        raise _sticky("tracks", version.key_version)
    if wanted.first_index > live.through_index + MAX_PERIODS or last < live.from_index - MAX_PERIODS:
        raise Reject("periods.first_index is too far from the periods that exist", field="periods.first_index", code="period_gap")
    since, through = min(live.from_index, wanted.first_index), max(live.through_index, last)
    return msgspec.structs.replace(version, live=msgspec.structs.replace(live, from_index=since, through_index=through))


def _sticky(field: str, key_version: int) -> Conflict:
    return Conflict(f"{field} of version {key_version} was chosen by an earlier event and differs", field=field)


def _gap(field: str, wanted: int, current: int) -> Conflict:
    message = f"{field} {wanted} skips versions: the asset is at {current}, the next is {current + 1}"
    return Conflict(message, field=field, code="version_gap")
