"""Dead letters as ops see them: which ones are meant, what became of them since, what may be shown. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from keymill.errors import InvalidRecord
from keymill.ops.moment import shown
from schemas import topics
from schemas.events import AssetEvent, PolicyChange
from schemas.operations import OwnerRequest
from schemas.records import DeadLetter
from schemas.values import Record

REDRIVE_OF: Final = "x-redrive-of"
"""The header of an event that was sent again: the coordinates of the refused one."""
SOURCES: Final = (topics.ASSETS.name, topics.POLICY_CHANGES.name, topics.REQUESTS.name)
Refused = AssetEvent | PolicyChange | OwnerRequest
"""What a dead letter may be about."""
_COORDINATES: Final = re.compile(r"([a-z0-9.-]{1,249})/([0-9]{1,6})/([0-9]{1,18})")
_MASKED: Final = frozenset({"wrapped", "salt"})
"""Members that are keys, or that keys are made of."""


class Coordinates(Record, frozen=True, kw_only=True):
    """Where an event stands."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


class Letter(Record, frozen=True, kw_only=True):
    """A dead letter, and where it stands itself."""

    about: DeadLetter
    at: Coordinates
    recorded: int

    @property
    def source(self) -> Coordinates:
        """Where the refused event stands."""
        return Coordinates(topic=self.about.topic, partition=self.about.partition, offset=self.about.offset)


class Later(Record, frozen=True, kw_only=True):
    """An event that came after a letter's: of the same record key, or sent again."""

    at: Coordinates
    record_key: bytes
    redrive_of: str | None = None
    event_id: str | None = None


class Wanted(Record, frozen=True, kw_only=True):
    """Which letters are meant; what is None or empty does not matter."""

    organization: str | None = None
    asset: str | None = None
    reason: str | None = None
    sources: tuple[Coordinates, ...] = ()

    def covers(self, letter: DeadLetter) -> bool:
        """Whether a letter is meant."""
        pairs = ((self.organization, letter.organization), (self.asset, letter.asset), (self.reason, letter.reason))
        source = Coordinates(topic=letter.topic, partition=letter.partition, offset=letter.offset)
        return all(want in (None, has) for want, has in pairs) and (not self.sources or source in self.sources)


class Attempt(Record, frozen=True, kw_only=True):
    """One time that an event was sent again. `outcome`: accepted, refused or pending; `reason` of the refusal."""

    at: str
    outcome: str
    reason: str | None = None


class Aftermath(Record, frozen=True, kw_only=True):
    """
    What came after the refused event.

    Args:
        attempts: in their order.
        repeated: where an event with the same event id was accepted that nobody redrove.
        overtaken_by: accepted events of the same asset or organization that are newer.
    """

    attempts: tuple[Attempt, ...] = ()
    repeated: str | None = None
    overtaken_by: int = 0

    @property
    def settled_at(self) -> str | None:
        """Where its content was accepted after all."""
        accepted = (attempt.at for attempt in self.attempts if attempt.outcome == "accepted")
        return next(accepted, self.repeated)


def coordinates_of(text: str) -> Coordinates:
    """Read TOPIC/PARTITION/OFFSET. Raises `InvalidRecord` for anything else."""
    found = _COORDINATES.fullmatch(text)
    if found is None or found[1] not in SOURCES:
        message = f"{text[:128]!r} is no place of a refused event: give TOPIC/PARTITION/OFFSET, of {', '.join(SOURCES)}"
        raise InvalidRecord(message, field="coordinates")
    return Coordinates(topic=found[1], partition=int(found[2]), offset=int(found[3]))


def record_key_of(letter: DeadLetter) -> bytes | None:
    """The record key that the event's content calls for; None where it could not be read."""
    if letter.organization is None:
        return None
    name = letter.organization if letter.asset is None else f"{letter.organization}/{letter.asset}"
    return name.encode("ascii", "replace")


def aftermath(
    letter: Letter, later: Sequence[Later], refused: Mapping[Coordinates, str], committed: Mapping[tuple[str, int], int]
) -> Aftermath:
    """
    What became of a letter's event.

    Args:
        later: the events after the letter's, in log order.
        refused: reasons by the coordinates of every refused event.
        committed: what the processors have decided, by topic and partition: everything below.
    """
    source, key, event_id = letter.source, record_key_of(letter.about), letter.about.event_id

    def outcome(at: Coordinates) -> str:
        if at in refused:
            return "refused"
        return "accepted" if at.offset < committed.get((at.topic, at.partition), 0) else "pending"

    behind = [each for each in later if each.at.topic == source.topic and each.at != source]
    attempts = [each for each in behind if each.redrive_of == str(source)]
    others = [
        each
        for each in behind
        if each.record_key == key and each.redrive_of != str(source) and outcome(each.at) == "accepted"
        and (each.at.partition != source.partition or each.at.offset > source.offset)
    ]  # fmt: skip
    repeated = next((str(each.at) for each in others if event_id is not None and each.event_id == event_id), None)
    return Aftermath(
        attempts=tuple(
            Attempt(at=str(each.at), outcome=outcome(each.at), reason=refused.get(each.at)) for each in attempts
        ),
        repeated=repeated,
        overtaken_by=len(others),
    )


def row_of(letter: Letter, after: Aftermath) -> dict[str, Any]:
    """A line of the listing."""
    about = letter.about
    return {
        "coordinates": str(letter.source),
        "time": shown(letter.recorded),
        "reason": about.reason,
        "field": about.field,
        "organization": about.organization,
        "asset": about.asset,
        "event_id": about.event_id,
        "redriven": redriven(after),
    }


def redriven(after: Aftermath) -> str | None:
    """What became of an event, in words; None while nobody has sent it again."""
    if after.attempts:
        last = after.attempts[-1]
        return f"{last.outcome} at {last.at}" + (f": {last.reason}" if last.reason else "")
    return f"accepted at {after.repeated}, sent again by its sender" if after.repeated else None


def masked(event: Refused) -> Any:
    """The event in plain members; of keys and salts only the size."""
    return _masked(msgspec.to_builtins(event, builtin_types=(bytes,)))


def _masked(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {each: _masked(inner, each) for each, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(inner, name) for inner in value]
    if isinstance(value, bytes):
        return f"({len(value)} bytes)" if name in _MASKED else value.hex()
    return value
