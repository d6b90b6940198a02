"""
Who may have which keys under what terms: steps 4 to 6 of the license procedure (ARCHITECTURE.md, step 8).

A refusal is a value. Its code is stable and listed in docs/errors.md; its message is safe to show to a player.
"""

from collections.abc import Sequence
from typing import Final

from keymill.core.merging import allows, override, released, tighten, unnamed
from keymill.core.period import is_licensable
from keymill.errors import InvalidRecord
from schemas.access import Entitlement
from schemas.policy import Policy
from schemas.records import AssetRecord, AssetState, KeyOrigin, KeyRecord, PolicyRecord, TrackKey
from schemas.values import CLEAR_LABEL, TRACK_TYPES, Record, check_labels

BUILT_IN_DEFAULT: Final = Policy(can_play=True)
"""Policy 0 of an organization that never changed it: plays online, stores nothing, limits no track and no time."""
_AUDIO: Final = ("AUDIO", "STEREO_AUDIO", "MULTICHANNEL_AUDIO", "MULTICHANNEL_AUDIO_3_6", "MULTICHANNEL_AUDIO_7")
_HD: Final = ("HD", "HD1", "HD2")
UP_TO: Final[dict[str, Policy]] = {
    "SD": Policy(allowed_tracks=(*_AUDIO, "SD")),
    "HD": Policy(allowed_tracks=(*_AUDIO, "SD", *_HD)),
    "UHD1": Policy(allowed_tracks=(*_AUDIO, "SD", *_HD, "UHD1")),
    "UHD2": Policy(),
}
"""What a highest track type allows. A label that may be any picture (ALL, VIDEO, UHD, HLS_AES128) counts as UHD2."""


class Refusal(Record, frozen=True, kw_only=True):
    """No license, and why."""

    code: str
    message: str


class Scope(Record, frozen=True, kw_only=True):
    """
    What a token is good for; at least one of asset and product is named.

    `tracks` None limits nothing, nor does `max_track` None, the highest of SD < HD < UHD1 < UHD2; sound is below all.
    """

    asset: str | None = None
    product: str | None = None
    tracks: tuple[str, ...] | None = None
    max_track: str | None = None

    def __post_init__(self) -> None:
        check_labels(self.tracks, "tracks")
        if self.max_track is not None and self.max_track not in TRACK_TYPES:
            raise InvalidRecord(f"max_track must be one of {', '.join(TRACK_TYPES)}", field="max_track")


class Asks(Record, frozen=True, kw_only=True):
    """
    What a request says about the policy.

    Args:
        overrides: of a server-side caller alone: they may loosen.
        exclusively: nothing of the stored policy holds, the overrides alone do.
        limits: of service and player, in this order: they only tighten.
    """

    overrides: Policy | None = None
    exclusively: bool = False
    limits: tuple[Policy, ...] = ()


NOTHING_ASKED: Final = Asks()


class Grant(Record, frozen=True, kw_only=True):
    """Licenses may be given: under `policy`, at `now_ms`, for the asset's `tracks` (labels, never empty)."""

    policy: Policy
    tracks: tuple[str, ...]
    now_ms: int

    def covers(self, record: KeyRecord, *labels: str, clear: bool = False) -> bool:
        """
        Whether a key of an asset's key record may be given: live, of this period and the next.

        Args:
            labels: every track that the key opens (`opened`): all of them must be granted.
            clear: the key is handed out as it is, so it must be HLS_AES128's, which in turn is in no license.
        """
        if any((label == CLEAR_LABEL) != clear or label not in self.tracks for label in labels):
            return False
        return record.period is None or is_licensable(record.period, self.now_ms)


