"""
What is known of an Idempotency-Key: an asset's record remembers its last 32 event ids, and when each was accepted.

A request whose key is not among them is new for certain when the memory reaches back over the window that is promised,
when it happened after everything that was forgotten, or when it says what it leads to, so that a second time changes
nothing. Otherwise nobody knows, and it is refused: an answer that is true.
"""

from datetime import UTC, datetime
from typing import Final

from keymill.core.bodies import Body, RotateBody
from keymill.errors import Conflict
from schemas.records import AcceptedEvent, AssetRecord
from schemas.values import MAX_RECENT

WINDOW_MS: Final = 24 * 3_600_000
"""How long after a request the same one has no second effect: whoever tries again tries within a day."""
SKEW_MS: Final = 5_000
"""What the clocks of client, gateway and broker may differ by."""


def accepted_before(asset: AssetRecord | None, event_id: str) -> AcceptedEvent | None:
    """The event of that id that the asset's record remembers."""
    return next((each for each in asset.recent if each.event_id == event_id), None) if asset else None


def require_new(asset: AssetRecord | None, body: Body, now_ms: int) -> None:
    """
    Refuse a request with an idempotency key that may be the repeat of one that is forgotten.

    Args:
        asset: its record, which does not remember the key.
        body: the request's, times as epoch ms.

    Raises:
        Conflict: `idempotency_unknown`; the message says since when keys are remembered, and what to send.
    """
    since_ms = _remembered_since(asset)
    if since_ms is None or since_ms + SKEW_MS <= now_ms - WINDOW_MS:
        return
    if isinstance(body, RotateBody) and body.to_version is not None:
        return  # a version that is there is never made again
    happened = body.event_time
    if isinstance(happened, int) and since_ms + SKEW_MS < happened <= now_ms + SKEW_MS:
        return
    since = datetime.fromtimestamp(since_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    message = (
        f"the asset had more than {MAX_RECENT} events in 24 hours, and Idempotency-Keys from before {since} are "
        "forgotten: look at the asset for what became of this request; if it is new, send its event_time, or "
        "to_version with a rotation"
    )
    raise Conflict(message, field="Idempotency-Key", code="idempotency_unknown")


def _remembered_since(asset: AssetRecord | None) -> int | None:
    """When the oldest id that is remembered was accepted, epoch ms; None while none is forgotten."""
    if asset is None or len(asset.recent) < MAX_RECENT:
        return None
    return asset.recent[0].timestamp
