"""
From an asset event to the records it calls for: the heart (ARCHITECTURE.md, step 4).

Both halves are functions of their arguments, so redelivery, replay and a second writer give the same bytes:
`keymill.core.folding.fold` decides what the asset is, `needed` and `make_key_record` which keys that calls for.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import chain
from typing import Final

import msgspec

from keymill.core.derive import derive_all, derive_names, fingerprint
from keymill.core.envelope import wrap_keys
from keymill.core.identity import ALL_TRACKS, canonical, canonical_name, recurring
from keymill.core.licensable import period_key
from keymill.core.period import period_at, spans
from keymill.core.versions import ROTATED_PERIODS
from keymill.secret import Secret
from schemas.events import AssetEvent, AssetIngested, KeysRotated, PeriodRange
from schemas.ids import key_set_key
from schemas.records import (
    AssetRecord,
    CryptoPeriod,
    KeyOrigin,
    KeyRecord,
    KeyVersion,
    LivePeriods,
    TrackIdentity,
    TrackKey,
)
from schemas.values import CLEAR_LABEL, LogPosition, Record


class Needed(Record, frozen=True, kw_only=True):
    """One key record that an asset calls for, before its keys are made."""

    record_key: bytes
    key_version: int
    root_version: int
    salt: bytes | None
    single_key: bool
    period: CryptoPeriod | None
    tracks: tuple[TrackIdentity, ...]
    event: LogPosition


class GivenKey(Record, frozen=True, kw_only=True):
    """The key of a KID that the caller chose or brought, 16 bytes each."""

    kid: bytes
    cek: Secret
    iv: Secret
    origin: KeyOrigin


NONE_GIVEN: Final[Mapping[bytes, GivenKey]] = {}


class Keys(Record, frozen=True, kw_only=True):
    """What the KMS gave for (organization, root version) and the organization's current KEK epoch."""

    prk: Secret
    k_fp: Secret
    kek: Secret
    kek_epoch: int


def needed(asset: AssetRecord, event: AssetEvent | None) -> Iterator[Needed]:
    """
    The key records that *asset* calls for, oldest version first; publish those that the view lacks.

    Crypto periods are limited to those that *event* asks for or renews; without an event all are named.
    """
    for version in asset.versions:
        for key_set in version.key_sets:
            yield Needed(
                record_key=key_set_key(asset.organization, asset.asset, key_set.digest),
                key_version=version.key_version,
                root_version=version.root_version,
                salt=version.salt,
                single_key=version.single_key,
                period=None,
                tracks=key_set.tracks,
                event=key_set.at,
            )
        if version.live:
            for index in _periods(version, version.live, event):
                yield _needed_period(asset, version, version.live, index)


def _periods(version: KeyVersion, live: LivePeriods, event: AssetEvent | None) -> Iterable[int]:
    every = spans(live)
    if event is None:
        return chain.from_iterable(every)
    match event.body:
        case AssetIngested(periods=PeriodRange() as wanted):
            first, stop = wanted.first_index, wanted.first_index + wanted.count
            return chain.from_iterable(range(max(each.start, first), min(each.stop, stop)) for each in every)
        case AssetIngested(key_version=number) | KeysRotated(to_version=number) if (
            number == version.key_version and version.created == live.at
        ):
            return every[0][:ROTATED_PERIODS]
        case _:
            return ()


def _needed_period(asset: AssetRecord, version: KeyVersion, live: LivePeriods, index: int) -> Needed:
    return Needed(
        record_key=period_key(asset, version, index),
        key_version=version.key_version,
        root_version=version.root_version,
        salt=version.salt,
        single_key=version.single_key,
        period=period_at(index, period_s=live.period_s, start=live.start),
        tracks=live.tracks,
        event=live.at,
    )


def make_key_record(
    asset: AssetRecord, need: Needed, keys: Keys, given: Mapping[bytes, GivenKey] = NONE_GIVEN
) -> KeyRecord:
    """
    Derive, fingerprint and wrap the keys of one key record. The same arguments give the same bytes.

    Args:
        given: by KID, the keys of the tracks that have a KID of the caller's (`keymill.core.claims`).
    """
    preimages = zip(need.tracks, _preimages(asset, need), strict=True)
    derived = iter(derive_all(keys.prk, [preimage for track, preimage in preimages if track.kid is None]))
    made = [next(derived) if track.kid is None else given[track.kid] for track in need.tracks]
    tracks = [
        TrackKey(
            kid=key.kid,
            fp=fingerprint(keys.k_fp, key.kid, key.cek),
            label=track.label,
            scheme=track.scheme,
            origin=KeyOrigin.DERIVED if track.kid is None else given[track.kid].origin,
        )
        for track, key in zip(need.tracks, made, strict=True)
    ]
    bare = unwrapped(asset, need, tuple(tracks), keys.kek_epoch)
    return msgspec.structs.replace(bare, wrapped=wrap_keys(keys.kek, bare, made))


def name_keys(asset: AssetRecord, need: Needed, keys: Keys) -> Iterator[tuple[bytes, bytes]]:
    """KID and fingerprint of each track of a key record of derived keys: what there is to compare."""
    return derive_names(keys.prk, keys.k_fp, _preimages(asset, need))


def unwrapped(asset: AssetRecord, need: Needed, tracks: tuple[TrackKey, ...], kek_epoch: int) -> KeyRecord:
    """A key record with nothing wrapped."""
    return KeyRecord(
        kek_epoch=kek_epoch,
        tracks=tracks,
        wrapped=b"",
        organization=asset.organization,
        asset=asset.asset,
        key_version=need.key_version,
        root_version=need.root_version,
        period=need.period,
        event=need.event,
    )


def _preimages(asset: AssetRecord, need: Needed) -> list[bytes]:
    """`KeyIdentity.preimage` of every track, which differ in scheme and label alone."""
    period = need.period.index if need.period else None
    before = canonical_name(asset.organization, asset.asset) + recurring(need.key_version, period)
    after = recurring(need.root_version, need.salt)
    return [before + between + after for between in _between(need.tracks, need.single_key)]


@lru_cache(maxsize=256)
def _between(tracks: tuple[TrackIdentity, ...], single_key: bool) -> tuple[bytes, ...]:
    """Scheme and label of each track, as they stand in its preimage."""
    return tuple(canonical(track.scheme, track_label(track.label, single_key=single_key)) for track in tracks)


def track_label(label: str, *, single_key: bool) -> str:
    """The label in a derived key's identity. Clear-key HLS never shares the key of the others."""
    return ALL_TRACKS if single_key and label != CLEAR_LABEL else label
