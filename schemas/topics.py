"""The one catalogue of topics: name, record key, record types, who writes, who reads, every config and its reason."""

from enum import StrEnum
from typing import Final

import msgspec

from schemas import access, audit, events, operations, records
from schemas.ids import partition_key
from schemas.partition import partition_for
from schemas.values import Record

DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000
PARTITIONS: Final = 12
"""Frozen when a topic is created: another count would send a record key elsewhere. Production takes 24."""
PARTITIONS_PRODUCTION: Final = 24


class Cleanup(StrEnum):
    """Kafka's cleanup.policy; never both, since `delete` would drop keys that are still licensed."""

    COMPACT = "compact"
    DELETE = "delete"


class Program(StrEnum):
    """A principal: what may write to or read from a topic."""

    INGEST = "ingest"
    PROCESSOR = "processor"
    GATEWAY = "gateway"
    PROXY = "proxy"
    CONNECT = "connect"
    OPS = "ops"


class Authentication(StrEnum):
    """
    How a reader knows that a program with the keys of the organization wrote a record (ADR 0014).

    `mac`: an HMAC, for topics with millions of records; whoever reads them could write them. `signature`: Ed25519, for
    what grants authority. `none`: rights on the topic are all that guards it.
    """

    NONE = "none"
    MAC = "mac"
    SIGNATURE = "signature"


class Topic(Record, frozen=True, kw_only=True):
    """One entry of the catalogue. `configs` are what the broker must hold; `records` are the types a value may have."""

    name: str
    record_key: str
    records: tuple[type[Record], ...]
    cleanup: Cleanup
    writers: tuple[Program, ...]
    readers: tuple[Program, ...]
    authentication: Authentication = Authentication.NONE
    keyless_writers: bool = False
    """Programs without keys write there too: which, the readers of the topic know."""
    max_message_bytes: int = 65_536
    retention_ms: int = -1
    configs: dict[str, str] = {}

    def all_configs(self, replicas: int) -> dict[str, str]:
        """Every config that the topic is created with and checked against, for a replication factor."""
        common = {
            "cleanup.policy": self.cleanup.value,
            "max.message.bytes": str(self.max_message_bytes),  # bounds a poison record
            "message.timestamp.type": "LogAppendTime",  # schedules and compaction lag trust the broker's clock alone
            "min.insync.replicas": str(max(1, replicas - 1)),  # an acknowledged record survives any one broker
            "unclean.leader.election.enable": "false",  # an acknowledged record is never traded for availability
            # The broker unpacks what a producer has compressed, and compares what it holds with max.message.bytes: else
            # 3 KB can be 100 MB in every reader. A codec would not do: then packed bytes are compared.
            "compression.type": "uncompressed",
        }
        extra = _COMPACTED if self.cleanup is Cleanup.COMPACT else {"retention.ms": str(self.retention_ms)}
        return common | extra | self.configs


_COMPACTED: Final = {
    "min.compaction.lag.ms": str(7 * DAY_MS),  # every reader that starts sees a regression before compaction hides it
    "max.compaction.lag.ms": str(30 * DAY_MS),  # bounds how long a superseded wrapping survives
    "delete.retention.ms": str(30 * DAY_MS),  # longer than any proxy is away; a tombstone ends entitlements only
    "min.cleanable.dirty.ratio": "0.3",  # write-once topics hold little garbage
    "segment.ms": str(DAY_MS),  # the active segment is never cleaned
}
_READERS_OF_VIEWS: Final = (Program.PROCESSOR, Program.GATEWAY, Program.PROXY, Program.CONNECT, Program.OPS)

