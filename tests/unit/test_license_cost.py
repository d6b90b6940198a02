"""What a license reads: the key records that it may hold, whatever number of crypto periods and versions there are."""

import asyncio
import base64
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keymill.core.licensable import MAX_LICENSED_KEYS, NEWEST_PERIODS, NamedPeriod, licensable, period_key
from keymill.core.provisioning import needed
from keymill.gateway import key_reads
from keymill.snapshot.reader import SnapshotReader
from keymill.snapshot.reads import Reads
from schemas.ids import asset_key
from schemas.records import AssetRecord, KeyRecord
from schemas.values import DrmSystem
from tests import builders
from tests.proxy_rig import ProxyRig, key_records

FEW, MANY, SECONDS = 100, 6_000, 60


class CountingReads(Reads):
    """Counts the records that are read."""

    count = 0

    def _get(self, topic: str, record_key: bytes) -> bytes | None:
        type(self).count += 1
        return super()._get(topic, record_key)

    def _range(self, database: bytes, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        for found in super()._range(database, prefix, after):
            type(self).count += 1
            yield found


class CountingReader(SnapshotReader):
    """A reader whose reads are counted."""

    def at_once(self) -> Reads:
        view = super().at_once()
        return CountingReads(view._txn, view._handles)


def channel(periods: int, *labels: str, start: int | None = None) -> AssetRecord:
    """A live asset named after its number of periods."""
    events = [
        builders.ingest(*labels, asset=f"channel-{periods}", periods=(first, min(1000, periods - first)),
                        period_s=SECONDS, start=start)
        for first in range(0, periods, 1000)
    ]  # fmt: skip
    return builders.folded(*events)


def publish(rig: ProxyRig, asset: AssetRecord) -> None:
    """Everything that the processor publishes for an asset, in one batch."""
    batch = []
    for record_key, made, clear in key_records(rig.keyring, asset):
        rig.clear |= clear
        for track in made.tracks:
            rig.kids[asset.asset, track.label, made.key_version, str(made.period.index if made.period else -1)] = (
                track.kid
            )
        batch.append(rig.log.put((record_key, made)))
    batch.append(rig.log.put((asset_key(asset.organization, asset.asset), asset)))
    rig.writer.apply(batch, rig.log.slots)


def on_air_since(periods: int) -> int:
    """When a channel began of whose periods the last but one is on air now."""
    return time.time_ns() // 1_000_000 - (periods - 2) * SECONDS * 1000


@pytest.fixture(scope="module", params=[False, True], ids=["without a clock", "with a clock"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyRig]:
    """A proxy with two channels, one of them old, and a count of what is read."""
    made = ProxyRig(tmp_path_factory.mktemp("cost"))
    for periods in (FEW, MANY):
        publish(made, channel(periods, "SD", "HD", start=on_air_since(periods) if request.param else None))
    made.put_license_server(DrmSystem.WIDEVINE)
    made.put_service("demo", "1.0")
    reader = CountingReader(made.life.means.reader.folder).open()
    made.life._means = dataclasses.replace(made.life.means, reader=reader)
    yield made
    reader.close()
    made.close()


def widevine(rig: ProxyRig, periods: int) -> Any:
    """A challenge that only the license server can read."""
    token = rig.token(f"channel-{periods}")
    path = f"/widevine/demo/channel-{periods}"
    return rig.request("POST", path, params={"token": token}, content=b"c" * 64)


def firstlight(rig: ProxyRig, periods: int) -> Any:
    """Any KID of the asset."""
    kid = rig.kid(f"channel-{periods}", "HD", 1, periods - 2)
    token = rig.token(f"channel-{periods}")
    query = {"service": "demo", "version": "1.0", "kid": kid.hex(), "ptoken": token}
    body = json.dumps({"kids": [base64.urlsafe_b64encode(kid).decode().rstrip("=")]})
    return rig.request("POST", "/getlicense", params=query, content=body.encode())


def clearkey(rig: ProxyRig, periods: int) -> Any:
    """A CDM's request for two KIDs."""
    name = f"channel-{periods}"
    return rig.clearkey(name, *(rig.kid(name, "HD", 1, index) for index in (periods - 2, periods - 1)))


def sent_key(rig: ProxyRig, periods: int) -> Any:
    """A server-side request that brings a key under its track type alone."""
    name = f"channel-{periods}"
    cek = rig.clear[rig.kid(name, "HD", 1, periods - 1)]
    specs = [{"track_type": "HD", "key": base64.b64encode(cek).decode()}, {"track_type": "SD"}]
    body = {"payload": base64.b64encode(b"c" * 64).decode(), "content_key_specs": specs}
    headers = {"content-type": "application/json"}
    params = {"token": rig.token(name, server_side=True)}
    return rig.request("POST", f"/widevine/demo/{name}", params=params, content=json.dumps(body), headers=headers)


def reads(rig: ProxyRig, ask: Callable[[ProxyRig, int], Any], periods: int) -> int:
    """How many records a license takes."""
    rig.beat()
    CountingReads.count = 0
    response = ask(rig, periods)
    assert response.status_code == 200, response.text
    return CountingReads.count


@pytest.mark.parametrize("ask", [widevine, firstlight, clearkey, sent_key])
def test_a_license_reads_as_much_of_an_old_channel_as_of_a_new_one(rig: ProxyRig, ask: Any) -> None:
    """100 periods or 6,000: the same number of records is read, whichever way is asked."""
    few, many = reads(rig, ask, FEW), reads(rig, ask, MANY)
    assert few == many
    assert many < 3 * NEWEST_PERIODS


def test_a_channel_without_a_clock_gives_its_newest_periods(tmp_path: Path) -> None:
    """A challenge that names none gets the two newest blocks; beside a KID it gets that period and the next."""
    rig = ProxyRig(tmp_path)
    try:
        publish(rig, channel(155, "SD", "HD"))
        server = rig.put_license_server(DrmSystem.WIDEVINE)
        widevine(rig, 155)
        newest = {rig.kid("channel-155", label, 1, n) for label in ("SD", "HD") for n in range(135, 155)}
        assert newest == {key.kid for key in server.asked[0].keys}
        rig.put_service("demo", "1.0")
        kid = rig.kid("channel-155", "HD", 1, 7)
        query = {"service": "demo", "version": "1.0", "kid": kid.hex(), "ptoken": rig.token("channel-155")}
        body = json.dumps({"kids": [base64.urlsafe_b64encode(kid).decode().rstrip("=")]})
        named = {rig.kid("channel-155", label, 1, n) for label in ("SD", "HD") for n in (7, 8)}
        assert named == set(rig.keys_of(rig.request("POST", "/getlicense", params=query, content=body.encode())))
    finally:
        rig.close()


def test_a_license_stays_within_its_bound(tmp_path: Path) -> None:
    """Versions, tracks and periods without number: the newest version's keys come first, and at most so many."""
    rig = ProxyRig(tmp_path)
    try:
        labels = ("SD", "HD", "UHD1", "UHD2", "AUDIO")
        asset = rig.ingest("film", *labels, schemes=("cbcs", "cenc"))
        for version in range(2, 20):
            asset = rig.take(builders.event(builders.rotate(version).body, asset="film"), asset)
        server = rig.put_license_server(DrmSystem.WIDEVINE)
        rig.request("POST", "/widevine/demo/film", params={"token": rig.token("film")}, content=b"c" * 64)
        keys = server.asked[0].keys
        assert MAX_LICENSED_KEYS == len({key.kid for key in keys})
        assert list(range(19, 19 - 13, -1)) == list(dict.fromkeys(key.key_version for key in keys))
    finally:
        rig.close()


@pytest.mark.parametrize("start", [None, builders.NOW])
def test_what_a_license_may_hold_is_what_the_asset_calls_for(start: int | None) -> None:
    """Every record key is one that provisioning publishes; no label that is not wanted."""
    asset = builders.folded(
        builders.ingest("SD", "HD", "AUDIO"), builders.ingest("SD", periods=(5, 90), period_s=10, start=start),
        builders.ingest("UHD1"), builders.rotate(2), builders.ingest("SD", key_version=2, periods=(3, 4), start=start),
    )  # fmt: skip
    published = {each.record_key: each for each in needed(asset, None)}
    for label in ("SD", "HD", "UHD1", "AUDIO", "UHD2"):
        found = list(licensable(asset, labels=(label,), now_ms=builders.NOW + 60_000))
        assert len(found) == len(set(found))
        assert all(any(track.label == label for track in published[key].tracks) for key in found)
        static = {key for key, each in published.items() if each.period is None}
        assert {key for key in static if any(t.label == label for t in published[key].tracks)} <= set(found)


def test_a_named_period_is_looked_for_in_its_version_alone() -> None:
    """With the next one; another version's periods are not of the request."""
    asset = builders.folded(builders.ingest("SD", periods=(0, 50), start=None), builders.rotate(2))
    first, second = asset.versions
    named = {NamedPeriod(1, 3), NamedPeriod(1, 49)}
    found = list(licensable(asset, labels=("SD",), now_ms=0, named=named))
    assert [period_key(asset, first, index) for index in (3, 4, 49)] == found
    unnamed = list(licensable(asset, labels=("SD",), now_ms=0))
    assert period_key(asset, second, 49) == unnamed[0]


def test_the_newest_periods_are_those_after_the_last_jump() -> None:
    """A counter that began anew plays on: its periods are licensed, not the highest ones; a named one in any span."""
    jumped = [builders.ingest("SD", periods=(first, 30), start=None) for first in (9000, 0)]
    asset = builders.folded(*jumped)
    (version,) = asset.versions
    unnamed = list(licensable(asset, labels=("SD",), now_ms=0))
    assert [period_key(asset, version, index) for index in range(29, 9, -1)] == unnamed
    named = list(licensable(asset, labels=("SD",), now_ms=0, named={NamedPeriod(1, 9029), NamedPeriod(1, 29)}))
    assert [period_key(asset, version, index) for index in (29, 9029)] == named


def test_all_of_an_asset_is_read_in_pages(tmp_path: Path) -> None:
    """Every key record once, and whoever else waits for the loop has a turn after each page."""
    rig = ProxyRig(tmp_path)
    try:
        asset = channel(3 * key_reads.PAGE + 1, "SD", "HD")
        publish(rig, asset)
        turns, found = asyncio.run(_read_beside(rig.life.means.reader, asset))
        assert {each.record_key for each in needed(asset, None)} == set(found)
        assert turns >= 3
        exact = channel(2 * key_reads.PAGE, "SD")
        publish(rig, exact)
        assert 2 * key_reads.PAGE == len(asyncio.run(_read_beside(rig.life.means.reader, exact))[1])
    finally:
        rig.close()


async def _read_beside(reader: SnapshotReader, asset: AssetRecord) -> tuple[int, list[bytes]]:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count())
    records: list[KeyRecord] = []
    async for page in key_reads.pages(reader, asset.organization, asset.asset):
        assert len(page) <= key_reads.PAGE
        records += page
    other.cancel()
    version = asset.versions[0]
    return turns, [period_key(asset, version, record.period.index) for record in records if record.period]
