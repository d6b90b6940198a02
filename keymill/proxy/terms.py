"""Steps (4) and (5) of the procedure: what business rules, policy and token allow, asked of the pure core."""

from typing import Final, NamedTuple

import msgspec

from keymill.core import policy
from keymill.core.policy import NOTHING_ASKED, Asks, Grant, Scope
from keymill.proxy import named_keys
from keymill.proxy.auth import Claims
from keymill.proxy.request import LicenseRequest, Reason, Refusal
from keymill.proxy.steps import absent
from keymill.snapshot.reads import Reads
from schemas.access import Entitlement, OrganizationCreated
from schemas.policy import Policy
from schemas.records import AssetRecord, PolicyRecord

REMEMBERED: Final = 4096
"""Merged policies kept per worker; merging one again costs a tenth of a license."""
Slot = tuple[str, str, tuple[str, ...] | None, str | None]


class Caller(NamedTuple):
    """Who asks: the token's claims, its organization, and the limits of the service that was named."""

    claims: Claims
    organization: OrganizationCreated
    limits: Policy | None = None


class _Merged(NamedTuple):
    asset: AssetRecord
    stored: PolicyRecord | None
    limits: Policy | None
    granted: Grant


class _Rules(NamedTuple):
    """What hangs on the user."""

    scope: Scope
    entitlement: Entitlement | None
    required: bool


class Terms:
    """
    Decides on what terms an asset may be licensed.

    A merged policy is remembered for as long as the view holds the very records that it was merged from: the asset's,
    the policy's and the service's; the token's limits are part of its name. Nothing is remembered where the request
    says something about the policy, or the license's end hangs on clock or user. The rules are asked every time.
    """

    def __init__(self, *, require_entitlement: bool) -> None:
        self._required = require_entitlement
        self._merged: dict[Slot, _Merged] = {}

    def grant(
        self, request: LicenseRequest, asset: AssetRecord, caller: Caller, view: Reads, now_ms: int
    ) -> tuple[Grant, int] | Refusal:
        """What is granted, and the version of the policy (0 for the built-in default)."""
        claims = caller.claims
        # (4)
        required = self._required or caller.organization.entitlements_required
        scope = Scope(asset=claims.asset, product=claims.product, tracks=claims.tracks, max_track=claims.max_track)
        entitlement = _entitlement(asset, claims, view) if required else None
        bar = policy.barred(asset, scope, now_ms=now_ms, entitlement=entitlement, entitlement_required=required)
        if bar is not None:
            return _refusal(bar)
        # (5)
        stored = view.policy(asset.organization, asset.policy_id)
        slot = (asset.organization, asset.asset, claims.tracks, claims.max_track)
        plain = request.message is None and asset.available_until is None and not required
        held = self._merged.get(slot) if plain else None
        if held and held.asset is asset and held.stored is stored and held.limits is caller.limits:
            granted = Grant(policy=held.granted.policy, tracks=held.granted.tracks, now_ms=now_ms)
            return granted, stored.version if stored else 0
        rules = _Rules(scope, entitlement, required)
        merged = _merge(request, asset, caller, stored, rules, view, now_ms)
        if plain and isinstance(merged, Grant):
            self._remember(slot, _Merged(asset, stored, caller.limits, merged))
        return merged if isinstance(merged, Refusal) else (merged, stored.version if stored else 0)

    def _remember(self, slot: Slot, merged: _Merged) -> None:
        if len(self._merged) >= REMEMBERED:
            self._merged.pop(next(iter(self._merged)))
        self._merged[slot] = merged


def _entitlement(asset: AssetRecord, claims: Claims, view: Reads) -> Entitlement | None:
    if claims.sub is None or asset.product_id is None:
        return None
    return view.entitlement(asset.organization, claims.sub, asset.product_id)


def asks_of(request: LicenseRequest, caller: Caller, asset: AssetRecord, view: Reads) -> Asks | Refusal:
    """What a request says about the policy: overrides of a server-side caller, a limit of any other."""
    limits = () if caller.limits is None else (caller.limits,)
    message = request.message
    if message is None:
        return Asks(limits=limits) if limits else NOTHING_ASKED
    said = named_keys.policy_of(message, asset, view)
    if isinstance(said, Refusal):
        return said
    if caller.claims.server_side and message.exclusively:
        return Asks(overrides=msgspec.structs.replace(said, can_play=message.can_play), exclusively=True, limits=limits)
    if caller.claims.server_side:
        return Asks(overrides=said, limits=limits)
    return Asks(limits=(*limits, said))


def _merge(
    request: LicenseRequest,
    asset: AssetRecord,
    caller: Caller,
    stored: PolicyRecord | None,
    rules: _Rules,
    view: Reads,
    now_ms: int,
) -> Grant | Refusal:
    effective = policy.effective_policy(asset, stored)
    if isinstance(effective, policy.Refusal):
        return absent(Reason(effective.code), effective.message)
    asks = asks_of(request, caller, asset, view)
    if isinstance(asks, Refusal):
        return asks
    admitted = policy.admit(
        asset,
        effective,
        scope=rules.scope,
        now_ms=now_ms,
        entitlement=rules.entitlement,
        entitlement_required=rules.required,
        asks=asks,
    )
    if isinstance(admitted, policy.Refusal):
        return _refusal(admitted)
    said = [each for each in (asks.overrides, *asks.limits) if each is not None]
    return named_keys.strange_kid(asset, said if asks.exclusively else [effective, *said], view) or admitted


def _refusal(refusal: policy.Refusal) -> Refusal:
    reason = Reason(refusal.code)
    return Refusal(reason=reason, message=refusal.message, absent=reason is Reason.NOT_ENTITLED)
