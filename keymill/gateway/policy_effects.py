"""What shows that a policy change was processed: the record that it called for, in the gateway's view."""

import time
from collections.abc import Callable
from typing import Final

from keymill.core.policy_records import requested
from keymill.gateway.waiting import Published
from keymill.snapshot.reader import SnapshotReader
from schemas.events import PolicyChange, PolicyCreated
from schemas.records import PolicyRecord

LETTER_S: Final = 0.5
"""What a change's dead letter may come later than the records of the changes after it."""
Effect = Callable[[], PolicyRecord | None]


def created(reader: SnapshotReader, change: PolicyChange) -> Effect:
    """Finds the policy that *change* creates, by its request id."""
    return lambda: reader.policy_of_request(change.organization, change.request_id or "")


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
