"""Stand-in until keymill.core.policy lands."""

from keymill.proxy.auth import Claims
from keymill.proxy.request import Reason, Refusal
from schemas.access import Entitlement
from schemas.events import Policy
from schemas.records import AssetRecord, AssetState, PolicyRecord

BUILT_IN_DEFAULT = Policy(can_play=True)


def admit(
    asset: AssetRecord, claims: Claims, entitlement: Entitlement | None, *, required: bool, now_ms: int
) -> Refusal | None:
    """Business rules."""
    if claims.asset is not None and claims.asset != asset.asset:
        return Refusal(reason=Reason.TOKEN_SCOPE, message="the token is for another asset")
    if claims.product is not None and claims.product != asset.product_id:
        return Refusal(reason=Reason.TOKEN_SCOPE, message="the token is for another product")
    if asset.state is AssetState.REVOKED:
        return Refusal(reason=Reason.ASSET_REVOKED, message="the asset is revoked")
    if asset.available_from is not None and now_ms < asset.available_from:
        return Refusal(reason=Reason.NOT_YET_AVAILABLE, message="the asset is not available yet")
    if asset.available_until is not None and now_ms >= asset.available_until:
        return Refusal(reason=Reason.NO_LONGER_AVAILABLE, message="the asset is not available any more")
    if required and (
        entitlement is None or (entitlement.valid_until is not None and entitlement.valid_until <= now_ms)
    ):
        return Refusal(reason=Reason.NOT_ENTITLED, message="the user is not entitled to the product")
    return None


def effective(asset: AssetRecord, record: PolicyRecord | None) -> tuple[Policy, int] | None:
    """Policy and its version."""
    if record is not None:
        return record.policy, record.version
    return (BUILT_IN_DEFAULT, 0) if asset.policy_id == 0 else None


def allows(label: str, allowed: tuple[str, ...] | None) -> bool:
    """Whether all of a label's parts are allowed."""
    return allowed is None or set(label.split("+")) <= set(allowed)
