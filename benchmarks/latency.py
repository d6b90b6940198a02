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
from pathlib import Path
from typing import Any

import httpx

from keymill.core.derive import derive_key
from keymill.core.identity import KeyIdentity
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.ops.token_keys import key_id_of, signing_key
from schemas.values import Scheme

WARM_UP = 50
ATTEMPTS = 200
LABELS = ("SD", "HD", "AUDIO")


def kids(data: Path, asset: str) -> list[str]:
    """The KIDs that the asset will have, as a ClearKey request names them: a pure function of its identity."""
    prk = Keyring(KeyFile(data / "keys.json")).prk("demo", 1)
    identities = (
        KeyIdentity(
            organization="demo", asset=asset, key_version=1, period=None, scheme=Scheme.CBCS, label=label,
            root_version=1, salt=None,
        )
        for label in LABELS
    )  # fmt: skip
    return [base64.urlsafe_b64encode(derive_key(prk, each).kid).decode().rstrip("=") for each in identities]


def token(data: Path, asset: str) -> str:
    """A player token of the demo organization."""
    import jwt  # noqa: PLC0415 only this benchmark signs tokens by itself

    _, key = signing_key(data, "demo")
    assert key is not None
    claims = {"organization": "demo", "asset": asset, "exp": int(time.time()) + 600}
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": key_id_of(key.public_key())})


async def one(client: httpx.AsyncClient, line: dict[str, Any], number: int, taken: list[tuple[float, float]]) -> None:
    """One event and its license."""
    asset = f"live-{number:06d}"
    url = f"{line['proxy']}/clearkey/demo/{asset}?token={token(Path(line['data']), asset)}"
    challenge = json.dumps({"kids": kids(Path(line["data"]), asset), "type": "temporary"})
    headers = {"authorization": f"Bearer {line['credentials']['api_key']}"}
    begun = time.perf_counter()
    body = {"asset_id": asset, "tracks": LABELS}
    answer = await client.post(f"{line['gateway']}/v1/organizations/demo/assets", json=body, headers=headers)
    accepted = time.perf_counter()
    assert answer.status_code == 202, answer.text
    for _ in range(ATTEMPTS):
        license_ = await client.post(url, content=challenge)
        if license_.status_code not in (404, 503):
            break
    done = time.perf_counter()
    assert license_.status_code == 200 and len(license_.json()["keys"]) == len(LABELS), license_.text
    taken.append((done - accepted, done - begun))


async def drive(line: dict[str, Any], rate: float, seconds: float) -> list[tuple[float, float]]:
    """Start events on schedule, whatever the answers take."""
    taken: list[tuple[float, float]] = []
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        for number in range(WARM_UP):
            await one(client, line, number, [])
        begun, tasks = time.monotonic(), []
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
            tasks.append(asyncio.create_task(one(client, line, WARM_UP + number, taken)))
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
