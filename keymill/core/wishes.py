"""The tracks that an ingest event asks for, each with the KID that the caller chose for it, or none."""

from collections.abc import Callable, Mapping
from functools import lru_cache

import msgspec

from keymill.errors import Conflict, InvalidRecord, Reject
from schemas.events import TrackWish
from schemas.records import KeyVersion, TrackIdentity
from schemas.values import CLEAR_LABEL, MAX_TRACKS, Scheme

Tracks = tuple[TrackIdentity, ...]
Name = tuple[str, Scheme]
Derived = Callable[[KeyVersion, Name], tuple[bytes, Callable[[], bytes]]]
"""The KID that a track of a version has, or would have, when nobody chooses it, and what gives its fingerprint."""


def wished(wishes: tuple[TrackWish, ...] | None, version: KeyVersion, derived: Derived | None) -> Tracks:
    """
    The tracks that *wishes* name, a scheme at a time; those that *version* holds among them, with the KID they have.

    A KID that is the track's derived one is no choice: its track is derived.

    Raises:
        Conflict: a track has another KID already.
        Reject: the wishes contradict each other, or there are more than a key record takes.
    """
    if derived is None and not version.key_sets:
        return _first_tracks(wishes or (), version.schemes)
    held = {(track.label, track.scheme): track.kid for key_set in version.key_sets for track in key_set.tracks}

    def kid_of(wish: TrackWish, name: Name) -> bytes | None:
        return held.get(name) if wish.kid is None else _kid_of(wish.kid, wish, name, held, version, derived)

    return _tracks(wishes or (), version.schemes, kid_of)


@lru_cache(maxsize=256)
def _first_tracks(wishes: tuple[TrackWish, ...], schemes: tuple[Scheme, ...]) -> Tracks:
    """Of a version that has none: a library's assets ask for the same few."""
    return _tracks(wishes, schemes, lambda wish, _name: wish.kid)


def _tracks(
    wishes: tuple[TrackWish, ...], schemes: tuple[Scheme, ...], kid_of: Callable[[TrackWish, Name], bytes | None]
) -> Tracks:
    tracks: dict[Name, TrackIdentity] = {}
    for wish in wishes:
        if wish.imported is not None and wish.kid is None:
            raise InvalidRecord("tracks.kid: an imported key needs its KID", field="tracks.kid")
        for scheme in (wish.scheme,) if wish.scheme else schemes:
            name = (wish.label, scheme)
            kid = kid_of(wish, name)
            track = TrackIdentity(label=wish.label, scheme=scheme, declared=True, kid=kid)
            if tracks.setdefault(name, track).kid != kid:
                message = f"tracks: {wish.label} ({scheme}) is named twice, with different KIDs"
                raise InvalidRecord(message, field="tracks.kid")
    _check_materials(wishes)
    check_count(len(tracks))
    return tuple(tracks.values())


def without_kids(wishes: tuple[TrackWish, ...] | None, version: KeyVersion) -> Tracks:
    """The tracks of crypto periods: each period has a key of its own, so no KID can be chosen for them."""
    if any(wish.kid is not None or wish.imported is not None for wish in wishes or ()):
        message = "tracks.kid: crypto periods have derived keys: leave out the KID, or the periods"
        raise InvalidRecord(message, field="tracks.kid", code="kid_with_periods")
    return wished(wishes, msgspec.structs.replace(version, key_sets=()), None)


def _kid_of(
    kid: bytes,
    wish: TrackWish,
    name: Name,
    held: Mapping[Name, bytes | None],
    version: KeyVersion,
    derived: Derived | None,
) -> bytes | None:
    before = held.get(name)
    if before == kid:
        return kid
    if before is None and derived is not None:
        own, fingerprint = derived(version, name)
        if own == kid and (wish.imported is None or wish.imported.fp == fingerprint()):
            return None
        before = own if own == kid or name in held else None
    if before is None and name not in held:
        return kid
    has = f"the KID {before.hex()}" if before else "a derived KID"
    message = f"tracks.kid: track {wish.label} ({name[1]}) of version {version.key_version} has {has} and its own key"
    raise Conflict(f"{message}: leave the KID out, or begin a new key_version", field="tracks.kid")


def _check_materials(wishes: tuple[TrackWish, ...]) -> None:
    """One KID may serve several tracks, with one key."""
    found: dict[bytes, bytes | None] = {}
    for wish in wishes:
        if wish.kid is not None:
            fp = wish.imported.fp if wish.imported else None
            if found.setdefault(wish.kid, fp) != fp:
                message = f"tracks.kid: KID {wish.kid.hex()} is named with two different keys"
                raise InvalidRecord(message, field="tracks.kid")


def check_clear(tracks: Tracks) -> None:
    """Refuse a KID for clear-key HLS and a protected track: its key is handed out as it is."""
    clear = {track.kid for track in tracks if track.kid and track.label == CLEAR_LABEL}
    if not clear:
        return
    shared = next((track for track in tracks if track.label != CLEAR_LABEL and track.kid in clear), None)
    if shared is not None:
        message = f"tracks.kid: {CLEAR_LABEL} and {shared.label} must not share a key: give {CLEAR_LABEL} another KID"
        raise InvalidRecord(message, field="tracks.kid", code="clear_key_shared")


def check_count(count: int) -> None:
    """A rotation puts all tracks of a version into one key record, which must fit its topic."""
    if count > MAX_TRACKS:
        message = f"tracks: the version would have {count} keys, at most {MAX_TRACKS}"
        raise Reject(message, field="tracks", code="too_many_tracks")