def opened(asset: AssetRecord, record: KeyRecord, track: TrackKey) -> tuple[str, ...]:
    """
    Every label that the key of a key record's *track* opens, as far as record and asset tell; *track*'s own first.

    One key serves all tracks of a scheme where the version has a single key, and all that bear one KID, whichever
    events brought them.
    """
    labels = [track.label, *(each.label for each in record.tracks if each.kid == track.kid)]
    if record.period is None and record.key_version <= len(asset.versions):
        version = asset.versions[record.key_version - 1]
        single = version.single_key and track.origin is KeyOrigin.DERIVED and track.label != CLEAR_LABEL
        for each in (each for key_set in version.key_sets for each in key_set.tracks):
            shared = single and each.kid is None and each.scheme is track.scheme and each.label != CLEAR_LABEL
            if shared or each.kid == track.kid:
                labels.append(each.label)
    return tuple(dict.fromkeys(labels))


def highest(labels: Sequence[str]) -> str:
    """The label of a shared key where only one can be said: sound below SD < HD < UHD1 < UHD2, any other above."""
    order = (*_AUDIO, "SD", *_HD, "UHD1", "UHD2")
    return max(labels, key=lambda label: order.index(label) if label in order else len(order))


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
    asks: Asks = NOTHING_ASKED,
) -> Grant | Refusal:
    """
    Decide on a license for an asset under its effective policy.

    1. The business rules, see `barred`.
    2. The policy: server-side overrides, then what only tightens. No license outlasts the window or the entitlement
       that it was given on.
    3. The tracks: a list of track specs must name every track that was declared; of all labels of all key versions
       those that everything said allows.
    """
    # (1)
    refusal = barred(asset, scope, now_ms=now_ms, entitlement=entitlement, entitlement_required=entitlement_required)
    if refusal:
        return refusal
    # (2)
    base = asks.overrides if asks.exclusively and asks.overrides is not None else override(policy, asks.overrides)
    until = [asset.available_until, entitlement.valid_until if entitlement and entitlement_required else None]
    merged = tighten(base, *asks.limits, *_limits(until, now_ms, scope))
    if not merged.can_play:
        return Refusal(code="playback_denied", message="the asset's policy does not allow playback")
    # (3)
    if missing := uncovered(asset, base, *asks.limits):
        return Refusal(code="tracks_not_named", message=_not_named(missing))
    allowed = released(merged)
    tracks = tuple(label for label in labels_of(asset) if allows(allowed, label))
    if not tracks:
        return Refusal(code="no_key_allowed", message="policy and token allow none of the asset's tracks")
    return Grant(policy=merged, tracks=tracks, now_ms=now_ms)


def uncovered(asset: AssetRecord, *policies: Policy) -> tuple[str, ...]:
    """
    The labels that the asset's events declared and a policy with track specs does not name; none: as it must be.

    HLS_AES128 is nobody's track type, so it need not be named; track specs that leave it out withhold its key.
    """
    return unnamed(policies, [label for label in labels_of(asset, declared=True) if label != CLEAR_LABEL])


def labels_of(asset: AssetRecord, *, declared: bool = False) -> tuple[str, ...]:
    """Every label that a key version of the asset has, *declared* those that an event named; in order of appearance."""
    sets = [key_set.tracks for version in asset.versions for key_set in version.key_sets]
    sets += [version.live.tracks for version in asset.versions if version.live]
    return tuple(dict.fromkeys(t.label for tracks in sets for t in tracks if t.declared or not declared))


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


def _limits(until_ms: list[int | None], now_ms: int, scope: Scope) -> list[Policy]:
    """Policies that limit nothing but the tracks and the license's end, to whole seconds, at least one."""
    left_s = [max((end - now_ms) // 1000, 1) for end in until_ms if end is not None]
    limit = Policy(license_duration_s=min(left_s, default=None), allowed_tracks=scope.tracks)
    return [limit] if scope.max_track is None else [limit, UP_TO[scope.max_track]]


def _not_named(labels: tuple[str, ...]) -> str:
    return f"content_key_specs must name every track of the asset: {', '.join(labels)} missing"
