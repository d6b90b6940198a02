"""
Recovery from the logs with a real broker: rebuild the key topic, then verify and audit it, as the commands do.

    python -m benchmarks.recovery [--assets 1000000]

Three tracks per asset, one event each, 12 partitions; the key topic is deleted before it was ever filled. Each command
is a process of its own, start included; beside its seconds stands the most memory that it took. Prints one line of
JSON on stdout.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from confluent_kafka.admin import AdminClient

from benchmarks.processor import event
from keymill.kafka.admin import create_topics, describe
from keymill.kafka.authentication import install
from keymill.kafka.embedded import EmbeddedKafka
from keymill.kafka.producer import Publisher
from keymill.kms.keyfile import add_organization, create_key_file
from keymill.kms.record_keys import record_keys_of
from schemas import topics

PARTITIONS = 12
BATCH = 20_000


def fill(bootstrap: str, assets: int) -> None:
    """The asset events."""
    publisher = Publisher(bootstrap, {topic.name: PARTITIONS for topic in topics.CATALOGUE})
    for start in range(0, assets, BATCH):
        batch = [event(number) for number in range(start, min(start + BATCH, assets))]
        publisher.flush_all([publisher.send_batch(batch)])
    publisher.close()


def lose_keys(bootstrap: str) -> None:
    """Delete the key topic."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.delete_topics([topics.KEYS.name])[topics.KEYS.name].result()
    while topics.KEYS.name in describe(bootstrap, [topics.KEYS.name]):
        time.sleep(0.1)


def command(name: str, *arguments: str, assets: int) -> dict[str, int | float]:
    """Run it to its end, which must be a clean one."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "keymill.ops.cli", *arguments, "--json"], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    took = time.monotonic() - began
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"{name} ended with exit code {os.waitstatus_to_exitcode(status)}")
    return {"s": round(took, 1), "assets_per_s": round(assets / took), "mib": usage.ru_maxrss // 1024}


def measure(bootstrap: str, data: Path, assets: int) -> dict[str, object]:
    """Lose the key topic, and get it back."""
    create_key_file(data / "keys.json")
    add_organization(data / "keys.json", "demo")
    install(record_keys_of(data / "keys.json"))
    create_topics(bootstrap, PARTITIONS, 1)
    fill(bootstrap, assets)
    lose_keys(bootstrap)
    at = ("--data", str(data), "--bootstrap", bootstrap)
    return {
        "assets": assets,
        "rebuild": command("rebuild keys", "rebuild", "keys", "--apply", *at, assets=assets),
        "verify": command("replay", "replay", *at, assets=assets),
        "audit": command("audit", "audit", *at, assets=assets),
    }


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=int, default=1_000_000)
    wanted = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="keymill-bench-") as folder,
        EmbeddedKafka(Path(folder) / "kafka", heap_mib=512) as kafka,
    ):
        print(json.dumps(measure(kafka.bootstrap, Path(folder), wanted.assets)))


if __name__ == "__main__":
    main()
