"""
ClearKey licenses with signed tokens: what one HTTP worker serves over loopback, and how long it takes at half of that.

    python -m benchmarks.licenses [--seconds 5] [--assets 1000]

The worker is the real one, a process of its own over a real snapshot; the generator is this process. Two runs as fast
as it goes, one with a thousand tokens that come again and one in which every token is new; then three at half the rate.
Prints one line of JSON.
"""

import argparse
import gc
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.load import closed, open_loop
from keymill.config import ProxySettings, load
from keymill.core.folding import Coordinates, fold
from keymill.core.provisioning import make_key_record, needed
from keymill.drm.clearkey import base64url
from keymill.http.server import listen
from keymill.kafka.positions import Checkpoint, Described, Incoming, Slot
from keymill.kms.keyfile import KeyFile, add_organization, create_key_file
from keymill.kms.keyring import Keyring
from keymill.ops import access
from keymill.ops.token_keys import key_id_of
from keymill.ops.tokens import credential_of
from keymill.proxy.life import VIEW
from keymill.proxy.main import TOPICS
from keymill.proxy.pool import Pool
from keymill.snapshot.state import Heartbeat, HeartbeatFile, boot_id
from keymill.snapshot.writer import SnapshotWriter
from schemas import topics
from schemas.codec import encode
from schemas.events import AssetEvent, AssetIngested, TrackWish
from schemas.ids import asset_key
from schemas.values import LogPosition
from tests.fakes import TRUSTING

PARTITIONS = 12
CONNECTIONS = 32
TOKENS = 1000
LABELS = ("SD", "HD", "AUDIO")
HALVES = 3
"""Runs at half load, of which the middle one counts: a neighbour on the machine spoils one."""


class Snapshot:
    """A view with assets and a token key, filled as the follower fills it."""

    def __init__(self, data: Path) -> None:
        create_key_file(data / "keys.json")
        add_organization(data / "keys.json", "demo")
        self._keyring = Keyring(KeyFile(data / "keys.json"))
        self._offsets = {name: [0] * PARTITIONS for name in TOPICS}
        self._writer = SnapshotWriter(data / "views" / VIEW, TRUSTING).open()
        empty = {number: Slot(0) for number in range(PARTITIONS)}
        self._writer.bind(
            {name: Checkpoint(topic=Described(topic_id=name, partitions=PARTITIONS), slots=empty) for name in TOPICS}
        )
        self._heartbeat = HeartbeatFile(self._writer.folder, write=True)
        self._stop = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()
        self.signer = Ed25519PrivateKey.generate()
        record = credential_of("demo", self.signer.public_key(), label="benchmark", created=0)
        outgoing = access.record_of(record)
        self._take([(topics.CREDENTIALS, outgoing.record_key, outgoing.value or b"")])

    def add(self, asset: str) -> list[bytes]:
        """An asset with three tracks; their KIDs."""
        body = AssetIngested(tracks=tuple(TrackWish(label=label) for label in LABELS))
        event = AssetEvent(organization="demo", asset=asset, event_time=0, body=body)
        place = Coordinates(partition=0, position=LogPosition(generation=0, offset=0), timestamp=0)
        record = fold(event, at=place, held=None, root_version=1).asset
        made, kids = [], []
        for need in needed(record, None):
            key_record = make_key_record(record, need, self._keyring.keys_for("demo", need.root_version))
            kids += [track.kid for track in key_record.tracks]
            made.append((topics.KEYS, need.record_key, encode(key_record)))
        self._take([*made, (topics.KEYS, asset_key("demo", asset), encode(record))])
        return kids

    def close(self) -> None:
        """Let go."""
        self._stop.set()
        self._writer.close()

    def _take(self, records: list[tuple[topics.Topic, bytes, bytes]]) -> None:
        batch = []
        for topic, key, value in records:
            partition = topics.partition_of(topic, key, PARTITIONS)
            batch.append(Incoming(topic.name, partition, self._offsets[topic.name][partition], key, value))
            self._offsets[topic.name][partition] += 1
        reached = {name: {p: Slot(offset) for p, offset in enumerate(parts)} for name, parts in self._offsets.items()}
        self._writer.apply(batch, reached)

    def _beat(self) -> None:
        while not self._stop.wait(0.2):
            self._heartbeat.write(
                Heartbeat(
                    environment=self._writer.manifest.environment, boot=boot_id(), ready=True, live=True,
                    contact_boot_s=time.monotonic(), contact_s=time.time(),
                )
            )  # fmt: skip


