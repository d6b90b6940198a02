"""What an audit finds of credentials, services and entitlements, and of records that nobody with the keys wrote."""

from collections.abc import Iterable
from typing import Final

from confluent_kafka import Message

from keymill.core.view import Sequenced, follows
from keymill.errors import InvalidRecord
from keymill.kafka.scan import Refused
from keymill.ops.auditing import Audit
from keymill.ops.report import Difference
from keymill.ops.saving import record_key_of
from schemas import topics
from schemas.codec import decode
from schemas.topics import Cleanup, Topic

SHOWN_MS: Final = 7 * topics.DAY_MS
"""For so long a forged record in a log is a difference: nobody can remove it, and nobody reads it."""


class Access:
    """The records that hold, by topic and record key."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, bytes], Sequenced] = {}

    def take(self, audit: Audit, topic: Topic, partition: int, partitions: int, message: Message) -> None:
        """Judge one more record; of a record key the last one's findings stand."""
        record_key, place = message.key() or b"", ("access", topic.name, message.key())
        try:
            record = _read(topic, record_key, message.value(), partition, partitions)
        except InvalidRecord as error:
            audit.note(place, "unreadable", record_key, f"{topic.name}-{partition} offset {message.offset()}: {error}")
            return
        held = self._held.get((topic.name, record_key))
        if held is None or follows(record, held) or record == held:
            self._held[topic.name, record_key] = record
            audit.findings.put(place)
        else:
            where = f"{topic.name}-{partition} offset {message.offset()}: sequence {record.sequence}"
            detail = f"{where} behind {held.sequence}: an old record, written again; a new reader would believe it"
            audit.note(place, "superseded", record_key, detail)


def _read(topic: Topic, record_key: bytes, value: bytes | None, partition: int, partitions: int) -> Sequenced:
    if topics.partition_of(topic, record_key, partitions) != partition:
        raise InvalidRecord("it stands on a wrong partition", field="partition")
    if value is None:
        raise InvalidRecord("a tombstone: nothing is deleted here", field="value")
    record = decode(value, topic.records[0])
    if not isinstance(record, Sequenced) or record_key_of(record) != record_key:
        raise InvalidRecord("it is under the record key of another", field="key")
    return record


def forged(audit: Audit, standing: Iterable[Refused], now_ms: int) -> None:
    """Tell the records that do not verify and stand in the place of one that does, or came to a log of late."""
    differences = [
        Difference(
            kind="forged",
            record_key=each.record_key.decode("utf-8", "replace"),
            detail=f"{each.topic}-{each.partition} offset {each.offset}: {each.reason}",
        )
        for each in standing
        if topics.entry_of(each.topic).cleanup is Cleanup.COMPACT or each.timestamp > now_ms - SHOWN_MS
    ]
    audit.findings.put(("forged",), differences)
