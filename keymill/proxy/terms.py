"""Steps (4) and (5) of the procedure: what business rules, policy and token allow, asked of the pure core."""

from typing import Final, NamedTuple

from keymill.core import policy
from keymill.core.policy import Grant, Scope
from keymill.proxy.auth import Claims
from keymill.proxy.request import Reason, Refusal
from keymill.proxy.steps import absent
from keymill.snapshot.reads import Reads
from keymill.snapshot.state import ViewState
from schemas.records import AssetRecord, PolicyRecord

REMEMBERED: Final = 4096
"""Merged policies kept per worker; merging one again costs a tenth of a license."""


class _Merged(NamedTuple):
    asset: AssetRecord
    stored: PolicyRecord | None
    granted: Grant


class Terms:
    """
    Decides on what terms an asset may be licensed.

    A merged policy is remembered for as long as the view holds the very records that it was merged from. Rules that
    hang on the clock or the user are asked every time.
    """

    def __init__(self, *, require_entitlement: bool) -> None:
        self._required = require_entitlement
        self._merged: dict[tuple[str, str, tuple[str, ...] | None], _Merged] = {}

    def grant(
        self, asset: AssetRecord, claims: Claims, view: Reads, state: ViewState, now_ms: int
    ) -> tuple[Grant, int] | Refusal:
        """What is granted, and the version of the policy (0 for the built-in default)."""
        scope = Scope(asset=claims.asset, product=claims.product, tracks=claims.tracks)
        entitlement = None
        if self._required and claims.sub is not None and asset.product_id is not None:
            entitlement = view.entitlement(asset.organization, claims.sub, asset.product_id)
        # (4)
        bar = policy.barred(asset, scope, now_ms=now_ms, entitlement=entitlement, entitlement_required=self._required)
        if bar is not None:
            return _refusal(bar)
        # (5)
        stored = view.policy(asset.organization, asset.policy_id)
        slot = (asset.organization, asset.asset, claims.tracks)
        held = self._merged.get(slot)
        if held is not None and held.asset is asset and held.stored is stored:
            granted = Grant(policy=held.granted.policy, tracks=held.granted.tracks, now_ms=now_ms)
            return granted, stored.version if stored else 0
        effective = policy.effective_policy(asset, stored)
        if isinstance(effective, policy.Refusal):
            return absent(state, Reason(effective.code), effective.message)
        admitted = policy.admit(
            asset, effective, scope=scope, now_ms=now_ms, entitlement=entitlement, entitlement_required=self._required
        )
        if isinstance(admitted, policy.Refusal):
            return _refusal(admitted)
        if asset.available_until is None and not self._required:  # else the license's end is part of what was merged
            self._remember(slot, _Merged(asset, stored, admitted))
        return admitted, stored.version if stored else 0

    def _remember(self, slot: tuple[str, str, tuple[str, ...] | None], merged: _Merged) -> None:
        if len(self._merged) >= REMEMBERED:
            self._merged.pop(next(iter(self._merged)))
        self._merged[slot] = merged


def _refusal(refusal: policy.Refusal) -> Refusal:
    return Refusal(reason=Reason(refusal.code), message=refusal.message)
