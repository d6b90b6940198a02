"""
Several policies into one: overrides replace, limits and wishes only tighten (design 5, the merge order).

Stored policy, server-side overrides, service limits, token limits, player wishes: the first two by `override`, all
that follow by `tighten`. What nobody says stays absent, and the license server's own default holds.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any, Final, TypeVar

import msgspec

from schemas.policy import (
    Cgms,
    FairPlayTerms,
    Hdcp,
    PlayReadyTerms,
    Policy,
    SrmRule,
    TrackTerms,
    WidevineTerms,
)
from schemas.values import MAX_TRACKS, Record

T = TypeVar("T", bound=Record)
Terms = WidevineTerms | PlayReadyTerms | FairPlayTerms
Choice = Callable[[Any, Any], Any]

_DEMANDS: Final = ("widevine", "playready", "fairplay")


def override(policy: Policy, overrides: Policy | None) -> Policy:
    """
    *policy* with every member that *overrides* says; a looser value wins too. `source` is the result's no more.

    Track specs choose the tracks instead of what *policy* allowed. What *overrides* allows chooses among the tracks of
    *policy*'s specs, whose demands stay.
    """
    if overrides is None:
        return policy
    merged = _over(policy, overrides)
    if overrides.tracks is not None and overrides.allowed_tracks is None:
        merged = msgspec.structs.replace(merged, allowed_tracks=None)
    if policy.tracks is not None and overrides.tracks is not None:
        held = {track.label: track for track in policy.tracks}
        merged = msgspec.structs.replace(
            merged,
            tracks=tuple(_over(held[t.label], t) if t.label in held else t for t in overrides.tracks),
        )
    return msgspec.structs.replace(merged, source=None)


def tighten(policy: Policy, *others: Policy) -> Policy:
    """
    Merge so that the stricter one wins per member; a looser wish is ignored.

    Higher security level, tighter output protection, shorter duration with 0 the longest, no persistence, no renewal.
    What restricts nothing (renewal, session data, names for the license server) is *policy*'s.
    """
    if not others:
        return policy
    every = (policy, *others)
    return msgspec.structs.replace(
        policy,
        can_play=_permitted(*(each.can_play for each in every)),
        can_persist=_permitted(*(each.can_persist for each in every)),
        can_renew=_permitted(*(each.can_renew for each in every)),
        license_duration_s=_shortest(*(each.license_duration_s for each in every)),
        rental_duration_s=_shortest(*(each.rental_duration_s for each in every)),
        playback_duration_s=_shortest(*(each.playback_duration_s for each in every)),
        allowed_tracks=_common([released(each) for each in every]),
        tracks=_tighter_tracks(every),
        source=None,
        **{name: _tightest(getattr(each, name) for each in every) for name in _DEMANDS},
    )


def allows(allowed: Sequence[str] | None, label: str) -> bool:
    """Whether *label* is among *allowed*, or is a union (`HD+UHD1`) whose every part is; None allows all."""
    return allowed is None or label in allowed or set(label.split("+")) <= set(allowed)


def released(policy: Policy) -> tuple[str, ...] | None:
    """The labels whose keys *policy* releases: those that it allows, of those that it names if it names any."""
    named = None if policy.tracks is None else tuple(track.label for track in policy.tracks)
    return _common([policy.allowed_tracks, named])


def unnamed(policies: Iterable[Policy], labels: Iterable[str]) -> tuple[str, ...]:
    """Of *labels*, declared by an asset's event, those that some policy with track specs leaves out."""
    lists = [[track.label for track in policy.tracks] for policy in policies if policy.tracks is not None]
    return tuple(label for label in labels if not all(allows(named, label) for named in lists))


def widevine_terms(policy: Policy, *labels: str) -> WidevineTerms:
    """What Widevine demands for the key of these tracks: the strictest demands of them all."""
    return _key_terms(policy, labels, "widevine") or WidevineTerms()


def playready_terms(policy: Policy, *labels: str) -> PlayReadyTerms:
    """What PlayReady demands for the key of these tracks."""
    return _key_terms(policy, labels, "playready") or PlayReadyTerms()


def fairplay_terms(policy: Policy, *labels: str) -> FairPlayTerms:
    """What FairPlay demands for the key of these tracks."""
    return _key_terms(policy, labels, "fairplay") or FairPlayTerms()


