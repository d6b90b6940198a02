"""
Cold bootstrap and warm restart of a view: a real broker, a real follower process, records of real size.

    python -m benchmarks.bootstrap [--records 1000000] [--keep FOLDER] [--bootstrap HOST:PORT]

Half the records are asset records, half key records of three tracks; KID index and guard are included. Prints one
line of JSON on stdout.
"""

import argparse
import contextlib
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from keymill.kafka.authentication import install, with_authenticator
from keymill.kafka.embedded import EmbeddedKafka
from keymill.kafka.outgoing import Outgoing
from keymill.kms.keyfile import add_organization, create_key_file
from keymill.kms.record_keys import record_keys_of
from keymill.snapshot.follower import Follower
from keymill.snapshot.reader import SnapshotReader
from schemas import topics
from schemas.codec import encode
from schemas.ids import asset_key, key_set_key, scoped_key
from schemas.partition import partition_for
from schemas.policy import Policy
from schemas.records import (
    AssetRecord,
    AssetState,
    KeyOrigin,
    KeyRecord,
    KeySet,
    KeyVersion,
    PolicyRecord,
    PolicyState,
    TrackIdentity,
    TrackKey,
)
from schemas.values import LogPosition, Scheme

FOLLOWED = (topics.KEYS, topics.POLICIES, topics.ENTITLEMENTS, topics.SERVICES, topics.CREDENTIALS)
LABELS = ("SD", "HD", "AUDIO")
PLACEHOLDER = "asset-00000000"
AT = LogPosition(generation=0, offset=123_456)


def templates() -> tuple[bytes, bytes, list[bytes]]:
    """An asset record and a key record with a placeholder name, and the KIDs and fingerprints to put in."""
    marks = [hashlib.sha256(b"%d" % number).digest() for number in range(len(LABELS))]
    tracks = tuple(
        TrackKey(kid=mark[:16], fp=mark[16:], label=label, scheme=Scheme.CBCS, origin=KeyOrigin.DERIVED)
        for mark, label in zip(marks, LABELS, strict=True)
    )
    key = KeyRecord(
        kek_epoch=1, tracks=tracks, wrapped=bytes(16 + 32 * len(LABELS)), organization="demo", asset=PLACEHOLDER,
        key_version=1, root_version=1, event=AT,
    )  # fmt: skip
    identities = tuple(TrackIdentity(label=label, scheme=Scheme.CBCS, declared=True) for label in LABELS)
    version = KeyVersion(
        key_version=1, root_version=1, single_key=False, schemes=(Scheme.CBCS,), created=AT,
        key_sets=(KeySet(digest=bytes(16), at=AT, tracks=identities),),
    )  # fmt: skip
    asset = AssetRecord(
        organization="demo", asset=PLACEHOLDER, state=AssetState.ACTIVE, applied=AT, policy_id=0, versions=(version,)
    )
    return encode(asset), encode(key), marks


def fill(bootstrap: str, assets: int, partitions: int) -> int:
    """Produce *assets* assets, each a key record and an asset record; gives the bytes of values."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20, "queue.buffering.max.messages": 500_000})
    asset_value, key_value, marks = templates()
    size = 0
    for number in range(assets):
        name = f"asset-{number:08d}"
        key = key_value.replace(PLACEHOLDER.encode(), name.encode())
        for mark in marks:
            key = key.replace(mark, hashlib.sha256(mark + name.encode()).digest())
        value = asset_value.replace(PLACEHOLDER.encode(), name.encode())
        record_key = asset_key("demo", name)
        digest = hashlib.sha256(name.encode()).digest()[:16]
        partition = partition_for(record_key, partitions)
        for its_key, its_value in ((key_set_key("demo", name, digest), key), (record_key, value)):
            while True:
                try:
                    headers = with_authenticator(Outgoing(topic=topics.KEYS.name, record_key=its_key, value=its_value))
                    producer.produce(topics.KEYS.name, its_value, its_key, partition=partition, headers=headers)
                    break
                except BufferError:
                    producer.poll(0.1)
            size += len(its_value)
        if number % 1000 == 0:
            producer.poll(0)
    producer.flush()
    return size


def memory_mib(pid: int) -> dict[str, float]:
    """Private memory of a process, and what of the map it has touched."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:] if line.endswith("kB")}
    private_anonymous = sizes.get("Anonymous", 0)
    return {"anonymous": round(private_anonymous / 1024, 1), "resident": round(sizes["Rss"] / 1024, 1)}


