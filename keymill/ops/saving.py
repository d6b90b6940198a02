"""What a backup holds: read from the topics up to their ends of this moment, then from the key file."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from confluent_kafka import Message

from keymill.core.view import APPLIED, Sequenced, judge_sequenced
from keymill.errors import InvalidRecord
from keymill.kafka.admin import end_offsets, load_adoptions, require_topics
from keymill.kafka.scan import scan_partition
from keymill.kms.keyfile_format import Content, read_file
from keymill.ops.backup_file import Header, OrganizationKeys, Saved, SavedRecord, SavedTopic
from keymill.ops.progress import Advance
from schemas import topics
from schemas.access import Credential, Entitlement, Service
from schemas.codec import decode
from schemas.ids import scoped_key
from schemas.records import TopicAdopted
from schemas.topics import Topic

SAVED: Final = (topics.CREDENTIALS, topics.SERVICES, topics.ENTITLEMENTS)
"""What no log gives back; restored in this order, since who is entitled matters only once somebody may ask."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """What is saved, how it is described, and what was left out because no view takes it."""

    header: Header
    saved: Saved
    content: Content
    left_out: int


def gather(bootstrap: str, key_file: Path, recipients: Sequence[str], quorum: int) -> Gathered:
    """
    Read everything; programs may go on writing.

    The key file is read last: it only ever grows, so it has every epoch that a record read before is wrapped under.

    Raises:
        Misconfigured: the key file or a topic is not what it must be: an empty topic that took the place of a lost
            one would make an empty backup.
    """
    adopted = require_topics(bootstrap, [topic.name for topic in SAVED])
    adoptions = load_adoptions(bootstrap)
    ends = {topic.name: end_offsets(bootstrap, topic.name) for topic in SAVED}
    records: list[SavedRecord] = []
    left_out = 0
    with Advance("reading partitions", sum(map(len, ends.values()))) as advance:
        for topic in SAVED:
            found, refused = newest_records(bootstrap, topic, adopted[topic.name].partitions, ends[topic.name], advance)
            records += sorted(found.values(), key=lambda each: (each.partition, each.offset))
            left_out += refused
    content, data = read_file(key_file)
    saved = Saved(key_file=data, adoptions=tuple(adoptions.values()), records=tuple(records))
    return Gathered(_header(saved, content, recipients, quorum, ends), saved, content, left_out)


def newest_records(
    bootstrap: str, topic: Topic, partitions: int, ends: Mapping[int, int], advance: Advance
) -> tuple[dict[bytes, SavedRecord], int]:
    """The newest record of every record key, by record key, and how many no view would take."""
    found: dict[bytes, SavedRecord] = {}
    newest: dict[bytes, Sequenced] = {}
    refused = 0
    for partition, end in ends.items():
        for message in scan_partition(bootstrap, topic.name, partition, end=end):
            record_key = message.key() or b""
            record = _taken(topic, message, partition, partitions)
            if record is None:
                refused += 1
            elif judge_sequenced(record, newest.get(record_key)) is APPLIED:
                newest[record_key], found[record_key] = record, _saved(topic, message)
        advance.step()
    return found, refused


def _taken(topic: Topic, message: Message, partition: int, partitions: int) -> Sequenced | None:
    """Return the record if views take it, as in `keymill.snapshot.incoming`: its form, its key, its partition."""
    record_key, value = message.key() or b"", message.value()
    if value is None or partition != topics.partition_of(topic, record_key, partitions):
        return None
    try:
        record = decode(value, topic.records[0])
    except InvalidRecord:
        return None
    return record if isinstance(record, Sequenced) and record_key_of(record) == record_key else None


def record_key_of(record: object) -> bytes:
    """The record key that a record of these topics stands under."""
    match record:
        case Credential():
            return scoped_key(record.organization, record.credential)
        case Service():
            return scoped_key(record.organization, record.service, record.version)
        case Entitlement():
            return scoped_key(record.organization, record.user, record.product)
    raise TypeError(f"a {type(record).__name__} is not saved")


def _saved(topic: Topic, message: Message) -> SavedRecord:
    _, timestamp = message.timestamp()
    place = int(message.partition() or 0), int(message.offset() or 0)
    return SavedRecord(topic.name, *place, timestamp, message.key() or b"", message.value())


def _header(
    saved: Saved, content: Content, recipients: Sequence[str], quorum: int, ends: Mapping[str, Mapping[int, int]]
) -> Header:
    return Header(
        created=time.time_ns() // 1_000_000,
        keymill=metadata.version("keymill"),
        recipients=tuple(recipients),
        quorum=quorum,
        intake_epochs=tuple(kek.epoch for kek in content.intake),
        organizations=tuple(_organizations(content)),
        topics=tuple(_topics(saved.adoptions, saved.records, ends)),
    )


def _organizations(content: Content) -> Iterator[OrganizationKeys]:
    for name, group in sorted(content.organizations.items()):
        versions, epochs = (root.version for root in group.roots), (kek.epoch for kek in group.keks)
        yield OrganizationKeys(organization=name, root_versions=tuple(versions), kek_epochs=tuple(epochs))


def _topics(
    adoptions: Iterable[TopicAdopted], records: Sequence[SavedRecord], ends: Mapping[str, Mapping[int, int]]
) -> Iterator[SavedTopic]:
    counts = Counter(record.topic for record in records)
    for adopted in sorted(adoptions, key=lambda each: each.topic):
        yield SavedTopic(
            topic=adopted.topic,
            topic_id=adopted.topic_id,
            generation=adopted.generation,
            partitions=adopted.partitions,
            ends=tuple(end for _, end in sorted(ends.get(adopted.topic, {}).items())),
            records=counts[adopted.topic],
        )