@contextmanager
def worker(data: Path) -> Iterator[int]:
    """One worker process; gives its port."""
    settings = load(ProxySettings, environ={}, data=data)
    with listen("127.0.0.1", 0) as bound, (data / "worker.log").open("wb") as log:
        stderr, saved = 2, os.dup(2)
        os.dup2(log.fileno(), stderr)
        pool = Pool(settings, bound, parent=os.getpid(), environment=os.environ).start()
        os.dup2(saved, stderr)
        try:
            yield bound.getsockname()[1]
        finally:
            pool.stop()


def requests_of(snapshot: Snapshot, assets: dict[str, list[bytes]], count: int) -> list[bytes]:
    """*count* requests, each with a token of its own, over the assets in turn."""
    names, requests = list(assets), []
    headers = {"kid": key_id_of(snapshot.signer.public_key())}
    expires = int(time.time()) + 3600
    for number in range(count):
        asset = names[number % len(names)]
        claims = {"organization": "demo", "asset": asset, "sub": f"user-{number}", "exp": expires}
        token = jwt.encode(claims, snapshot.signer, algorithm="EdDSA", headers=headers)
        kids = ",".join(f'"{base64url(kid).decode()}"' for kid in assets[asset])
        body = f'{{"kids":[{kids}],"type":"temporary"}}'
        line = f"POST /clearkey/demo/{asset}?token={token} HTTP/1.1"
        head = f"{line}\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        requests.append((head + body).encode())
    return requests


def measure(port: int, repeated: list[bytes], fresh: list[bytes], seconds: float) -> dict[str, Any]:
    """The three runs. The generator's own garbage is left alone meanwhile: its pauses are nobody's latency."""
    host = "127.0.0.1"
    gc.disable()
    uvloop.run(closed(host, port, repeated, connections=CONNECTIONS, seconds=1.0))
    fast = uvloop.run(closed(host, port, repeated, connections=CONNECTIONS, seconds=seconds))
    new = uvloop.run(closed(host, port, fresh, connections=CONNECTIONS, seconds=seconds))
    halves = [
        uvloop.run(open_loop(host, port, repeated, rate=fast.rate() / 2, connections=CONNECTIONS, seconds=seconds))
        for _ in range(HALVES)
    ]
    half = sorted(halves, key=lambda load: load.percentile_ms(0.99))[HALVES // 2]
    refused = sum(load.refused for load in (fast, new, *halves))
    return {
        "licenses_per_s": round(fast.rate()),
        "licenses_per_s_new_tokens": round(new.rate()),
        "half_load_per_s": round(half.rate()),
        "p50_ms": half.percentile_ms(0.5),
        "p99_ms": half.percentile_ms(0.99),
        "p99_ms_of_each": [load.percentile_ms(0.99) for load in halves],
        "refused": refused,
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--assets", type=int, default=1000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keymill-licenses-") as folder:
        snapshot = Snapshot(Path(folder))
        assets = {f"asset-{number}": snapshot.add(f"asset-{number}") for number in range(given.assets)}
        repeated = requests_of(snapshot, assets, TOKENS)
        fresh = requests_of(snapshot, assets, int(15_000 * given.seconds))
        with worker(Path(folder)) as port:
            print(json.dumps(measure(port, repeated, fresh, given.seconds)))
        snapshot.close()


if __name__ == "__main__":
    main()
