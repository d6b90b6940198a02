"""The partitioner, against vectors that other clients gave."""

import json
from importlib.resources import files

import pytest

from schemas import topics
from schemas.partition import murmur2, partition_for

VECTORS = json.loads(files("schemas").joinpath("golden/partitions.json").read_text())


@pytest.mark.parametrize("vector", VECTORS["murmur2"], ids=lambda v: v["key_hex"][:16])
def test_murmur2_agrees_with_the_java_client(vector):
    """The hash is Kafka's own, whatever the length of the key and the sign of its bytes."""
    assert murmur2(bytes.fromhex(vector["key_hex"])) == vector["hash"]


@pytest.mark.parametrize("vector", VECTORS["topics"], ids=lambda v: f"{v['topic']}-{v['partitions']}")
def test_a_record_key_has_one_partition_in_every_topic(vector):
    """Each topic of the catalogue partitions by the part of the record key that the design names."""
    topic = topics.BY_NAME[vector["topic"]]
    found = topics.partition_of(topic, vector["record_key"].encode(), vector["partitions"])
    assert found == vector["partition"]
    assert found == partition_for(vector["partition_key"].encode(), vector["partitions"])


def test_every_topic_of_the_catalogue_has_a_vector():
    """A topic that is added brings its vector, or this fails; dead letters follow their source."""
    assert {v["topic"] for v in VECTORS["topics"]} | {"drm.dlq.v1"} == set(topics.BY_NAME)


def test_a_dead_letter_has_no_partition_of_its_own():
    """Asking for one is a mistake in our code and says so."""
    with pytest.raises(ValueError, match="source's partition"):
        topics.partition_of(topics.DEAD_LETTERS, b"drm.assets.v1/0/1", 12)


def test_the_hash_agrees_with_kafka_pythons():
    """A second implementation, written by others, gives the same number for 2,000 keys of every length."""
    from kafka.partitioner.default import murmur2 as theirs

    for index in range(2000):
        key = (b"org/asset-%d" % index) * (index % 9) + bytes(range(index % 256))
        assert murmur2(key) == theirs(key) & 0xFFFFFFFF
