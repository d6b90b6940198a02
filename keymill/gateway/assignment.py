"""Policies that requests assign: checked against the view, before the event is published."""

from keymill.core.assignment import assignable, check_tracks
from keymill.core.bodies import IngestBody, PolicyBody, TrackBody
from keymill.errors import NotReady, Reject
from keymill.gateway.service import Service
from schemas.policy import Policy
from schemas.records import AssetRecord


async def check_assignment(service: Service, organization: str, asset: str, body: IngestBody | PolicyBody) -> None:
    """
    Refuse a body that assigns a policy which cannot hold for the asset.

    Raises:
        Reject: `policy_unknown`, `policy_deleted`, `tracks_not_named`.
        NotReady: the view is behind, or an earlier event of the asset is not processed yet.
    """
    if body.policy_id is None:
        return
    policy = await policy_to_assign(service, organization, body.policy_id)
    if policy.tracks is None:
        return
    tracks = body.tracks or () if isinstance(body, IngestBody) else ()
    labels = [track.track_type or "" for track in tracks if isinstance(track, TrackBody)]
    check_tracks(body.policy_id, policy, await _settled(service, organization, asset), labels)


async def policy_to_assign(service: Service, organization: str, policy_id: int) -> Policy:
    """Return the policy's content; raises as `check_assignment` does."""
    stored = service.reader.policy(organization, policy_id)
    try:
        return assignable(organization, policy_id, stored)
    except Reject as refusal:
        raise (refusal if stored else await service.absent(refusal, "a policy")) from None


async def _settled(service: Service, organization: str, asset: str) -> AssetRecord | None:
    """The asset's record with every event that this gateway published; None when it has none yet."""
    last = service.intake.last(organization, asset)
    if last is not None and await service.outcome(last, service.settings.wait_s) is None:
        raise NotReady(f"an earlier event of asset {asset} is not processed yet")
    return service.reader.asset(organization, asset)
