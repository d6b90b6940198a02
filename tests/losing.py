"""Topics that are lost, whole or in part, beside the programs of a `tests.gateway_rig`."""

import time
from collections.abc import Callable, Mapping

from confluent_kafka.admin import AdminClient

from keymill.kafka.admin import describe, end_offsets
from keymill.kafka.cluster import connected, create
from keymill.kafka.outgoing import Outgoing
from keymill.kafka.producer import Publisher
from keymill.kafka.scan import scan_partition
from schemas import topics
from schemas.topics import Topic
from tests.gateway_rig import Rig, eventually
from tests.kafka_commands import keymill

Record = tuple[int, bytes, bytes]
"""Partition, record key, value."""


def on(rig: Rig) -> list[str]:
    """Where the commands look."""
    return ["--data", str(rig.data), "--bootstrap", rig.bootstrap]


def delete(rig: Rig, *names: str) -> None:
    """Lose topics."""
    admin = AdminClient({"bootstrap.servers": rig.bootstrap})
    for future in admin.delete_topics(list(names)).values():
        future.result()
    eventually(lambda: not describe(rig.bootstrap, names))


def records(rig: Rig, topic: Topic) -> list[Record]:
    """Every record of a topic, in order."""
    found = []
    for partition, end in end_offsets(rig.bootstrap, topic.name).items():
        for message in scan_partition(rig.bootstrap, topic.name, partition, end=end):
            found.append((partition, message.key() or b"", message.value() or b""))
    return found


def newest(rig: Rig, topic: Topic = topics.KEYS) -> dict[bytes, bytes]:
    """The last record of every record key."""
    return {record_key: value for _, record_key, value in records(rig, topic)}


def stop(rig: Rig) -> None:
    """Stop the processor."""
    rig.processor.signal_stop()
    rig.processor.wait_stopped(time.monotonic() + 25)


def start(rig: Rig) -> None:
    """Start the processor, with a view that is read anew."""
    view = rig.data / "views" / "processor-single"
    if view.exists():
        assert 0 == keymill("rebuild", "snapshot", str(view), *on(rig), "--apply").returncode
    rig.processor.start()
    rig.processor.wait_listening()
    rig.processor.wait_ready()


def lose(rig: Rig, topic: Topic, kept: Callable[[bytes, bytes], bool]) -> None:
    """Have the topic made anew, and adopted, without the records that are not *kept*; the processor must be stopped."""
    left = [record for record in records(rig, topic) if kept(*record[1:])]
    state = describe(rig.bootstrap, [topic.name])[topic.name]
    delete(rig, topic.name)
    with connected(rig.bootstrap) as client:
        create(client, [topic], state.partitions, 1)
    publisher = Publisher(rig.bootstrap, {topic.name: state.partitions})
    publisher.flush_all([publisher.send_batch([_outgoing(topic, record) for record in left])] if left else [])
    publisher.close()
    assert 0 == keymill("topics", "adopt", topic.name, "--apply", *on(rig)).returncode


def _outgoing(topic: Topic, record: Record) -> Outgoing:
    partition, record_key, value = record
    return Outgoing(topic=topic.name, record_key=record_key, value=value, partition=partition)


def without(*lost: bytes) -> Callable[[bytes, bytes], bool]:
    """Keep all but these record keys."""
    return lambda record_key, _value: record_key not in lost


def send(rig: Rig, topic: Topic, raw: Mapping[bytes, bytes]) -> None:
    """Publish what anybody might."""
    count = len(end_offsets(rig.bootstrap, topic.name))
    publisher = Publisher(rig.bootstrap, {topic.name: count})
    publisher.flush_all([publisher.send(topic.name, key, value) for key, value in raw.items()])
    publisher.close()
