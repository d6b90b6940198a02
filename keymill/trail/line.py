"""An audit event as a line: what the log shows, what the spool holds, and what becomes a record of the topic. Pure."""

from datetime import datetime
from typing import Final

import msgspec

from keymill.errors import InvalidRecord
from schemas.audit import AuditEvent, EventPlace
from schemas.ids import NAME
from schemas.values import KID_SIZE, MAX_TEXT, Record

GRANTED, ACCEPTED, CERTIFICATE, PARSED = "granted", "accepted", "certificate", "parsed"
_SERVED: Final = frozenset({GRANTED, ACCEPTED, CERTIFICATE, PARSED})
_KID_HEX: Final = 2 * KID_SIZE


class AuditLine(Record, frozen=True, kw_only=True):
    """
    One answer, as a line of the log: KIDs in hex; no token, challenge or key.

    Args:
        event: a `What`, the event's name in the log.
        reason: `granted`, `accepted`, or why not; `certificate` or `parsed` where no license was asked for.
        drm_system: may be `hls`: the clear key of HLS_AES128.
        became: the event that the request became.
    """

    timestamp: str
    event: str
    level: str = "info"
    logger: str = "keymill.audit"
    program: str
    request_id: str
    reason: str
    drm_system: str = ""
    organization: str = ""
    asset: str = ""
    kids: tuple[str, ...] = ()
    key_versions: tuple[int, ...] = ()
    policy_id: int | None = None
    policy_version: int | None = None
    user: str = ""
    caller: str = ""
    client: str = ""
    became: EventPlace | None = None


def name_of(given: str | None) -> str:
    """What a request names before anybody has checked it, where it can be a name at all and not, say, a token."""
    return given if given and NAME.fullmatch(given) else ""


_decoder: Final = msgspec.json.Decoder(AuditLine)


def event_of(line: bytes, instance: str) -> AuditEvent:
    """
    The record of a spooled line: its sequence number, a blank, the JSON of an `AuditLine`.

    What the request said and nobody has checked is cut to 512 characters; what can be no KID is left out.

    Raises:
        InvalidRecord: the line is torn, or of another release.
    """
    number, _, text = line.partition(b" ")
    try:
        told, sequence = _decoder.decode(text), int(number)
        at = round(datetime.fromisoformat(told.timestamp).timestamp() * 1000)
        kids = tuple(bytes.fromhex(kid) for kid in told.kids if len(kid) == _KID_HEX)
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidRecord(f"a line of the spool cannot be read: {type(error).__name__}") from None
    return AuditEvent(
        at=at,
        program=told.program,
        instance=instance,
        sequence=sequence,
        request_id=told.request_id,
        what=told.event,
        granted=told.reason in _SERVED,
        reason=told.reason,
        drm_system=told.drm_system,
        organization=told.organization[:MAX_TEXT],
        asset=told.asset[:MAX_TEXT],
        kids=kids,
        key_versions=told.key_versions,
        policy_id=told.policy_id,
        policy_version=told.policy_version,
        user=told.user,
        caller=told.caller,
        client=told.client,
        event=told.became,
    )
