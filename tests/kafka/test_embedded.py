"""The embedded Kafka: real brokers, real ports, real signals."""

from pathlib import Path

import pytest

from keymill.kafka.embedded import EmbeddedKafka

pytestmark = pytest.mark.timeout(170)


def test_records_survive_a_second_start(tmp_path: Path) -> None:
    """A folder that is started again has the same cluster, the same address and the records of the last run."""
    with EmbeddedKafka(tmp_path) as kafka:
        first = kafka.bootstrap
    with EmbeddedKafka(tmp_path) as kafka:
        assert first == kafka.bootstrap
