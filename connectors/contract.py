"""What a connector is: a source of records for our topics, or a sink of theirs, and what each promises."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from keymill.errors import Reject
from keymill.kafka.outgoing import Outgoing
from keymill.kafka.positions import Checkpoint, Slot, Whole

Name = int | str | bytes | UUID
"""What a source calls a record: a line's number, a row's id. Those of one source are of one type, and ordered."""


@dataclass(frozen=True, slots=True)
class Item:
    """One record to publish, and what the source calls it (a line, a row)."""

    name: Name
    record: Outgoing


@dataclass(frozen=True, slots=True)
class Batch:
    """Items in their order, and how far the source will have come when all of them are dealt with."""

    items: tuple[Item, ...]
    upto: object


class Source(Protocol):
    """
    Something outside that says what happened.

    Delivery: what `read` gave is given again, in the same order for each asset, until `acknowledge` has returned; so a
    crash repeats at most one batch. Its records carry event ids made of what they say: a repeat has no second effect.
    """

    def read(self) -> Batch | None:
        """The next batch; None when there is nothing now."""
        ...

    def refuse(self, item: Item, error: Reject) -> None:
        """An item of the batch at hand can never be published; keep it with its reason."""
        ...

    def acknowledge(self, batch: Batch, offsets: Mapping[Name, int]) -> None:
        """The brokers have every item that was not refused, at *offsets* by its name. Durable when this returns."""
        ...

    def release(self) -> None:
        """The batch at hand could not be published now and is read again later: hold nothing for it meanwhile."""
        ...

    def close(self) -> None:
        """Let go; nothing is lost that was not acknowledged."""
        ...


class Sink(Protocol):
    """
    Something outside that keeps what our topics say.

    Delivery: records of a partition come in order and at least once. The sink keeps records and positions together, so
    that neither is ever without the other; what it is given again changes nothing.
    """

    def checkpoints(self) -> Mapping[str, Checkpoint]:
        """How far it has come in each topic; one that it has not begun is left out."""
        ...

    def begin(self, places: Mapping[str, Checkpoint]) -> None:
        """Reading begins at these places."""
        ...

    def write(self, records: Sequence[Whole], slots: Mapping[str, Mapping[int, Slot]]) -> None:
        """Keep the records, and that everything before *slots* is kept; durable when this returns."""
        ...

    def close(self) -> None:
        """Let go."""
        ...
