"""What a connector is: a source of records for our topics, or a sink of theirs, and what each promises."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from confluent_kafka import Message

from keymill.errors import Reject
from keymill.kafka.outgoing import Outgoing


@dataclass(frozen=True, slots=True)
class Item:
    """One record to publish, and what the source calls it (a line, a row)."""

    name: int
    record: Outgoing


@dataclass(frozen=True, slots=True)
class Batch:
    """Items in their order, and how far the source will have come when all of them are dealt with."""

    items: tuple[Item, ...]
    upto: object


class Source(Protocol):
    """
    Something outside that says what happened.

    Delivery: what `read` gave is given again, the same and in the same order, until `acknowledge` has returned; so a
    crash repeats at most one batch. Its records carry event ids made of what they say: a repeat has no second effect.
    """

    def read(self) -> Batch | None:
        """The next batch; None when there is nothing now."""
        ...

    def refuse(self, item: Item, error: Reject) -> None:
        """An item of the batch at hand can never be published; keep it with its reason."""
        ...

    def acknowledge(self, batch: Batch) -> None:
        """The brokers have every item that was not refused. Durable when this returns."""
        ...

    def close(self) -> None:
        """Let go; nothing is lost that was not acknowledged."""
        ...


class Sink(Protocol):
    """
    Something outside that keeps what our topics say.

    Delivery: records of a partition come in order and at least once; `write` must be idempotent by topic, partition and
    offset. Positions move only after it has returned.
    """

    def write(self, records: Sequence[Message]) -> None:
        """Keep the records; durable when this returns."""
        ...

    def close(self) -> None:
        """Let go."""
        ...