ASSETS: Final = Topic(
    name="drm.assets.v1",
    record_key="organization/asset",
    records=(events.AssetEvent,),
    cleanup=Cleanup.DELETE,
    writers=(Program.INGEST, Program.GATEWAY, Program.CONNECT, Program.OPS),
    readers=(Program.PROCESSOR, Program.CONNECT, Program.OPS),
    max_message_bytes=1_048_576,
)
KEYS: Final = Topic(
    name="drm.keys.v1",
    record_key="organization/asset, or organization/asset/k/digest",
    records=(records.AssetRecord, records.KeyRecord),
    cleanup=Cleanup.COMPACT,
    writers=(Program.PROCESSOR,),
    readers=_READERS_OF_VIEWS,
    authentication=Authentication.MAC,
)
CLAIMS: Final = Topic(
    name="drm.claims.v1",
    record_key="organization/KID",
    records=(records.Claim,),
    cleanup=Cleanup.DELETE,
    writers=(Program.PROCESSOR,),
    readers=(Program.PROCESSOR, Program.CONNECT, Program.OPS),
    authentication=Authentication.MAC,
)
POLICY_CHANGES: Final = Topic(
    name="drm.policy-changes.v1",
    record_key="organization",
    records=(events.PolicyChange,),
    cleanup=Cleanup.DELETE,
    writers=(Program.GATEWAY, Program.OPS),
    readers=(Program.PROCESSOR, Program.CONNECT, Program.OPS),
    authentication=Authentication.SIGNATURE,
)
POLICIES: Final = Topic(
    name="drm.policies.v1",
    record_key="organization/policy_id",
    records=(records.PolicyRecord,),
    cleanup=Cleanup.COMPACT,
    writers=(Program.PROCESSOR,),
    readers=_READERS_OF_VIEWS,
    authentication=Authentication.SIGNATURE,
)
ENTITLEMENTS: Final = Topic(
    name="drm.entitlements.v1",
    record_key="organization/user/product",
    records=(access.Entitlement,),
    cleanup=Cleanup.COMPACT,
    writers=(Program.GATEWAY, Program.OPS),
    readers=_READERS_OF_VIEWS,
    authentication=Authentication.SIGNATURE,
)
SERVICES: Final = Topic(
    name="drm.services.v1",
    record_key="organization/service/version",
    records=(access.Service,),
    cleanup=Cleanup.COMPACT,
    writers=(Program.OPS,),
    readers=_READERS_OF_VIEWS,
    authentication=Authentication.SIGNATURE,
)
CREDENTIALS: Final = Topic(
    name="drm.credentials.v1",
    record_key="organization/credential",
    records=(access.Credential,),
    cleanup=Cleanup.COMPACT,
    writers=(Program.OPS,),
    readers=_READERS_OF_VIEWS,
    authentication=Authentication.SIGNATURE,
)
ADOPTIONS: Final = Topic(
    name="drm.adoptions.v1",
    record_key="topic/name",
    records=(records.TopicAdopted,),
    cleanup=Cleanup.COMPACT,
    writers=(Program.OPS,),
    readers=_READERS_OF_VIEWS,
    authentication=Authentication.SIGNATURE,
)
STATUS: Final = Topic(
    name="drm.status.v1",
    record_key="program/instance, or audit/last",
    records=(operations.ProgramReport, operations.AuditSummary),
    cleanup=Cleanup.COMPACT,
    writers=(Program.PROCESSOR, Program.GATEWAY, Program.PROXY, Program.CONNECT, Program.OPS),
    readers=_READERS_OF_VIEWS,
    authentication=Authentication.MAC,
    keyless_writers=True,  # connectors
    max_message_bytes=1_048_576,  # a report names every organization's KEK epochs
    configs={
        "min.compaction.lag.ms": "0",  # only the last report of an instance matters
        # Every program reads the topic at its start, and a report comes every 5 s: what is superseded must leave soon.
        "max.compaction.lag.ms": str(HOUR_MS),
        "segment.ms": str(HOUR_MS),
        "segment.bytes": str(1024 * 1024),  # the least that Kafka takes, and what a start reads in vain per partition
    },
)
AUDIT: Final = Topic(
    name="drm.audit.v1",
    record_key="program/instance",
    records=(audit.AuditEvent,),
    cleanup=Cleanup.DELETE,
    writers=(Program.GATEWAY, Program.PROXY),
    readers=(Program.CONNECT, Program.OPS),
    retention_ms=400 * DAY_MS,
)
DECISIONS: Final = Topic(
    name="drm.decisions.v1",
    record_key="writer",
    records=(),
    cleanup=Cleanup.DELETE,
    writers=(Program.PROXY,),
    readers=(Program.OPS,),
    retention_ms=30 * DAY_MS,
)
REQUESTS: Final = Topic(
    name="drm.requests.v1",
    record_key="organization/asset, or topic/partition of a source",
    records=(operations.OwnerRequest, operations.RepairRequest),
    cleanup=Cleanup.DELETE,
    writers=(Program.OPS,),
    readers=(Program.PROCESSOR,),
    authentication=Authentication.MAC,
    retention_ms=30 * DAY_MS,
)
DEAD_LETTERS: Final = Topic(
    name="drm.dlq.v1",
    record_key="topic/partition/offset",
    records=(records.DeadLetter,),
    cleanup=Cleanup.DELETE,
    writers=(Program.PROCESSOR,),
    readers=(Program.GATEWAY, Program.CONNECT, Program.OPS),
    authentication=Authentication.MAC,
)

