"""
What one broker's folder holds, and the settings it starts with. Values in, values out; `node.py` writes them.

    DATA/lock  cluster.json               the owner's lock; cluster id and number of nodes
    DATA/node-N/server.properties         written at every start, like log4j2.json
    DATA/node-N/data/                     Kafka's own: metadata, partitions
    DATA/node-N/broker.log  jvm.log       Kafka's log, rotated; what the JVM itself says, from the last start
    DATA/node-N/process                   pid and start time of the running broker
"""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HOST = "127.0.0.1"

# Names inside a node's folder, which is the broker's working directory.
DATA = "data"
PROPERTIES = "server.properties"
LOG4J_CONFIG = "log4j2.json"
LOG = "broker.log"
JVM_LOG = "jvm.log"
PROCESS = "process"
SCRATCH = "tmp"

# What makes a node the node it is; an override would break the folder or the quorum.
FIXED = frozenset({"node.id", "process.roles", "log.dirs", "controller.quorum.voters", "controller.listener.names"})


PLAIN = frozenset(string.ascii_letters + string.digits + "./:,;@_-=+*()[]")

# Warnings and worse; with its two predecessors the log stays under 15 MB. Names, here and in the
# properties, are relative to the node's folder, so that no character of a path can mean something to Kafka or log4j.
LOG4J = {
    "Configuration": {
        "status": "ERROR",
        "Appenders": {
            "RollingFile": {
                "name": "FILE",
                "fileName": LOG,
                "filePattern": f"{LOG}.%i",
                "PatternLayout": {"pattern": "%d{ISO8601_OFFSET_DATE_TIME_HHCMM}{UTC} %p %m (%c)%n"},
                "Policies": {"SizeBasedTriggeringPolicy": {"size": "5 MB"}},
                "DefaultRolloverStrategy": {"max": "2"},
            }
        },
        "Loggers": {"Root": {"level": "WARN", "AppenderRef": {"ref": "FILE"}}},
    }
}


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of one node on loopback."""

    client: int
    controller: int


# Of every node of every cluster.
COMMON: Final = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "CLIENT",
    "log.dirs": DATA,
    # Topics come from the catalogue alone; a typing error must not make one.
    "auto.create.topics.enable": "false",
    # A handful of groups, not a company's: fewer internal partitions make first use and restart quicker.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "4",
    # A folder left alone for months must not make the processor start again from the first event (5 years).
    "offsets.retention.minutes": "2628000",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # Each partition has two index files, set aside (sparse) at this size; Kafka's 10 MiB would look like gigabytes.
    "log.index.size.max.bytes": "1048576",
    # Kafka's 128 MiB would be a quarter of the heap; this holds 1.2 million record keys a pass.
    "log.cleaner.dedupe.buffer.size": "33554432",
    "num.network.threads": "2",
    "num.io.threads": "4",
}


def server_properties(node: int, ports: Sequence[Ports], overrides: Mapping[str, str]) -> dict[str, str]:
    """Give the settings of *node* in a cluster that listens on *ports*, one entry per node."""
    mine, alone = ports[node], len(ports) == 1
    copies, in_sync = str(min(3, len(ports))), "2" if len(ports) >= 3 else "1"
    return {
        **COMMON,
        "node.id": str(node),
        # Static voters: the ports of a dynamic quorum are kept in the log and could not change between starts.
        "controller.quorum.voters": ",".join(f"{i}@{HOST}:{p.controller}" for i, p in enumerate(ports)),
        "listeners": f"CLIENT://{HOST}:{mine.client},CONTROLLER://{HOST}:{mine.controller}",
        "advertised.listeners": f"CLIENT://{HOST}:{mine.client}",
        # A killed broker is let in again only when its old session has ended; Kafka's 9 s would be added to every such
        # restart. Several nodes compete for the processor, and a pause that fences one costs more there.
        "broker.session.timeout.ms": "3000" if alone else "6000",
        "broker.heartbeat.interval.ms": "500" if alone else "1000",
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": in_sync,
        **overrides,
    }


def render(properties: Mapping[str, str]) -> str:
    """Write settings as a Java properties file."""
    return "".join(f"{key}={_escaped(value)}\n" for key, value in properties.items())


def _escaped(value: str) -> str:
    """Keep what no reader of such files treats specially; write the rest as the escapes of its UTF-16 units."""
    units = memoryview(value.encode("utf-16-le")).cast("H")
    return "".join(chr(unit) if chr(unit) in PLAIN else f"\\u{unit:04x}" for unit in units)


def jvm_options(home: Path, heap_mib: int) -> list[str]:
    """Give the JVM options: small and quick to start, at the price of peak throughput."""
    return [
        f"-Xmx{heap_mib}m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-UsePerfData",
        f"-XX:ErrorFile={home / 'jvm-crash.log'}",
        # The compression libraries unpack themselves there; the machine's own /tmp may forbid to run what lies in it.
        f"-Djava.io.tmpdir={home / SCRATCH}",
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={home / LOG4J_CONFIG}",
    ]
