"""An organization's policies as its records tell them: policy 0 is there from the start, without a record."""

from collections.abc import Iterable
from typing import Final

from keymill.core.folding import DEFAULT_POLICY
from keymill.core.policy import BUILT_IN_DEFAULT
from schemas.records import PolicyRecord, PolicyState
from schemas.values import LogPosition

BUILT_IN_VERSION: Final = 0
BUILT_IN_NAME: Final = "built-in default"


def built_in(organization: str) -> PolicyRecord:
    """Policy 0 while nobody has changed it: version 0, and older than any change."""
    return PolicyRecord(
        organization=organization,
        policy_id=DEFAULT_POLICY,
        version=BUILT_IN_VERSION,
        state=PolicyState.READY,
        name=BUILT_IN_NAME,
        policy=BUILT_IN_DEFAULT,
        applied=LogPosition(generation=0, offset=-1),
        created=0,
        changed=0,
    )


def all_policies(organization: str, stored: Iterable[PolicyRecord]) -> list[PolicyRecord]:
    """Every policy by id, policy 0 among them."""
    records = {record.policy_id: record for record in (built_in(organization), *stored)}
    return [records[policy_id] for policy_id in sorted(records)]


def requested(record: PolicyRecord, request_id: str) -> bool:
    """Whether that request created the policy, or changed it last."""
    return request_id in {each.request_id for each in (record.created_by, record.changed_by) if each}
