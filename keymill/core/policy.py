"""
Who may have which keys under what terms: steps 4 to 6 of the license procedure (ARCHITECTURE.md, step 9).

A refusal is a value. Its code is stable and listed in docs/errors.md; its message is safe to show to a player.
"""

from typing import Final

from keymill.core.period import is_licensable
from schemas.access import Entitlement
from schemas.events import Policy
from schemas.records import AssetRecord, AssetState, KeyRecord, PolicyRecord
from schemas.values import MAX_INT, MAX_TRACKS, Record, check_labels

BUILT_IN_DEFAULT: Final = Policy(can_play=True)
"""Policy 0 of an organization that never changed it: plays online, stores nothing, limits no track and no time."""

_DURATIONS: Final = ("license_duration_s", "rental_duration_s", "playback_duration_s")


class Refusal(Record, frozen=True, kw_only=True):
    """No license, and why."""

    code: str
    message: str


class Scope(Record, frozen=True, kw_only=True):
    """What a token is good for; at least one of asset and product is named. `tracks` None limits nothing."""

    asset: str | None = None
    product: str | None = None
    tracks: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_labels(self.tracks, "tracks")


class Grant(Record, frozen=True, kw_only=True):
    """Licenses may be given: under `policy`, at `now_ms`, for the asset's `tracks` (labels, never empty)."""

    policy: Policy
    tracks: tuple[str, ...]
    now_ms: int

    def covers(self, record: KeyRecord, label: str) -> bool:
        """Whether that track's key of an asset's key record goes into the license: live, this period and the next."""
        if record.period is not None and not is_licensable(record.period, self.now_ms):
            return False
        return label in self.tracks


def effective_policy(asset: AssetRecord, stored: PolicyRecord | None) -> Policy | Refusal:
    """
    The policy that holds for *asset*: *stored*, or the built-in one for id 0 without a record.

    A deleted policy takes no new assignments and holds on for the assets that have it; one that is missing is never
    replaced by another.
    """
    if stored is None and asset.policy_id == 0:
        return BUILT_IN_DEFAULT
    if stored is None or (stored.organization, stored.policy_id) != (asset.organization, asset.policy_id):
        return Refusal(code="policy_missing", message=f"policy {asset.policy_id} of the asset does not exist")
    return stored.policy


def tighten(policy: Policy, *others: Policy) -> Policy:
    """Merge so that the stricter one wins per field; 0 is the longest duration, and a looser wish is ignored."""
    every = (policy, *others)
    return Policy(
        can_play=all(each.can_play for each in every),
        can_persist=all(each.can_persist for each in every),
        can_renew=all(each.can_renew for each in every),
        allowed_tracks=_common(every),
        **{name: _shortest(*(getattr(each, name) for each in every)) for name in _DURATIONS},
    )


def allows(allowed: tuple[str, ...] | None, label: str) -> bool:
    """Whether *label* is among *allowed*, or is a union (`HD+UHD1`) whose every part is; None allows all."""
    return allowed is None or label in allowed or set(label.split("+")) <= set(allowed)


def barred(
    asset: AssetRecord, scope: Scope, *, now_ms: int, entitlement: Entitlement | None, entitlement_required: bool
) -> Refusal | None:
    """
    Why the business rules forbid a license, or None (step 4).

    Args:
        entitlement: of the token's user to the asset's product; None where there is none or the token names no user.
    """
    if scope.asset is None and scope.product is None:
        return Refusal(code="token_scope", message="the token names neither an asset nor a product")
    if scope.asset not in (None, asset.asset):
        return Refusal(code="token_scope", message="the token is for another asset")
    if scope.product not in (None, asset.product_id):
        return Refusal(code="token_scope", message="the token is for another product")
    if asset.state is AssetState.REVOKED:
        return Refusal(code="asset_revoked", message="the asset is revoked")
    if entitlement_required and not _entitled(asset, entitlement, now_ms):
        return Refusal(code="not_entitled", message="the user is not entitled to the product")
    return _out_of_window(asset, now_ms)


def admit(
    asset: AssetRecord,
    policy: Policy,
    *,
    scope: Scope,
    now_ms: int,
    entitlement: Entitlement | None = None,
    entitlement_required: bool = False,
) -> Grant | Refusal:
    """
    Decide on a license for an asset under its effective policy.

    1. The business rules, see `barred`.
    2. The policy: no license outlasts the window or the entitlement that it was given on.
    3. The tracks: all labels of all key versions that policy and token allow.
    """
    # (1)
    refusal = barred(asset, scope, now_ms=now_ms, entitlement=entitlement, entitlement_required=entitlement_required)
    if refusal:
        return refusal
    # (2)
    if not policy.can_play:
        return Refusal(code="playback_denied", message="the asset's policy does not allow playback")
    until = [asset.available_until, entitlement.valid_until if entitlement and entitlement_required else None]
    merged = tighten(policy, _limits(until, now_ms, scope.tracks))
    # (3)
    tracks = tuple(label for label in _labels(asset) if allows(merged.allowed_tracks, label))
    if not tracks:
        return Refusal(code="no_key_allowed", message="policy and token allow none of the asset's tracks")
    return Grant(policy=merged, tracks=tracks, now_ms=now_ms)


def _entitled(asset: AssetRecord, entitlement: Entitlement | None, now_ms: int) -> bool:
    if entitlement is None or asset.product_id is None:
        return False
    if (entitlement.organization, entitlement.product) != (asset.organization, asset.product_id):
        return False
    return entitlement.valid_until is None or now_ms < entitlement.valid_until


def _out_of_window(asset: AssetRecord, now_ms: int) -> Refusal | None:
    if asset.available_from is not None and now_ms < asset.available_from:
        return Refusal(code="not_yet_available", message="the asset is not available yet")
    if asset.available_until is not None and now_ms >= asset.available_until:
        return Refusal(code="no_longer_available", message="the asset is not available any more")
    return None


def _limits(until_ms: list[int | None], now_ms: int, tracks: tuple[str, ...] | None) -> Policy:
    """A policy that limits nothing but the tracks and the license's end, to whole seconds, at least one."""
    left_s = _shortest(*(min(max((end - now_ms) // 1000, 1), MAX_INT) for end in until_ms if end is not None))
    return Policy(can_play=True, can_persist=True, can_renew=True, license_duration_s=left_s, allowed_tracks=tracks)


def _shortest(*durations_s: int) -> int:
    return min((duration for duration in durations_s if duration), default=0)


def _common(policies: tuple[Policy, ...]) -> tuple[str, ...] | None:
    """The labels that every policy allows; unions that follow from their parts are left out."""
    limits = [policy.allowed_tracks for policy in policies if policy.allowed_tracks is not None]
    if not limits:
        return None
    named = dict.fromkeys(label for limit in limits for label in limit)
    common = [label for label in named if all(allows(limit, label) for limit in limits)]
    single = {label for label in common if "+" not in label}
    return tuple(label for label in common if label in single or not set(label.split("+")) <= single)[:MAX_TRACKS]


def _labels(asset: AssetRecord) -> tuple[str, ...]:
    """Every label that a key version of the asset has, in order of appearance."""
    sets = [key_set.tracks for version in asset.versions for key_set in version.key_sets]
    sets += [version.live.tracks for version in asset.versions if version.live]
    return tuple(dict.fromkeys(track.label for tracks in sets for track in tracks))
