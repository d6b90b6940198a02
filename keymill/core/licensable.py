"""
Which of an asset's key records a license may hold, each named by its record key.

The asset record names them all, so none is searched for: what a license costs does not grow with the crypto periods
that an asset ever had.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Final, NamedTuple

from keymill.core.identity import key_set_digest
from keymill.core.period import index_at, spans
from schemas.ids import key_set_key
from schemas.records import AssetRecord, KeyVersion, LivePeriods, TrackIdentity

NEWEST_PERIODS: Final = 20
"""
Periods without a clock that a license holds when the request names none: the two newest blocks of a packager.

Shaka Packager asks for ten periods at a time, ahead of their use, so what goes on air lies in one of the two.
"""
MAX_LICENSED_KEYS: Final = 128
"""
Keys of a license whose challenge names none: the most tracks (64) in two crypto periods, the newest version's first.

No license server is asked for more, however many versions an asset has.
"""


class NamedPeriod(NamedTuple):
    """A crypto period that a request names by a KID of it."""

    key_version: int
    period: int


def licensable(
    asset: AssetRecord, *, labels: Collection[str], now_ms: int, named: Collection[NamedPeriod] = ()
) -> Iterator[bytes]:
    """
    Record keys of the key records that a license may hold at *now_ms*, the newest version's first.

    Of a version its keys for all time, and of its crypto periods the current one and the next where the content has a
    clock; without a clock those that *named* holds, each with the next, or else the newest (`NEWEST_PERIODS`) of the
    span that was asked for last.

    Args:
        labels: a key record without any of these tracks is left out.
    """
    for version in reversed(asset.versions):
        for key_set in version.key_sets:
            if _has_any(key_set.tracks, labels):
                yield key_set_key(asset.organization, asset.asset, key_set.digest)
        if version.live and _has_any(version.live.tracks, labels):
            for index in _on_air(version.key_version, version.live, now_ms, named):
                yield period_key(asset, version, index)


def period_key(asset: AssetRecord, version: KeyVersion, index: int) -> bytes:
    """Record key of the key record of a crypto period; the version must have periods."""
    assert version.live is not None
    digest = key_set_digest(
        organization=asset.organization,
        asset=asset.asset,
        key_version=version.key_version,
        root_version=version.root_version,
        salt=version.salt,
        period=index,
        tracks=version.live.tracks,
    )
    return key_set_key(asset.organization, asset.asset, digest)


def _on_air(key_version: int, live: LivePeriods, now_ms: int, named: Collection[NamedPeriod]) -> list[int]:
    """Indexes of the periods to look for, the likeliest first."""
    if live.start is not None:
        current = index_at(now_ms, period_s=live.period_s, start=live.start)
        return _within(live, (current, current + 1))
    if named:
        mine = sorted(each.period for each in named if each.key_version == key_version)
        return _within(live, (index for first in mine for index in (first, first + 1)))
    return list(reversed(spans(live)[-1][-NEWEST_PERIODS:]))


def _within(live: LivePeriods, wanted: Iterable[int]) -> list[int]:
    every = spans(live)
    return [index for index in dict.fromkeys(wanted) if any(index in span for span in every)]


def _has_any(tracks: Iterable[TrackIdentity], labels: Collection[str]) -> bool:
    return any(track.label in labels for track in tracks)
