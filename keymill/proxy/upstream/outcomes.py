"""What becomes of a request to a license server, and what the player is told of it: a table, and no I/O."""

from enum import StrEnum
from typing import Final

from keymill.proxy.request import TRANSIENT_RETRY_S, Reason, Refusal
from schemas.values import Record


class Lost(StrEnum):
    """No answer that could be passed on, and why."""

    NOT_CONNECTED = "not_connected"
    CONNECT_TIMEOUT = "connect_timeout"
    BROKEN = "broken"
    TOO_LARGE = "too_large"
    COMPRESSED = "compressed"
    DEADLINE = "deadline"
    HELD_BACK = "held_back"


class Reply(Record, frozen=True, kw_only=True):
    """A whole answer. The body is a license, or holds one: it is never printed."""

    status: int
    content_type: str
    body: bytes

    def __repr__(self) -> str:
        return f"Reply({self.status}, {len(self.body)} bytes)"


Outcome = Reply | Lost

_NOTHING_ARRIVED: Final = frozenset({Lost.NOT_CONNECTED, Lost.CONNECT_TIMEOUT})
_PASSING: Final = frozenset({502, 503, 504})
_REFUSALS: Final = frozenset({400, 402, 403, 409, 410, 412, 413, 415, 422, 451})
"""Statuses that mean this player or device; 401, 404 and their like mean our settings."""
_LOST: Final[dict[Lost, tuple[Reason, str]]] = {
    Lost.NOT_CONNECTED: (Reason.UPSTREAM_UNAVAILABLE, "the license server cannot be reached"),
    Lost.CONNECT_TIMEOUT: (Reason.UPSTREAM_TIMEOUT, "the license server takes no connection in time"),
    Lost.BROKEN: (Reason.UPSTREAM_FAILED, "the license server broke off"),
    Lost.TOO_LARGE: (Reason.UPSTREAM_FAILED, "the license server's answer is larger than allowed"),
    Lost.COMPRESSED: (Reason.UPSTREAM_FAILED, "the license server's answer is compressed, which was not asked for"),
    Lost.DEADLINE: (Reason.UPSTREAM_TIMEOUT, "the license server did not answer in time"),
    Lost.HELD_BACK: (Reason.UPSTREAM_UNAVAILABLE, "the license server failed repeatedly and is given a rest"),
}


def may_repeat(outcome: Outcome) -> bool:
    """Whether the same request may be sent again: nothing of it arrived, or the server said that it did nothing."""
    return outcome.status in _PASSING if isinstance(outcome, Reply) else outcome in _NOTHING_ARRIVED


def is_sign_of_life(outcome: Outcome) -> bool:
    """
    Whether the server works. Only 502 to 504 and no answer at all say otherwise.

    A 500 does not: PlayReady's servers answer every refusal with it, so that one player could cut off all others.
    """
    if isinstance(outcome, Reply):
        return outcome.status not in _PASSING
    return outcome in (Lost.TOO_LARGE, Lost.COMPRESSED)


def label(outcome: Outcome) -> str:
    """A metric's and a log's word for it."""
    return f"{outcome.status // 100}xx" if isinstance(outcome, Reply) else outcome.value


def refused(lost: Lost, retry_after_s: int = TRANSIENT_RETRY_S) -> Refusal:
    """What the player is told."""
    reason, message = _LOST[lost]
    return Refusal(reason=reason, message=message, retry_after_s=retry_after_s)


def accepted(outcome: Outcome) -> Reply | Refusal:
    """An answer with status 200 and a body; of everything else what the player is told."""
    if isinstance(outcome, Lost):
        return refused(outcome)
    status = outcome.status
    if status == 200 and outcome.body:
        return outcome
    if status in _REFUSALS:
        return Refusal(reason=Reason.UPSTREAM_REFUSED, message=f"the license server refuses a license ({status})")
    if status in (429, 503):
        return Refusal(reason=Reason.UPSTREAM_UNAVAILABLE, message=f"the license server is overloaded ({status})")
    if status == 504:
        return Refusal(reason=Reason.UPSTREAM_TIMEOUT, message="the license server had no answer in time (504)")
    what = "an empty answer" if status == 200 else f"an answer that is no license ({status})"
    return Refusal(reason=Reason.UPSTREAM_FAILED, message=f"the license server gave {what}")
