"""Reading and writing the compacted topics that say who may ask: credentials and services."""

from collections.abc import Sequence
from contextlib import closing
from typing import TypeVar

from confluent_kafka import Message

from keymill import telemetry
from keymill.errors import InvalidRecord
from keymill.kafka.admin import end_offsets, require_topics
from keymill.kafka.producer import Outgoing, Publisher
from keymill.kafka.scan import scan_partition
from schemas import topics
from schemas.access import Credential, Service
from schemas.codec import decode, encode
from schemas.ids import scoped_key

Published = Credential | Service
P = TypeVar("P", Credential, Service)
log = telemetry.logger("ops.access")


def record_of(record: Published) -> Outgoing:
    """The record as it stands on its topic."""
    if isinstance(record, Service):
        key = scoped_key(record.organization, record.service, record.version)
        return Outgoing(topic=topics.SERVICES.name, record_key=key, value=encode(record))
    key = scoped_key(record.organization, record.credential)
    return Outgoing(topic=topics.CREDENTIALS.name, record_key=key, value=encode(record))


def publish(bootstrap: str, records: Sequence[Published]) -> None:
    """Publish and wait until the brokers have them."""
    outgoing = [record_of(record) for record in records]
    adopted = require_topics(bootstrap, {record.topic for record in outgoing})
    with closing(Publisher(bootstrap, {name: topic.partitions for name, topic in adopted.items()})) as publisher:
        publisher.flush_all([publisher.send_batch(outgoing)])


def credentials(bootstrap: str, organization: str) -> dict[str, Credential]:
    """Every credential of an organization by its id, as the topic has it now."""
    latest = _latest(bootstrap, topics.CREDENTIALS, organization, Credential)
    return {record.credential: record for record in latest.values()}


def organizations(bootstrap: str) -> dict[str, Credential]:
    """Every organization's own record, by organization, as the topic has it now."""
    found: dict[str, Credential] = {}
    for partition, end in end_offsets(bootstrap, topics.CREDENTIALS.name).items():
        for message in scan_partition(bootstrap, topics.CREDENTIALS.name, partition, end=end):
            if (message.key() or b"").endswith(b"/self") and (record := _read(message, Credential)):
                found[record.organization] = record
    return found


def service(bootstrap: str, organization: str, name: str, version: str) -> Service | None:
    """A service configuration as the topic has it now."""
    latest = _latest(bootstrap, topics.SERVICES, organization, Service)
    return latest.get(scoped_key(organization, name, version))


def services(bootstrap: str, organization: str) -> list[Service]:
    """Every service configuration of an organization as the topic has it now, by name and version."""
    latest = _latest(bootstrap, topics.SERVICES, organization, Service)
    return sorted(latest.values(), key=lambda found: (found.service, found.version))


def _latest(bootstrap: str, topic: topics.Topic, organization: str, kind: type[P]) -> dict[bytes, P]:
    """The newest readable record of every record key of an organization, which all stand on one partition."""
    prefix = scoped_key(organization, "")
    adopted = require_topics(bootstrap, [topic.name])[topic.name]
    partition = topics.partition_of(topic, prefix, adopted.partitions)
    end = end_offsets(bootstrap, topic.name)[partition]
    found: dict[bytes, P] = {}
    for message in scan_partition(bootstrap, topic.name, partition, end=end):
        key = message.key() or b""
        if key.startswith(prefix) and (record := _read(message, kind)):
            found[key] = record
    return found


def read(message: Message) -> Credential | None:
    """The credential in a record, or None for what no view takes."""
    return _read(message, Credential)


def _read(message: Message, kind: type[P]) -> P | None:
    """The record, or None for what every view quarantines too: a tombstone, an unreadable or a misplaced one."""
    value = message.value()
    if value is None:
        return None
    try:
        record = decode(value, kind)
    except InvalidRecord as error:
        log.warning("record refused", topic=message.topic(), offset=message.offset(), reason=str(error))
        return None
    return record if record_of(record).record_key == message.key() else None
