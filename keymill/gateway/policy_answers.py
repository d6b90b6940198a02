"""What the gateway answers about policies and entitlements."""

from keymill.core.policy_records import BUILT_IN_VERSION
from keymill.gateway.answers import rfc3339
from schemas.policy import Policy
from schemas.records import PolicyRecord, PolicyState
from schemas.values import Record


class StoredPolicy(Record, frozen=True, kw_only=True):
    """A change is in: the policy's id and version. `warnings` are about the document, for a person."""

    policy_id: int
    version: int
    warnings: tuple[str, ...] = ()


class DeletedPolicy(Record, frozen=True, kw_only=True):
    """The policy takes no new assignments; the assets that have it go on with its last content."""

    policy_id: int
    version: int
    state: PolicyState


class PolicySummary(Record, frozen=True, kw_only=True):
    """A policy without its content; version 0 is the built-in policy 0, which has no times."""

    policy_id: int
    version: int
    state: PolicyState
    name: str
    created: str | None = None
    changed: str | None = None


class PolicyDetail(PolicySummary, frozen=True, kw_only=True):
    """A policy with its content, in keymill's own words."""

    policy: Policy


class PolicyList(Record, frozen=True, kw_only=True):
    """An organization's policies by id."""

    policies: tuple[PolicySummary, ...]


class EntitlementAnswer(Record, frozen=True, kw_only=True):
    """A user may play a product, for ever where there is no `valid_until`."""

    organization: str
    user: str
    product: str
    valid_until: str | None


def summary(record: PolicyRecord) -> PolicySummary:
    """A policy without its content."""
    stored = record.version != BUILT_IN_VERSION
    return PolicySummary(
        policy_id=record.policy_id,
        version=record.version,
        state=record.state,
        name=record.name,
        created=rfc3339(record.created) if stored else None,
        changed=rfc3339(record.changed) if stored else None,
    )


def detail(record: PolicyRecord) -> PolicyDetail:
    """A policy with its content."""
    about = summary(record)
    return PolicyDetail(
        policy_id=about.policy_id,
        version=about.version,
        state=about.state,
        name=about.name,
        created=about.created,
        changed=about.changed,
        policy=record.policy,
    )
