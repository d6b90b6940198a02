"""What shows that a policy change was processed: the record that it called for, in the gateway's view."""

import time
from collections.abc import Callable
from typing import Final

from keymill.core.policy_records import requested
from keymill.gateway.waiting import Published
from keymill.snapshot.reader import SnapshotReader
from keymill.snapshot.reads import Reads
from schemas.events import PolicyChange, PolicyCreated
from schemas.records import PolicyRecord

LETTER_S: Final = 0.5
"""What a change's dead letter may come later than the records of the changes after it."""
Effect = Callable[[], PolicyRecord | None]


def newest_policy(view: Reads, organization: str) -> int:
    """The highest policy id of an organization; its ids have no gaps, so a few look-ups find it among thousands."""
    low, high = 0, 1
    while view.policy(organization, high) is not None:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if view.policy(organization, middle) is not None else (low, middle)
    return low


def of_request(reader: SnapshotReader, organization: str, request_id: str) -> PolicyRecord | None:
    """The policy that a request created or changed last, looked for among all."""
    return next((record for record in reader.policies(organization) if requested(record, request_id)), None)


def created(reader: SnapshotReader, change: PolicyChange, newest: int) -> Effect:
    """Finds the policy that *change* creates, whose id is above *newest*."""
    request_id = change.request_id or ""

    def look() -> PolicyRecord | None:
        policy_id = newest + 1
        with reader.at_once() as view:
            while (record := view.policy(change.organization, policy_id)) is not None:
                if requested(record, request_id):
                    return record
                policy_id += 1
        return None

    return look


def changed(reader: SnapshotReader, change: PolicyChange, published: Published) -> Effect:
    """
    Finds the policy that *change* updates or deletes, with it in.

    `applied` beyond the change without its request id is ambiguous: a later change went over it, or it was refused and
    its dead letter is on the way. So half a second passes before that counts.
    """
    assert not isinstance(change.body, PolicyCreated)
    policy_id, request_id = change.body.policy_id, change.request_id or ""
    patience: list[float] = []

    def look() -> PolicyRecord | None:
        record = reader.policy(change.organization, policy_id)
        if record is None or record.applied < published.position:
            return None
        if requested(record, request_id) or record.applied == published.position:
            return record
        patience.append(time.monotonic())
        return record if patience[-1] - patience[0] >= LETTER_S else None

    return look
