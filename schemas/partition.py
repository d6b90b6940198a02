"""The one function that chooses a partition; every producer passes its answer, every reader checks it."""

import struct
from functools import lru_cache

_M = 0x5BD1E995
_SEED = 0x9747B28C
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """
    Kafka's murmur2, 32 bits unsigned.

    Source: org.apache.kafka.common.utils.Utils.murmur2; librdkafka's `partitioner=murmur2` gives the same.
    """
    length = len(data)
    words = length // 4
    h = _SEED ^ length
    for word in _words(words).unpack_from(data):
        k = (word * _M) & _MASK
        h = (h * _M) & _MASK ^ ((k ^ (k >> 24)) * _M) & _MASK
    tail = data[words * 4 :]
    if tail:
        h = ((h ^ int.from_bytes(tail, "little")) * _M) & _MASK
    h = ((h ^ (h >> 13)) * _M) & _MASK
    return h ^ (h >> 15)


@lru_cache(maxsize=256)
def _words(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}I")


def partition_for(key: bytes, partitions: int) -> int:
    """The partition of *key* (the bytes that partition the topic, see `schemas.topics`) among *partitions*."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