CATALOGUE: Final = (
    ASSETS,
    KEYS,
    CLAIMS,
    POLICY_CHANGES,
    POLICIES,
    ENTITLEMENTS,
    SERVICES,
    CREDENTIALS,
    ADOPTIONS,
    STATUS,
    AUDIT,
    DECISIONS,
    REQUESTS,
    DEAD_LETTERS,
)
BY_NAME: Final = {topic.name: topic for topic in CATALOGUE}


def in_set(topic: Topic, prefix: str) -> Topic:
    """The topic of another set of topics: the same but for its name, `PREFIX.` before it."""
    return msgspec.structs.replace(topic, name=f"{prefix}.{topic.name}")


def entry_of(name: str) -> Topic:
    """The catalogue's entry for a topic of that name, or of another set (`in_set`); `KeyError` for any other."""
    return BY_NAME.get(name) or BY_NAME[name.partition(".")[2]]


SOURCES: Final = (ASSETS, POLICY_CHANGES)
"""What processors decide; the owners of their partitions can be asked to decide again."""


def organization_of(topic: Topic, record_key: bytes) -> str:
    """Whose keys authenticate a record; empty for records that are about no organization: the installation's own."""
    if topic in (DEAD_LETTERS, ADOPTIONS, STATUS) or (topic is REQUESTS and source_named(record_key)):
        return ""
    return record_key.partition(b"/")[0].decode("ascii", "replace")


def source_named(record_key: bytes) -> tuple[str, int] | None:
    """The source's topic and partition that the record key of a request names; None where it names an asset."""
    topic, _, partition = record_key.partition(b"/")
    for source in SOURCES:
        if topic == source.name.encode() and partition.isdigit():
            return source.name, int(partition)
    return None


def partition_of(topic: Topic, record_key: bytes, partitions: int) -> int:
    """
    The partition that *record_key* belongs to.

    Dead letters stand on their source's partition, which the caller knows; for them this is refused.
    """
    if topic is DEAD_LETTERS:
        raise ValueError("a dead letter goes to its source's partition")
    if topic is KEYS:
        return partition_for(partition_key(record_key), partitions)
    if topic is REQUESTS and (named := source_named(record_key)):
        return named[1]
    if topic in (POLICIES, SERVICES, CREDENTIALS):
        return partition_for(record_key.split(b"/", 1)[0], partitions)
    if topic is ENTITLEMENTS:
        return partition_for(record_key.rsplit(b"/", 1)[0], partitions)
    return partition_for(record_key, partitions)
