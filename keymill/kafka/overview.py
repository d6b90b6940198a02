"""A cluster at one moment, over one connection: brokers, replicas, topics, ends, the processors' group."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from kafka import TopicPartition
from kafka.admin import OffsetSpec

from keymill.kafka.cluster import (
    GroupState,
    TopicState,
    connected,
    describe_with,
    end_offsets_with,
    group_offsets,
    group_state,
    offsets_since_with,
)
from keymill.kafka.positions import known_offset
from schemas.topics import BY_NAME

Offsets = Mapping[str, Mapping[int, int]]
"""By topic and partition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """
    What the brokers say.

    Args:
        nodes: ids of the brokers that are there; `controller` is one of them, -1 while there is none.
        fenced: of those that are registered and away.
        thin: `topic/partition` of every partition that has fewer in-sync replicas than replicas, ascending.
        starts, ends: first and next offset of every partition of our topics.
        fresh: of every partition of *consumed* topics the first offset that is younger than *fresh_s*, or the end.
        committed: of the group; partitions without a commit are absent.
    """

    nodes: tuple[int, ...]
    fenced: tuple[int, ...]
    controller: int
    thin: tuple[str, ...]
    topics: Mapping[str, TopicState]
    starts: Offsets
    ends: Offsets
    fresh: Offsets
    group: GroupState
    committed: Mapping[tuple[str, int], int]


def overview(bootstrap: str, group: str, *, consumed: Collection[str] = (), fresh_s: float = 0.0) -> Overview:
    """
    Ask the brokers.

    Args:
        consumed: topics that the group reads, for `Overview.fresh`.

    Raises:
        Unavailable: none answers.
    """
    with connected(bootstrap) as client:
        cluster = client.describe_cluster()
        topics = describe_with(client, BY_NAME)
        ends = end_offsets_with(client, topics)
        thin = _thin(client, topics)
        starts = _starts(client, ends)
        since_ms = time.time_ns() // 1_000_000 - int(fresh_s * 1000)
        fresh = {
            name: ends[name] | offsets_since_with(client, ends[name], name, since_ms)
            for name in consumed
            if name in ends
        }
    return Overview(
        nodes=tuple(sorted(each["broker_id"] for each in cluster["brokers"] if not each.get("is_fenced"))),
        fenced=tuple(sorted(each["broker_id"] for each in cluster["brokers"] if each.get("is_fenced"))),
        controller=cluster["controller_id"],
        thin=thin,
        topics=topics,
        starts=starts,
        ends=ends,
        fresh=fresh,
        group=group_state(bootstrap, group),
        committed=group_offsets(bootstrap, group),
    )


def _thin(client: Any, names: Collection[str]) -> tuple[str, ...]:
    return tuple(
        sorted(
            f"{topic['name']}/{each['partition_index']}"
            for topic in (client.describe_topics(list(names)) if names else ())
            for each in topic["partitions"]
            if len(each["isr_nodes"]) < len(each["replica_nodes"])
        )
    )


def _starts(client: Any, ends: Offsets) -> Offsets:
    wanted = {TopicPartition(name, number): OffsetSpec.EARLIEST for name, places in ends.items() for number in places}
    starts: dict[str, dict[int, int]] = {name: {} for name in ends}
    for tp, found in (client.list_partition_offsets(wanted) if wanted else {}).items():
        starts[tp.topic][tp.partition] = known_offset(tp.topic, tp.partition, found.offset)
    return starts
