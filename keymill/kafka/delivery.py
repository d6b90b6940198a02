"""Records under way: counted down as the broker acknowledges them, from whichever thread."""

import threading
from collections.abc import Callable, Sequence

from confluent_kafka import KafkaError, Message

from keymill.errors import Corrupt, InvalidRecord, KeymillError, Misconfigured, Unavailable
from keymill.kafka.outgoing import Outgoing, name_of

_GOES_ON_FAILING = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)
"""Codes that a retry cannot mend. Too large is among them: `outgoing` refuses what the catalogue's limits do, so the
topic's own limit must be lower than the catalogue's."""

Explain = Callable[[KafkaError, Outgoing], KeymillError]
"""Makes a failure of what the client says of one record."""


class Delivery:
    """
    A batch under way; `result()` once `wait()` has returned or the callback was called.

    The publisher's thread counts acknowledgements, the sender says at last how many there will be; the second of
    the two to see them equal finishes, and both seeing it is harmless.
    """

    __slots__ = ("_done", "_expected", "_failure", "_offsets", "_on_done", "_reported", "records")

    def __init__(self, records: Sequence[Outgoing], on_done: Callable[[], object] | None = None) -> None:
        self.records = records
        self._offsets = [-1] * len(records)
        self._reported = 0
        self._expected = -1
        self._failure: KeymillError | None = None
        self._done = threading.Event()
        self._on_done = on_done

    def report(self, explain: Explain, index: int, error: KafkaError | None, message: Message) -> None:
        """Take the fate of one record. Publisher's thread only."""
        if error is None:
            self._offsets[index] = message.offset()  # type: ignore[assignment]  # None only if undelivered
        else:
            self.doom(explain(error, self.records[index]))
        self._reported += 1
        if self._reported == self._expected:
            self._finish()

    def doom(self, failure: KeymillError) -> None:
        """Whatever is acknowledged, the batch has failed; of several failures the gravest counts, then the first."""
        if self._failure is None or _gravity(failure) > _gravity(self._failure):
            self._failure = failure

    def sent(self, count: int) -> None:
        """No more will be sent than these. Sender's thread only."""
        self._expected = count
        if self._reported == count:
            self._finish()

    def wait(self, timeout_s: float) -> bool:
        """Block until every record is acknowledged or has failed; False if that took longer."""
        return self._done.wait(timeout_s)

    def result(self) -> list[int]:
        """The offsets, in the records' order; raises the batch's failure."""
        if self._failure is not None:
            raise self._failure
        return self._offsets

    def _finish(self) -> None:
        self._done.set()
        if self._on_done is not None:
            self._on_done()


def _gravity(failure: KeymillError) -> int:
    return [Unavailable, InvalidRecord, Misconfigured, Corrupt].index(type(failure))


def failure_of(error: KafkaError, record: Outgoing, trouble: str) -> KeymillError:
    """
    What a delivery error means for the program.

    Args:
        trouble: what the client last said about its connections, if anything.
    """
    text = f"{name_of(record)}: {error.str()} ({error.name()})"
    if error.fatal() or error.code() == KafkaError._FATAL:
        return Corrupt(f"{text}: the idempotent producer cannot tell what was written; start the program again")
    if error.code() in (KafkaError.INVALID_RECORD, KafkaError.INVALID_MSG):
        return InvalidRecord(f"{text}: the broker refuses it", field="value", code="refused_by_broker")
    if error.code() in _GOES_ON_FAILING:
        return Misconfigured(f"{text}: see `keymill topics check` and the program's credentials and ACLs")
    return Unavailable(f"{text}{f'; {trouble}' if trouble else ''}: not acknowledged, publish it again")
