"""The connectors' loop: a source moves on only when the brokers have everything."""

import threading

import pytest

from connectors.contract import Batch, Item
from connectors.runner import relay
from keymill.errors import Corrupt, InvalidRecord, KeymillError, Reject, Unavailable
from keymill.kafka.outgoing import Outgoing


class Lines:
    """A source of three lines in two batches."""

    def __init__(self) -> None:
        self.batches = [Batch(items=(item(1), item(2)), upto=2), Batch(items=(item(3),), upto=3)]
        self.acknowledged: list[object] = []
        self.refused: list[tuple[int, str]] = []
        self.released = 0
        self.offsets: dict[int, int] = {}

    def read(self) -> Batch | None:
        """The first batch that is not acknowledged."""
        return next((each for each in self.batches if each.upto not in self.acknowledged), None)

    def refuse(self, at: Item, error: Reject) -> None:
        """Keep it."""
        self.refused.append((at.name, error.code))

    def release(self) -> None:
        """Count it."""
        self.released += 1

    def acknowledge(self, batch: Batch, offsets: dict[int, int]) -> None:
        """Move on."""
        self.acknowledged.append(batch.upto)
        self.offsets |= offsets

    def close(self) -> None:
        """Nothing to let go."""


class Broker:
    """A publisher that fails as planned: each entry of *plan* is what one batch meets."""

    def __init__(self, *plan: KeymillError | None, poison: int = 0) -> None:
        self.plan = list(plan)
        self.poison = poison
        self.written: list[list[int]] = []

    def send_batch(self, records: list[Outgoing]) -> "Sent":
        """As `Publisher.send_batch`."""
        return Sent([int(record.record_key) for record in records])

    def flush_all(self, deliveries: list["Sent"]) -> None:
        """As `Publisher.flush_all`."""
        names = [name for each in deliveries for name in each.names]
        if self.plan and (failure := self.plan.pop(0)):
            raise failure
        if self.poison in names:
            raise InvalidRecord("too large", field="value", code="too_large")
        self.written.append(names)


class Sent:
    """A delivery: record n is at offset 100 n."""

    def __init__(self, names: list[int]) -> None:
        self.names = names

    def result(self) -> list[int]:
        """As `Delivery.result`."""
        return [100 * name for name in self.names]


def item(number: int) -> Item:
    """A line's item."""
    return Item(number, Outgoing(topic="drm.assets.v1", record_key=str(number).encode(), value=b""))


def run(source: Lines, broker: Broker) -> None:
    """Relay until there is nothing more."""
    relay(source, broker, stop=threading.Event(), poll_s=0.01, once=True)  # type: ignore[arg-type]


def test_batches_are_acknowledged_after_they_are_written() -> None:
    """In order, each once."""
    source, broker = Lines(), Broker()
    run(source, broker)
    assert (broker.written, source.acknowledged) == ([[1, 2], [3]], [2, 3])


def test_unavailable_is_tried_again() -> None:
    """Nothing is acknowledged until it succeeds, and the source holds nothing for it meanwhile."""
    source, broker = Lines(), Broker(Unavailable("no broker"), Unavailable("no broker"))
    run(source, broker)
    assert source.released == 2
    assert (broker.written, source.acknowledged) == ([[1, 2], [3]], [2, 3])


def test_one_poison_record_costs_itself_only() -> None:
    """It is refused to its source, the rest of its batch is written, and the source learns where."""
    source, broker = Lines(), Broker(poison=1)
    run(source, broker)
    assert source.offsets == {2: 200, 3: 300}
    assert (broker.written, source.refused, source.acknowledged) == ([[2], [3]], [(1, "too_large")], [2, 3])


def test_what_would_do_harm_stops() -> None:
    """And the batch is not acknowledged."""
    source = Lines()
    with pytest.raises(Corrupt):
        run(source, Broker(Corrupt("idempotence is lost")))
    assert source.acknowledged == []


def test_stop_leaves_the_batch() -> None:
    """A stop while the brokers are away acknowledges nothing."""
    source, stop = Lines(), threading.Event()

    class Away(Broker):
        def flush_all(self, deliveries: list[Sent]) -> None:
            stop.set()
            raise Unavailable("no broker")

    relay(source, Away(), stop=stop, poll_s=0.01)  # type: ignore[arg-type]
    assert source.acknowledged == []
