"""Who was given what, or why not: what proxies and gateways write to the audit topic.

`audit_event.avsc` beside this module is the contract; field names and order are its.
"""

from enum import StrEnum

from schemas.values import KID_SIZE, Record, check_least, check_size


class What(StrEnum):
    """What was asked for. The schema holds a string, since later releases may know more."""

    LICENSE = "license"
    KEY_DELIVERY = "key_delivery"
    ASSET_EVENT = "asset_event"
    POLICY_CHANGE = "policy_change"
    ENTITLEMENT = "entitlement"
    WITHDRAWAL = "withdrawal"


class EventPlace(Record, frozen=True, kw_only=True):
    """Where an event stands in the log."""

    topic: str
    partition: int
    generation: int
    offset: int


class AuditEvent(Record, frozen=True, kw_only=True):
    """
    One answer to somebody who asked for keys, or for a change that makes some. No secret.

    Args:
        instance: one life of one writing process; with `sequence` it names the event, so a duplicate is seen.
        sequence: from 1, ascending without holes but for events that were lost.
        what: a `What`, or a word of a later release.
        reason: granted, accepted, certificate, parsed, or the code of the refusal.
        caller: id of the credential or token key that proved who asks.
    """

    at: int
    program: str
    instance: str
    sequence: int
    request_id: str
    what: str
    granted: bool
    reason: str
    drm_system: str = ""
    organization: str = ""
    asset: str = ""
    kids: tuple[bytes, ...] = ()
    key_versions: tuple[int, ...] = ()
    policy_id: int | None = None
    policy_version: int | None = None
    user: str = ""
    caller: str = ""
    client: str = ""
    event: EventPlace | None = None

    def __post_init__(self) -> None:
        check_least(self.policy_version, 0, "policy_version")
        for kid in self.kids:
            check_size(kid, KID_SIZE, "kids")
