"""Every example of docs/ingest.md runs as it stands, and its assets get their keys."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from keymill.ops.demo.stack import Stack
from schemas import codec
from schemas.events import AssetEvent, AssetIngested, TrackWish
from schemas.ids import asset_key
from schemas.partition import murmur2, partition_for

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ingest.md").read_text()
EXAMPLES = re.findall(r"^```(bash|python)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
ASSETS = {"film-5": 5, "film-6": 3, "film-8": 3, "film-9": 2, "film-10": 3, "film-11": 10}
DEADLINE_S = 30


def tracks_of(line: dict[str, object], api_key: str, asset: str) -> int:
    """How many keys the gateway shows for an asset, waiting for the record."""
    url = f"{line['gateway']}/v1/organizations/demo/assets/{asset}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {api_key}"})
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            with urllib.request.urlopen(request) as answer:
                found = json.load(answer)
                return sum(len(version["tracks"]) for version in found["versions"])
        except urllib.error.HTTPError as error:
            if error.code not in (404, 503) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_there_are_examples_of_every_way() -> None:
    """The page did not lose its examples to a change of form."""
    assert ["bash", "python", "python", "python", "bash"] == [language for language, _ in EXAMPLES]


@pytest.mark.timeout(180)
def test_examples_run(up: Stack) -> None:
    """Each example exits with 0, and each asset it names has its keys."""
    line = json.loads((Path(up.up.data) / "up.json").read_text())
    api_key = json.loads((Path(up.up.data) / "credentials.json").read_text())["api-key"]["api_key"]
    environment = {
        **os.environ,
        "GATEWAY": line["gateway"],
        "API_KEY": api_key,
        "KAFKA": line["kafka"],
        "DATA": line["data"],
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for language, source in EXAMPLES:
        command = ["bash", "-euo", "pipefail", "-c", source] if language == "bash" else [sys.executable, "-c", source]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{source}\n{done.stdout}{done.stderr}"
    assert ASSETS == {asset: tracks_of(line, api_key, asset) for asset in ASSETS}


def test_exact_bytes() -> None:
    """What the page prints for other languages is what the code writes."""
    body = AssetIngested(tracks=(TrackWish(label="SD"), TrackWish(label="AUDIO")))
    event = AssetEvent(organization="demo", asset="film-7", event_id="cms-4711", event_time=1767225600000, body=body)
    key = asset_key("demo", "film-7")
    printed = dict(re.findall(r"^(record key|murmur2|partition|value) +(\w+)", PAGE, re.MULTILINE))
    expected = {"record key": key.hex(), "murmur2": f"{murmur2(key):08x}", "partition": str(partition_for(key, 12))}
    assert expected | {"value": codec.encode(event).hex()} == printed
