"""
`keymill audit --follow` beside a real broker: what its first pass takes, and what a look costs after it.

    python -m benchmarks.following [--assets 20000]

Three tracks per asset, one event each, 12 partitions. The key topic is filled by `keymill rebuild keys`, so that nobody
else is at work. Prints one line of JSON: seconds and MiB of the first pass, CPU milliseconds of a look at which nothing
came, and of the looks at 1,000 new assets.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from benchmarks.processor import event
from benchmarks.recovery import PARTITIONS, fill
from keymill.kafka.admin import create_topics
from keymill.kafka.authentication import install
from keymill.kafka.embedded import EmbeddedKafka
from keymill.kafka.ports import free_ports
from keymill.kafka.producer import Publisher
from keymill.kms.keyfile import add_organization, create_key_file
from keymill.kms.record_keys import record_keys_of
from schemas import topics

NEW = 1000
LOOKS = 20


class Follower:
    """The process, as Prometheus reads it."""

    def __init__(self, *at: str) -> None:
        self._url = f"http://127.0.0.1:{(port := next(free_ports()))}/metrics"
        command = [sys.executable, "-m", "keymill.ops.cli", "audit", "--follow", "--every", "1", "--whole-every", "0"]
        self.process = subprocess.Popen([*command, "--metrics-port", str(port), *at], stdout=subprocess.DEVNULL)

    def metric(self, name: str) -> float:
        """The sum of its series; 0 while nobody answers."""
        try:
            told = httpx.get(self._url).text
        except httpx.HTTPError:
            return 0.0
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", told, re.MULTILINE))

    def wait(self, done: Callable[[], bool]) -> None:
        """Until it holds."""
        while not done():
            if self.process.poll() is not None:
                raise SystemExit(f"the audit ended with exit code {self.process.returncode}")
            time.sleep(0.1)

    def cpu_s(self) -> float:
        """So far."""
        return self.metric("process_cpu_seconds_total")

    def idle_ms(self) -> float:
        """CPU of a look, reading this metric included."""
        looks, cpu_s = self.metric("keymill_audits_total"), self.cpu_s()
        self.wait(lambda: self.metric("keymill_audits_total") >= looks + LOOKS)
        return 1000 * (self.cpu_s() - cpu_s) / LOOKS


def rebuild(*at: str) -> None:
    """Write the records of every event that lacks them."""
    subprocess.run(
        [sys.executable, "-m", "keymill.ops.cli", "rebuild", "keys", "--apply", *at], check=True, stdout=sys.stderr
    )


def measure(bootstrap: str, data: Path, assets: int) -> dict[str, float]:
    """Follow."""
    create_key_file(data / "keys.json")
    add_organization(data / "keys.json", "demo")
    install(record_keys_of(data / "keys.json"))
    create_topics(bootstrap, PARTITIONS, 1)
    fill(bootstrap, assets)
    at = ("--data", str(data), "--bootstrap", bootstrap)
    rebuild(*at)
    began, follower = time.monotonic(), Follower(*at)
    try:
        follower.wait(lambda: follower.metric("keymill_audits_total") > 0)
        whole_s, mib = time.monotonic() - began, follower.metric("process_resident_memory_bytes") / 2**20
        idle_ms, cpu_s = follower.idle_ms(), follower.cpu_s()
        publisher = Publisher(bootstrap, {topic.name: PARTITIONS for topic in topics.CATALOGUE})
        publisher.flush_all([publisher.send_batch([event(number) for number in range(assets, assets + NEW)])])
        publisher.close()
        rebuild(*at)
        follower.wait(lambda: follower.metric("keymill_audit_events") >= assets + NEW)
        follower.wait(lambda: follower.metric("keymill_audit_pending") == 0)
        if follower.metric("keymill_audit_differences"):
            raise SystemExit("the audit found differences")
        return {"whole_s": whole_s, "mib": mib, "idle_look_ms": idle_ms, "new_ms": 1000 * (follower.cpu_s() - cpu_s)}
    finally:
        follower.process.terminate()
        follower.process.wait()


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=int, default=20_000)
    assets = parser.parse_args().assets
    with tempfile.TemporaryDirectory() as folder, EmbeddedKafka(Path(folder) / "kafka", heap_mib=768) as kafka:
        data = Path(folder) / "data"
        data.mkdir()
        found = measure(kafka.bootstrap, data, assets)
    print(json.dumps({"assets": assets, **{name: round(value, 1) for name, value in found.items()}}))


if __name__ == "__main__":
    main()
