"""
The two loops of connectors: `relay` moves a source's records into the log, `drain` the log's records into a sink.

Both act on the fate of an error: a record that is rejected is refused to its source and the rest goes on, what may
succeed later is tried again with backoff, all else is raised.
"""

import threading
import time
from typing import Final

from connectors.contract import Batch, Item, Name, Sink, Source
from connectors.pulse import Pulse
from keymill import telemetry
from keymill.errors import Reject, Retry
from keymill.kafka.positions import Slot, Whole
from keymill.kafka.producer import Publisher
from keymill.kafka.whole import WholeTail

BACKOFF_S: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Before each further try; the last one for all that follow."""
TAIL_POLL_S: Final = 0.1
"""A record wakes the loop at once; this is how long it takes to notice anything else."""
PROGRESS_S: Final = 10.0
"""Between two log lines about a sink's progress."""

log = telemetry.logger("connectors.runner")


class Backoff:
    """How long to wait before the next try, and a line in the log for each."""

    def __init__(self, stop: threading.Event, pulse: Pulse) -> None:
        self._stop = stop
        self._pulse = pulse
        self._failures = 0

    def failed(self, error: Retry) -> None:
        """Say why, and wait, or until the program is told to stop."""
        pause_s = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        self._failures += 1
        self._pulse.hindered(str(error))
        log.warning("trying again", error=str(error), pause_s=pause_s)
        self._stop.wait(pause_s)

    def succeeded(self) -> None:
        """The next failure is the first again."""
        self._failures = 0
        self._pulse.works()


def relay(
    source: Source,
    publisher: Publisher,
    *,
    stop: threading.Event,
    poll_s: float,
    once: bool = False,
    pulse: Pulse | None = None,
) -> None:
    """
    Run until *stop* is set, or with *once* until the source has nothing more.

    A batch that cannot be published now is released and read again: nothing is held while the brokers are away.
    """
    backoff = Backoff(stop, pulse or Pulse())
    while not stop.is_set():
        try:
            batch = source.read()
            if batch is not None:
                _deliver(batch, source, publisher)
        except Retry as error:
            source.release()
            backoff.failed(error)
            continue
        backoff.succeeded()
        if batch is None:
            if once:
                return
            stop.wait(poll_s)


def drain(
    tail: WholeTail, sink: Sink, *, stop: threading.Event, once: bool = False, pulse: Pulse | None = None
) -> None:
    """Run until *stop* is set, or with *once* until everything is kept that was there at the start."""
    pulse = pulse or Pulse()
    pulse.kept({}, behind=0, caught_up=False, notice=None)
    backoff = Backoff(stop, pulse)
    _begin(tail, sink, stop, backoff)
    written, told = 0, time.monotonic()
    while not stop.is_set():
        caught_up = tail.caught_up
        records = tail.records(TAIL_POLL_S)
        if not _keep(records, tail.slots, sink, stop, backoff):
            return
        written += len(records)
        pulse.kept(tail.slots, behind=tail.behind, caught_up=tail.caught_up, notice=tail.notice)
        if (tail.caught_up and not caught_up) or (written and time.monotonic() - told > PROGRESS_S):
            log.info("records kept", records=written, behind=tail.behind, caught_up=tail.caught_up, notice=tail.notice)
            written, told = 0, time.monotonic()
        if once and tail.caught_up:
            return


def _begin(tail: WholeTail, sink: Sink, stop: threading.Event, backoff: Backoff) -> None:
    while not stop.is_set():
        try:
            sink.begin(tail.start(sink.checkpoints()))
        except Retry as error:
            tail.close()
            backoff.failed(error)
        else:
            backoff.succeeded()
            return


def _keep(
    records: list[Whole], slots: dict[str, dict[int, Slot]], sink: Sink, stop: threading.Event, backoff: Backoff
) -> bool:
    """Until the sink has them; False when a stop before that leaves them to be read again."""
    while not stop.is_set():
        try:
            sink.write(records, slots)
        except Retry as error:
            backoff.failed(error)
        else:
            backoff.succeeded()
            return True
    return False


def _deliver(batch: Batch, source: Source, publisher: Publisher) -> None:
    source.acknowledge(batch, _publish(batch.items, source, publisher))


def _publish(items: tuple[Item, ...], source: Source, publisher: Publisher) -> dict[Name, int]:
    """The offsets by the items' names."""
    if not items:
        return {}
    try:
        delivery = publisher.send_batch([item.record for item in items])
        publisher.flush_all([delivery])
        return dict(zip([item.name for item in items], delivery.result(), strict=True))
    except Reject as error:
        if len(items) == 1:
            source.refuse(items[0], error)
            return {}
    offsets: dict[Name, int] = {}
    for item in items:  # one of them cannot be published: find it, repeats have no second effect
        offsets |= _publish((item,), source, publisher)
    return offsets
