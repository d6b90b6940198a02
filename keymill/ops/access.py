"""Reading and writing the compacted topics that say who may ask: credentials and services."""

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import msgspec
from confluent_kafka import Message

from keymill import telemetry
from keymill.core.view import Sequenced, follows
from keymill.errors import InvalidRecord, Misconfigured
from keymill.kafka.admin import describe, end_offsets, require_topics
from keymill.kafka.authentication import install
from keymill.kafka.producer import Outgoing, Publisher
from keymill.kafka.scan import Scanner, scan_partition
from keymill.kms.keyfile import create_key_file
from keymill.kms.record_keys import record_keys_of
from schemas import topics
from schemas.access import Credential, Service
from schemas.codec import decode, encode
from schemas.ids import scoped_key

Published = Credential | Service
P = TypeVar("P", bound=Published)
S = TypeVar("S", bound=Sequenced)
log = telemetry.logger("ops.access")


def record_of(record: Published) -> Outgoing:
    """The record as it stands on its topic."""
    if isinstance(record, Service):
        key = scoped_key(record.organization, record.service, record.version)
        return Outgoing(topic=topics.SERVICES.name, record_key=key, value=encode(record))
    key = scoped_key(record.organization, record.credential)
    return Outgoing(topic=topics.CREDENTIALS.name, record_key=key, value=encode(record))


def prepare_keys(bootstrap: str, key_file: Path) -> None:
    """
    Have the key file authenticate what this process writes and reads; of a new installation it is made here.

    Raises:
        Misconfigured: organizations exist and the key file does not: it is lost, and nothing replaces it.
    """
    if not key_file.exists():
        if topics.CREDENTIALS.name in describe(bootstrap, [topics.CREDENTIALS.name]) and organizations(
            bootstrap, verified=False
        ):
            raise Misconfigured(f"there are organizations, but no key file {key_file}: restore its backup")
        create_key_file(key_file)
    install(record_keys_of(key_file))


def following(record: S) -> S:
    """
    Return the record with the sequence that it is written with, above the one that it was read with.

    The time, in epoch ms, decides between two writers that read the same one: the later change holds.
    """
    return msgspec.structs.replace(record, sequence=max(record.sequence + 1, time.time_ns() // 1_000_000))


def publish(bootstrap: str, records: Sequence[Published]) -> None:
    """Publish records, each as the one that follows what was read, and wait until the brokers have them."""
    outgoing = [record_of(following(record)) for record in records]
    adopted = require_topics(bootstrap, {record.topic for record in outgoing})
    with closing(Publisher(bootstrap, {name: topic.partitions for name, topic in adopted.items()})) as publisher:
        publisher.flush_all([publisher.send_batch(outgoing)])


def credentials(bootstrap: str, organization: str) -> dict[str, Credential]:
    """Every credential of an organization by its id, as the topic has it now."""
    latest = _latest(bootstrap, topics.CREDENTIALS, organization, Credential)
    return {record.credential: record for record in latest.values()}


def organizations(bootstrap: str, *, verified: bool = True) -> dict[str, Credential]:
    """
    Every organization's own record, by organization, as the topic has it now.

    Args:
        verified: only those that were written with this installation's keys.
    """
    found: dict[str, Credential] = {}
    for partition, end in end_offsets(bootstrap, topics.CREDENTIALS.name).items():
        with Scanner(bootstrap) as scanner:
            read = scanner.read if verified else scanner.raw
            messages = list(read(topics.CREDENTIALS.name, partition, end=end))
        for message in messages:
            if (message.key() or b"").endswith(b"/self") and (record := _read(message, Credential)):
                known = found.get(record.organization)
                if known is None or follows(record, known):
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
    """Return the record of the highest sequence of every record key of an organization: they stand on one partition."""
    prefix = scoped_key(organization, "")
    adopted = require_topics(bootstrap, [topic.name])[topic.name]
    partition = topics.partition_of(topic, prefix, adopted.partitions)
    end = end_offsets(bootstrap, topic.name)[partition]
    found: dict[bytes, P] = {}
    for message in scan_partition(bootstrap, topic.name, partition, end=end):
        key = message.key() or b""
        if key.startswith(prefix) and (record := _read(message, kind)):
            known = found.get(key)
            if known is None or follows(record, known):
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
