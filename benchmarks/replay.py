"""
Assets/s of a replay on one core: derive again what the events call for and compare it with what the key topic holds.

    python -m benchmarks.replay [--assets 20000]

Three tracks per asset, one event each, in memory: reading the topics is not in it. Also the same events over an
empty topic, which is what a rebuild decides. Prints one line of JSON on stdout.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable

from keymill.kms.keyring import Keyring
from keymill.ops.held import Held
from keymill.ops.replaying import compare
from keymill.ops.report import Report
from keymill.ops.verifying import Verifier
from schemas import framing, topics
from schemas.codec import encode
from schemas.events import AssetEvent, AssetIngested, TrackWish
from schemas.ids import asset_key
from schemas.partition import partition_for
from streams.decide import Decider
from streams.runs import RawRecord
from tests.fakes import MemoryKms

LABELS = ("SD", "HD", "AUDIO")
NOW = 1_800_000_000_000


def event(offset: int, number: int) -> RawRecord:
    """One ingest event of three tracks."""
    name = f"asset-{number:08d}"
    body = AssetIngested(tracks=tuple(TrackWish(label=label) for label in LABELS))
    value = AssetEvent(organization="demo", asset=name, event_id=f"e-{number}", event_time=NOW, body=body)
    return RawRecord(topics.ASSETS.name, 0, offset, NOW, 1, asset_key("demo", name), encode(value), ())


def decider(kind: type[Decider] = Decider) -> Decider:
    """The processors' own."""
    return kind(Keyring(MemoryKms()), framing.decode_event, partitions=1, generation=0)


def timed(work: Callable[[], Report], assets: int) -> tuple[Report, int]:
    """What it found, and assets/s; the best of three."""
    best, report = 0.0, Report()
    for _ in range(3):
        gc.collect()
        began = time.process_time()
        report = work()
        best = max(best, assets / (time.process_time() - began))
    return report, round(best)


def measure(assets: int) -> dict[str, int]:
    """Verify a topic that holds all, and decide one that holds nothing."""
    assert partition_for(b"demo/asset-0", 1) == 0
    events = [event(number, number) for number in range(assets)]
    topic: list[tuple[bytes, bytes]] = []

    def fill() -> Report:
        report = Report()
        topic.clear()
        compare(
            events, Held(0), decider(), 0, report, lacking=lambda key, value: topic.append((key, value)), all_due=True
        )
        return report

    def verify() -> Report:
        report, held = Report(), Held(0)
        for record_key, value in topic:
            held.add(record_key, value, report)
        compare(events, held, decider(Verifier), 0, report)
        return report

    filled, rebuilt = timed(fill, assets)
    found, verified = timed(verify, assets)
    assert (filled.missing, found.identical, found.clean()) == (2 * assets, 2 * assets, True)
    return {"assets": assets, "verify_assets_per_s": verified, "rebuild_assets_per_s": rebuilt}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=int, default=20_000)
    print(json.dumps(measure(parser.parse_args().assets)))


if __name__ == "__main__":
    main()
