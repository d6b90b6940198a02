"""What the proxy's audit events say: one line per answer, granted or refused, without secrets."""

from typing import Final

from keymill import telemetry
from keymill.proxy.auth import Verified
from keymill.proxy.request import Answer, LicenseRequest, Refusal
from keymill.proxy.upstream.contract import Granted, GrantedKey
from keymill.trail.line import CERTIFICATE, GRANTED, PARSED, AuditLine, name_of
from keymill.trail.recorder import utc
from schemas.audit import What

HLS: Final = "hls"
_LICENSE: Final = What.LICENSE.value
_PROGRAM: Final = "proxy"


def licensed(
    request: LicenseRequest, granted: Granted | None, outcome: Answer | Refusal, verified: Verified | None, at_ms: int
) -> AuditLine:
    """
    The audit event of a decision.

    Args:
        granted: None where no key was granted.
        verified: what the request's token says, when its signature was right.
    """
    claims = granted.claims if granted is not None else verified.claims if verified is not None else None
    caller = verified.credential.credential if verified is not None else ""
    user = claims.sub or "" if claims is not None else ""
    if granted is None:
        return AuditLine(
            timestamp=utc(at_ms), event=_LICENSE, program=_PROGRAM, request_id=telemetry.request_id.get(),
            reason=outcome.reason.value if isinstance(outcome, Refusal) else CERTIFICATE,
            drm_system=HLS if request.hls else request.drm_system or "",
            organization=name_of(request.organization) or (claims.organization if claims is not None else ""),
            asset=name_of(request.asset), kids=(request.kid.hex(),) if request.kid else (),
            user=user, caller=caller, client=request.client,
        )  # fmt: skip
    served = PARSED if granted.parse_only else GRANTED
    return AuditLine(
        timestamp=utc(at_ms), event=_LICENSE, program=_PROGRAM, request_id=telemetry.request_id.get(),
        reason=outcome.reason.value if isinstance(outcome, Refusal) else served,
        drm_system=HLS if request.hls else granted.drm_system,
        organization=granted.asset.organization, asset=granted.asset.asset,
        kids=tuple([key.kid.hex() for key in granted.keys]), key_versions=_versions(granted.keys),
        policy_id=granted.asset.policy_id, policy_version=granted.policy_version,
        user=user, caller=caller, client=request.client,
    )  # fmt: skip


def unread(refusal: Refusal, client: str, at_ms: int) -> AuditLine:
    """The audit event of a request that its dialect could not read."""
    return AuditLine(
        timestamp=utc(at_ms), event=_LICENSE, program=_PROGRAM, request_id=telemetry.request_id.get(),
        reason=refusal.reason.value, client=client,
    )  # fmt: skip


def _versions(keys: tuple[GrantedKey, ...]) -> tuple[int, ...]:
    first = keys[0].key_version
    for key in keys:
        if key.key_version != first:
            return tuple(sorted({each.key_version for each in keys}))
    return (first,)
