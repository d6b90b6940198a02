"""Reading and writing the compacted topics that say who may ask: credentials and services."""

from collections.abc import Sequence
from contextlib import closing

from keymill.kafka.admin import end_offsets, require_topics
from keymill.kafka.producer import Outgoing, Publisher
from keymill.kafka.scan import scan_partition
from schemas import topics
from schemas.access import Credential, Service
from schemas.codec import decode, encode
from schemas.ids import scoped_key

Published = Credential | Service


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
    found: dict[str, Credential] = {}
    for value in _latest(bootstrap, topics.CREDENTIALS, organization).values():
        record = decode(value, Credential)
        found[record.credential] = record
    return found


def organizations(bootstrap: str) -> dict[str, Credential]:
    """Every organization's own record, by organization, as the topic has it now."""
    found: dict[str, Credential] = {}
    for partition, end in end_offsets(bootstrap, topics.CREDENTIALS.name).items():
        for message in scan_partition(bootstrap, topics.CREDENTIALS.name, partition, end=end):
            key, value = message.key(), message.value()
            if isinstance(key, bytes) and key.endswith(b"/self") and value is not None:
                record = decode(value, Credential)
                found[record.organization] = record
    return found


def service(bootstrap: str, organization: str, name: str, version: str) -> Service | None:
    """A service configuration as the topic has it now."""
    value = _latest(bootstrap, topics.SERVICES, organization).get(scoped_key(organization, name, version))
    return None if value is None else decode(value, Service)


def _latest(bootstrap: str, topic: topics.Topic, organization: str) -> dict[bytes, bytes]:
    """The newest value of every record key of an organization, whose records all stand on one partition."""
    prefix = scoped_key(organization, "")
    adopted = require_topics(bootstrap, [topic.name])[topic.name]
    partition = topics.partition_of(topic, prefix, adopted.partitions)
    end = end_offsets(bootstrap, topic.name)[partition]
    values: dict[bytes, bytes] = {}
    for message in scan_partition(bootstrap, topic.name, partition, end=end):
        key, value = message.key(), message.value()
        if isinstance(key, bytes) and key.startswith(prefix) and value is not None:
            values[key] = value
    return values
