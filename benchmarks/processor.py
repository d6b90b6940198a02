"""
Events/s of one live processor: decode, fold, derive, wrap, encode, acknowledged publish, view and read-back.

    python -m benchmarks.processor [--events 60000]

A real broker, a real `keymill processor` process; three tracks per asset. The clock runs from the first key record to
the last asset record that the broker has. Prints one line of JSON on stdout.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from keymill.kafka.admin import create_topics, end_offsets
from keymill.kafka.authentication import install
from keymill.kafka.embedded import EmbeddedKafka
from keymill.kafka.producer import Outgoing, Publisher
from keymill.kms.keyfile import add_organization, create_key_file
from keymill.kms.record_keys import record_keys_of
from schemas import topics
from schemas.codec import encode
from schemas.events import AssetEvent, AssetIngested, TrackWish
from schemas.ids import asset_key

LABELS = ("SD", "HD", "AUDIO")
DEADLINE_S = 300


def event(number: int) -> Outgoing:
    """One ingest event of three tracks."""
    name = f"asset-{number:08d}"
    body = AssetIngested(tracks=tuple(TrackWish(label=label) for label in LABELS))
    value = AssetEvent(organization="demo", asset=name, event_id=f"e-{number}", event_time=1, body=body)
    return Outgoing(topic=topics.ASSETS.name, record_key=asset_key("demo", name), value=encode(value))


def records(bootstrap: str) -> int:
    """Records on the key topic."""
    return sum(end_offsets(bootstrap, topics.KEYS.name).values())


def measure(bootstrap: str, data: Path, events: int) -> dict[str, object]:
    """Start a processor, give it all events at once, and time it."""
    create_key_file(data / "keys.json")
    add_organization(data / "keys.json", "demo")
    install(record_keys_of(data / "keys.json"))
    create_topics(bootstrap, 12, 1)
    publisher = Publisher(bootstrap, {topic.name: 12 for topic in topics.CATALOGUE})
    publisher.flush_all([publisher.send_batch([event(number) for number in range(events)])])
    publisher.close()
    command = [sys.executable, "-m", "keymill.ops.cli", "processor", "--data", str(data), "--bootstrap", bootstrap]
    environment = {**os.environ, "KEYMILL_LOG_LEVEL": "warning"}
    processor = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    try:
        started = time.monotonic()
        while (have := records(bootstrap)) == 0 and time.monotonic() - started < DEADLINE_S:
            time.sleep(0.01)
        begun = time.monotonic()
        while records(bootstrap) < 2 * events and time.monotonic() - started < DEADLINE_S:
            time.sleep(0.02)
        seconds = time.monotonic() - begun
        done = records(bootstrap)
    finally:
        processor.send_signal(signal.SIGTERM)
        processor.wait(60)
    handled = (done - have) / 2
    return {"events": events, "seconds": round(seconds, 2), "events_per_s": round(handled / seconds)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=60_000)
    events = parser.parse_args().events
    with tempfile.TemporaryDirectory(prefix="keymill-bench-") as folder, EmbeddedKafka(Path(folder) / "kafka") as kafka:
        print(json.dumps(measure(kafka.bootstrap, Path(folder), events)))


if __name__ == "__main__":
    main()
