"""Which policy an asset may be given: it exists, is not deleted, and names every track that was declared."""

from collections.abc import Iterable

from keymill.core.folding import DEFAULT_POLICY
from keymill.core.merging import unnamed
from keymill.core.policy import BUILT_IN_DEFAULT, uncovered
from keymill.errors import Conflict, InvalidRecord, Reject
from schemas.policy import Policy
from schemas.records import AssetRecord, PolicyRecord, PolicyState


def assignable(organization: str, policy_id: int, stored: PolicyRecord | None) -> Policy:
    """
    The content of a policy that may be assigned.

    Args:
        stored: its record, None where there is none.

    Raises:
        Reject: `policy_unknown`.
        Conflict: `policy_deleted`.
    """
    if stored is None:
        if policy_id == DEFAULT_POLICY:
            return BUILT_IN_DEFAULT
        message = f"organization {organization} has no policy {policy_id}"
        raise Reject(message, field="policy_id", code="policy_unknown")
    if stored.state is PolicyState.DELETED:
        message = f"policy {policy_id} of organization {organization} is deleted: assign another"
        raise Conflict(message, field="policy_id", code="policy_deleted")
    return stored.policy


def check_tracks(policy_id: int, policy: Policy, asset: AssetRecord | None, labels: Iterable[str] = ()) -> None:
    """
    Refuse a policy that leaves out a declared track.

    Args:
        asset: as it is; None where no event of it came yet.
        labels: tracks that the same request declares.

    Raises:
        InvalidRecord: `tracks_not_named`; the message names them.
    """
    declared = uncovered(asset, policy) if asset is not None else ()
    if missing := dict.fromkeys([*declared, *unnamed([policy], labels)]):
        text = f"policy {policy_id} must name every track that the asset declared: {', '.join(missing)} missing"
        raise InvalidRecord(text, field="policy_id", code="tracks_not_named")
