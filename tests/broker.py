"""
A real broker for tests: one of ours in a throw-away folder, or the cluster that KEYMILL_TEST_BOOTSTRAP names.

    @pytest.fixture(scope="session")
    def bootstrap() -> Iterator[str]:
        with running_broker() as bootstrap:
            yield bootstrap

`tests/kafka` must not become a package: as one it would hide kafka-python, which is named `kafka`.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from keymill.kafka.embedded import EmbeddedKafka

# So that a test sees within seconds what Kafka does within minutes: compaction, deletion of segments, a dead member.
PROMPT = {
    "log.cleaner.backoff.ms": "500",
    "log.retention.check.interval.ms": "1000",
    "log.segment.delete.delay.ms": "1000",
    "log.initial.task.delay.ms": "500",
}


@contextmanager
def running_broker() -> Iterator[str]:
    """Give the bootstrap address of a broker that runs inside the block; fails, never skips, if it does not come up."""
    outside = os.environ.get("KEYMILL_TEST_BOOTSTRAP", "")
    if outside:
        yield outside
        return
    with embedded_kafka() as kafka:
        yield kafka.bootstrap


@contextmanager
def embedded_kafka(
    *, nodes: int = 1, properties: Mapping[str, str] | None = None, heap_mib: int = 384
) -> Iterator[EmbeddedKafka]:
    """Give a cluster of one's own, to kill, pause and restart; its folder goes with it."""
    with (
        tempfile.TemporaryDirectory(prefix="keymill-kafka-", ignore_cleanup_errors=True) as folder,
        EmbeddedKafka(
            Path(folder), nodes=nodes, properties={**PROMPT, **(properties or {})}, heap_mib=heap_mib
        ) as kafka,
    ):
        yield kafka
