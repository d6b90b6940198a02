"""
From an event accepted by the gateway to a license served by the proxy, at a steady rate.

    python -m benchmarks.latency [--rate 100] [--seconds 20]

`keymill up` as a person runs it. For each event: POST to the gateway (202), then a ClearKey license for all the asset's
keys from the proxy, asked at once; the proxy waits for its tail, and a 404 is asked again. `accepted_to_license` runs
from the 202 to the license, `request_to_license` from the POST. Prints one line of JSON on stdout.
"""

import argparse
import asyncio
import base64
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt

from keymill.core.derive import derive_key
from keymill.core.identity import KeyIdentity
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.ops.token_keys import key_id_of, signing_key
from keymill.secret import Secret
from schemas.values import Scheme

WARM_UP = 50
CONNECTIONS = 16
AGAIN_S = 0.002
ATTEMPTS = 1000
LABELS = ("SD", "HD", "AUDIO")


@dataclass(frozen=True)
class Prepared:
    """The two requests of one event, made beforehand: the driver shares two cores with what it measures."""

    event: bytes
    license_: bytes


def prepare(line: dict[str, Any], count: int) -> list[Prepared]:
    """Requests for *count* assets, with tokens signed and KIDs known: they are a function of the asset's identity."""
    data = Path(line["data"])
    prk = Keyring(KeyFile(data / "keys.json")).prk("demo", 1)
    key = signing_key(data, "demo")[1]
    assert key is not None
    return [_prepare(line, f"live-{number:06d}", prk, key) for number in range(count)]


def _prepare(line: dict[str, Any], asset: str, prk: Secret, key: Any) -> Prepared:
    claims = {"organization": "demo", "asset": asset, "exp": int(time.time()) + 600}
    token = jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": key_id_of(key.public_key())})
    kids = [base64.urlsafe_b64encode(derive_key(prk, _identity(asset, label)).kid).decode()[:22] for label in LABELS]
    event = {"asset_id": asset, "tracks": LABELS}
    authorization = f"Authorization: Bearer {line['credentials']['api_key']}\r\n"
    return Prepared(
        event=_post("/v1/organizations/demo/assets", event, authorization),
        license_=_post(f"/clearkey/demo/{asset}?token={token}", {"kids": kids, "type": "temporary"}),
    )


def _identity(asset: str, label: str) -> KeyIdentity:
    return KeyIdentity(
        organization="demo", asset=asset, key_version=1, period=None, scheme=Scheme.CBCS, label=label,
        root_version=1, salt=None,
    )  # fmt: skip


def _post(path: str, body: dict[str, Any], headers: str = "") -> bytes:
    content = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n{headers}\r\n".encode() + content


class Pool:
    """Keep-alive connections to one server; an answer is its status and its body."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self._free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def open(self) -> None:
        """Connect."""
        for _ in range(CONNECTIONS):
            self._free.put_nowait(await asyncio.open_connection(self._address.hostname, self._address.port))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request and read its answer."""
        reader, writer = await self._free.get()
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        at = head.index(b"content-length:") + 15
        body = await reader.readexactly(int(head[at : head.index(b"\r", at)]))
        self._free.put_nowait((reader, writer))
        return int(head[9:12]), body


async def one(gateway: Pool, proxy: Pool, prepared: Prepared, taken: list[tuple[float, float]]) -> None:
    """One event and its license."""
    begun = time.perf_counter()
    status, body = await gateway.ask(prepared.event)
    accepted = time.perf_counter()
    assert status == 202, body
    for _ in range(ATTEMPTS):
        status, body = await proxy.ask(prepared.license_)
        if status not in (404, 503):
            break
        await asyncio.sleep(AGAIN_S)
    done = time.perf_counter()
    assert status == 200 and len(json.loads(body)["keys"]) == len(LABELS), body
    taken.append((done - accepted, done - begun))


async def drive(line: dict[str, Any], rate: float, seconds: float) -> list[tuple[float, float]]:
    """Start events on schedule, whatever the answers take."""
    taken: list[tuple[float, float]] = []
    gateway, proxy = Pool(line["gateway"]), Pool(line["proxy"])
    await gateway.open()
    await proxy.open()
    prepared = prepare(line, WARM_UP + int(rate * seconds))
    for each in prepared[:WARM_UP]:
        await one(gateway, proxy, each, [])
    begun, tasks = time.monotonic(), []
    for number, each in enumerate(prepared[WARM_UP:]):
        await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
        tasks.append(asyncio.create_task(one(gateway, proxy, each, taken)))
    await asyncio.gather(*tasks)
    return taken


def percentile(values: list[float], share: float) -> float:
    """In milliseconds."""
    ordered = sorted(values)
    return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=100)
    parser.add_argument("--seconds", type=float, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keymill-bench-") as folder:
        command = [sys.executable, "-m", "keymill.ops.cli", "up", "--data", folder]
        up = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            assert up.stdout is not None
            line = json.loads(up.stdout.readline())
            taken = asyncio.run(drive(line, given.rate, given.seconds))
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait(90)
    accepted, requested = [each[0] for each in taken], [each[1] for each in taken]
    figures = {
        "events": len(taken),
        "rate": given.rate,
        "accepted_to_license_ms": {"p50": percentile(accepted, 0.5), "p99": percentile(accepted, 0.99)},
        "request_to_license_ms": {"p50": percentile(requested, 0.5), "p99": percentile(requested, 0.99)},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