def until_live(reader: SnapshotReader, limit_s: float = 600) -> None:
    """Wait until the view is caught up."""
    deadline = time.monotonic() + limit_s
    while not reader.state().live:
        if time.monotonic() > deadline:
            raise TimeoutError(str(reader.state()))
        time.sleep(0.002)


def measure(bootstrap: str, folder: Path, key_file: Path, records: int) -> dict[str, object]:
    """One cold and three warm starts, then the way of single records."""
    client: dict[str, str | int | bool] = {"bootstrap.servers": bootstrap}
    follower = Follower(folder, [topic.name for topic in FOLLOWED], client, key_file=key_file)
    began = time.perf_counter()
    follower.start()
    reader = SnapshotReader(folder).open()
    until_live(reader)
    cold_s = time.perf_counter() - began
    memory = memory_mib(follower.pid)
    warm = []
    for _ in range(3):
        follower.stop()
        while reader.state().live:
            time.sleep(0.01)
        began = time.perf_counter()
        follower.start()
        until_live(reader)
        warm.append(time.perf_counter() - began)
    way_ms = visible_ms(bootstrap, reader)
    result = {
        "records": records,
        "cold_s": round(cold_s, 2),
        "records_per_s": round(records / cold_s),
        "warm_s": round(statistics.median(warm), 2),
        "follower_mib": memory,
        "visible_ms": {
            "p50": round(statistics.median(way_ms), 2),
            "p99": round(sorted(way_ms)[-len(way_ms) // 100], 2),
        },
        "store_mib": round(sum(path.stat().st_size for path in folder.rglob("data.mdb")) / 2**20),
    }
    reader.close()
    follower.stop()
    return result


def visible_ms(bootstrap: str, reader: SnapshotReader) -> list[float]:
    """From a record's acknowledgement by the broker to its being read in another process."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
    took = []
    for number in range(300):
        record = PolicyRecord(
            organization="demo", policy_id=number, version=1, state=PolicyState.READY, name="n",
            policy=Policy(can_play=True), applied=AT, created=1, changed=1,
        )  # fmt: skip
        acknowledged: list[float] = []
        key = scoped_key("demo", str(number))
        partition = topics.partition_of(topics.POLICIES, key, topics.PARTITIONS)
        producer.produce(
            topics.POLICIES.name, encode(record), key, partition=partition,
            on_delivery=lambda _error, _message, acknowledged=acknowledged: acknowledged.append(time.perf_counter()),
        )  # fmt: skip
        while not acknowledged:
            producer.poll(0.01)
        while reader.coordinates(topics.POLICIES.name, key) is None:
            time.sleep(0.0001)
        took.append((time.perf_counter() - acknowledged[0]) * 1000)
        time.sleep(0.005)
    return took


@contextlib.contextmanager
def broker(given: str, folder: Path) -> Iterator[str]:
    """The cluster that was given, or one of our own."""
    if given:
        yield given
        return
    with EmbeddedKafka(folder / "kafka", heap_mib=512) as kafka:
        yield kafka.bootstrap


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--bootstrap", default="")
    parser.add_argument("--keep", type=Path)
    wanted = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = wanted.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keymill-bench-")))
        key_file = folder / "keys.json"
        if create_key_file(key_file):
            add_organization(key_file, "demo")
        install(record_keys_of(key_file))
        bootstrap = stack.enter_context(broker(wanted.bootstrap, folder))
        admin = AdminClient({"bootstrap.servers": bootstrap})
        if topics.KEYS.name not in admin.list_topics(timeout=10).topics:
            made = admin.create_topics([NewTopic(topic.name, topics.PARTITIONS, 1) for topic in FOLLOWED])
            for future in made.values():
                future.result()
            began = time.perf_counter()
            size = fill(bootstrap, wanted.records // 2, topics.PARTITIONS)
            print(f"filled {size / 1e6:.0f} MB in {time.perf_counter() - began:.1f} s", file=sys.stderr)
        view = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keymill-bench-view-")))
        print(json.dumps(measure(bootstrap, view, key_file, wanted.records)))


if __name__ == "__main__":
    main()