def _key_terms(policy: Policy, labels: Sequence[str], system: str) -> Any:
    """One key may serve several tracks, and a track may be a union of labels (`HD+UHD1`): whatever their order."""
    named = {track.label for track in policy.tracks or ()}
    single = [part for label in labels for part in ((label,) if label in named else label.split("+"))]
    every = [_track_terms(policy, label, system) for label in dict.fromkeys(single)]
    if len(every) == 1:
        return every[0]
    tightest = _tightest(every)
    if tightest is None:
        return None
    said = [terms or type(tightest)() for terms in every]
    permissions = {
        name: _unanimous([getattr(terms, name) for terms in said])
        for name in tightest.__struct_fields__
        if _STRICTER[name] is _permitted
    }
    return msgspec.structs.replace(tightest, **permissions)


def _track_terms(policy: Policy, label: str, system: str) -> Any:
    whole = getattr(policy, system)
    track = next((track for track in policy.tracks or () if track.label == label), None)
    own = None if track is None else getattr(track, system)
    return whole if own is None else own if whole is None else _over(whole, own)


def _over(first: T, second: T) -> T:
    """*first* with every member that *second* has; of a struct within, member by member."""
    changes = {}
    for name in first.__struct_fields__:
        held, new = getattr(first, name), getattr(second, name)
        if new is not None:
            changes[name] = _over(held, new) if isinstance(held, Record) and isinstance(new, Record) else new
    return msgspec.structs.replace(first, **changes)


def _tighter_tracks(policies: Sequence[Policy]) -> tuple[TrackTerms, ...] | None:
    named = dict.fromkeys(track.label for policy in policies for track in policy.tracks or ())
    if not named:
        return None if all(policy.tracks is None for policy in policies) else ()
    kids = {track.label: track.kid for policy in reversed(policies) for track in policy.tracks or ()}
    return tuple(
        TrackTerms(
            label=label,
            kid=kids[label],
            **{name: _tightest(_track_terms(policy, label, name) for policy in policies) for name in _DEMANDS},
        )
        for label in named
    )


def _tightest(every: Iterable[Terms | None]) -> Any:
    given = list(every)
    kind = next((type(terms) for terms in given if terms is not None), None)
    return None if kind is None else reduce(_tighter, [kind() if terms is None else terms for terms in given])


def _tighter(first: Any, second: Any) -> Any:
    stricter = {name: _STRICTER[name](getattr(first, name), getattr(second, name)) for name in first.__struct_fields__}
    return type(first)(**stricter)


def _permitted(first: bool | None, *others: bool | None) -> bool | None:
    """Permission is the first one's to give: absent there, nobody after it can say yes, but everybody no."""
    return False if False in others else first


def _unanimous(values: Sequence[bool | None]) -> bool | None:
    """Permission that tracks give together: all must say yes, and one no is no."""
    return False if False in values else True if set(values) == {True} else None


def _either(*values: bool | None) -> bool | None:
    said = [value for value in values if value is not None]
    return any(said) if said else None


def _shortest(*durations_s: int | None) -> int | None:
    said = [duration for duration in durations_s if duration is not None]
    return min((duration for duration in said if duration), default=0) if said else None


def _largest(*values: int | None) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _last_of(order: Sequence[str]) -> Choice:
    rank = {value: index for index, value in enumerate(order)}
    return lambda *values: max((v for v in values if v is not None), key=lambda v: rank[v], default=None)


_STRICTER: Final[dict[str, Choice]] = {
    "security_level": _largest,
    "hdcp": _last_of(tuple(Hdcp)),
    "cgms": _last_of(tuple(Cgms)),
    "disable_analog_output": _either,
    "hdcp_srm_rule": _last_of(tuple(SrmRule)),
    "override_device_revocation": _permitted,
    "digital_video_level": _largest,
    "analog_video_level": _largest,
    "digital_audio_level": _largest,
    "hdcp_type1": _either,
    "hdcp_enforcement": _largest,
    "allow_airplay": _permitted,
    "allow_av_adapter": _permitted,
}
"""Of two values of a demand, either perhaps absent, the stricter one."""


def _common(limits: Iterable[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """The labels that every limit allows; unions that follow from their parts are left out."""
    said = [limit for limit in limits if limit is not None]
    if not said:
        return None
    named = dict.fromkeys(label for limit in said for label in limit)
    common = [label for label in named if all(allows(limit, label) for limit in said)]
    single = {label for label in common if "+" not in label}
    return tuple(label for label in common if label in single or not set(label.split("+")) <= single)[:MAX_TRACKS]
