"""The connectors' loop: a source moves on only when the brokers have everything."""

import threading

import pytest

from connectors.contract import Batch, Item
from connectors.pulse import Pulse
from connectors.runner import drain, relay
from keymill.errors import Corrupt, InvalidRecord, KeymillError, Reject, Unavailable
from keymill.kafka.outgoing import Outgoing
from keymill.kafka.positions import Checkpoint, Slot, Whole
from keymill.telemetry import CONNECT_STALLED


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


def stalled() -> float:
    """What the metric says."""
    return float(CONNECT_STALLED._value.get())


def test_a_source_that_tries_again_is_not_ready_and_says_why() -> None:
    """Until it succeeds: the reason is that of the failure, and the metric tells for how long."""
    pulse, seen = Pulse(), []

    class Looking(Broker):
        def flush_all(self, deliveries: list[Sent]) -> None:
            seen.append((pulse.reason(), stalled() > 0))
            super().flush_all(deliveries)

    broker = Looking(Unavailable("no broker"), Unavailable("no broker"))
    relay(Lines(), broker, stop=threading.Event(), poll_s=0.01, once=True, pulse=pulse)  # type: ignore[arg-type]
    tries_again = "it cannot go on and tries again: no broker"
    assert [("the connector is starting", False), (tries_again, True), (tries_again, True), (None, False)] == seen
    assert (None, 0.0) == (pulse.reason(), stalled())


class Reading:
    """A tail of four records, one at a time; with the last it is caught up."""

    notice: str | None = None

    def __init__(self) -> None:
        self.slots: dict[str, dict[int, Slot]] = {"t": {0: Slot(0)}}
        self.caught_up = False
        self.behind = 4

    def start(self, _known: object) -> dict[str, Checkpoint]:
        """From the beginning."""
        return {}

    def records(self, _timeout_s: float) -> list[Whole]:
        """The next one."""
        offset = self.slots["t"][0].offset
        self.slots = {"t": {0: Slot(offset + 1)}}
        self.behind -= 1
        self.caught_up = self.behind == 0
        return [Whole("t", 0, offset, b"k", b"v", None, 1)]


class Kept:
    """A sink whose database is away at each second write; it notes what its connector says of itself meanwhile."""

    def __init__(self, pulse: Pulse) -> None:
        self.pulse = pulse
        self.offsets: list[int] = []
        self.said: list[tuple[str | None, int, int]] = []

    def checkpoints(self) -> dict[str, Checkpoint]:
        """None yet."""
        return {}

    def begin(self, _places: object) -> None:
        """Nothing to note."""

    def write(self, records: list[Whole], _slots: object) -> None:
        """Every second time it fails."""
        self.look()
        if len(self.said) % 2:
            raise Unavailable("the database is away")
        self.offsets += [record.offset for record in records]

    def look(self) -> None:
        """What a report would say."""
        told = self.pulse.observe(self.pulse.reason())
        reached = told.progress[0].positions[0].position if told.progress else 0
        self.said.append((told.waits_for, told.behind, reached))


def test_a_sink_tells_how_far_it_really_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read and is not kept yet does not count: a database that is away shows as lag, and as the reason."""
    monkeypatch.setattr("connectors.runner.BACKOFF_S", (0.001,))
    sink = Kept(pulse := Pulse())
    drain(Reading(), sink, stop=threading.Event(), once=True, pulse=pulse)  # type: ignore[arg-type]
    sink.look()
    away = "it cannot go on and tries again: the database is away"
    behind = "it catches up: {} records are to be kept yet"
    assert [0, 1, 2, 3] == sink.offsets
    assert [
        (behind.format(0), 0, 0), (away, 0, 0), (behind.format(3), 3, 1), (away, 3, 1), (behind.format(2), 2, 2),
        (away, 2, 2), (behind.format(1), 1, 3), (away, 1, 3), (None, 0, 4),
    ] == sink.said  # fmt: skip
