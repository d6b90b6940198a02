"""The one loop that moves a source's records: read, publish, wait for every acknowledgement, move on."""

import threading
from typing import Final

from connectors.contract import Batch, Source
from keymill import telemetry
from keymill.errors import Reject, Retry
from keymill.kafka.producer import Publisher

BACKOFF_S: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Before each further try of a batch; the last one for all that follow."""

log = telemetry.logger("connectors.runner")


def relay(source: Source, publisher: Publisher, *, stop: threading.Event, poll_s: float, once: bool = False) -> None:
    """
    Run until *stop* is set, or with *once* until the source has nothing more.

    Acts on the fate of an error: a record that is rejected is refused to its source and the rest goes on, what may
    succeed later is tried again with backoff, all else is raised.
    """
    while not stop.is_set():
        batch = source.read()
        if batch is None:
            if once:
                return
            stop.wait(poll_s)
        elif _deliver(batch, source, publisher, stop):
            source.acknowledge(batch)


def _deliver(batch: Batch, source: Source, publisher: Publisher, stop: threading.Event) -> bool:
    """True when the brokers have all that was not refused; False when stopped before."""
    failures = 0
    while not stop.is_set():
        try:
            _publish(batch, source, publisher)
        except Retry as error:
            pause = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
            failures += 1
            log.warning("publishing again", error=str(error), pause_s=pause)
            stop.wait(pause)
        else:
            return True
    return False


def _publish(batch: Batch, source: Source, publisher: Publisher) -> None:
    if not batch.items:
        return
    try:
        publisher.flush_all([publisher.send_batch([item.record for item in batch.items])])
    except Reject:
        for item in batch.items:  # one of them cannot be published: find it, repeats have no second effect
            try:
                publisher.flush_all([publisher.send_batch([item.record])])
            except Reject as error:
                source.refuse(item, error)
