"""The processor's health port: it answers from the first moment on, and says what the program waits for."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from types import SimpleNamespace

import msgspec
import pytest
from prometheus_client import REGISTRY

from keymill.config import ProcessorSettings, load
from keymill.http.server import listen, url_of
from keymill.snapshot.follower import Follower
from keymill.snapshot.reader import SnapshotReader
from keymill.snapshot.state import Heartbeat, HeartbeatFile, boot_id
from keymill.snapshot.writer import SnapshotWriter
from streams import health
from streams.app import App
from streams.health import Health
from streams.main import VIEW, _tend
from streams.runs import Ledger, RawRecord, Run
from tests.fakes import TRUSTING
from tests.view_records import Log

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(url: str) -> tuple[int, str]:
    """Status and detail of an answer."""
    try:
        with DIRECT.open(url, timeout=5) as answer:
            return answer.status, json.load(answer)["status"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["detail"]


@pytest.fixture
def served() -> Iterator[tuple[Health, str]]:
    settings = load(ProcessorSettings, environ={})
    with listen("127.0.0.1", 0) as bound, Health(settings, bound) as port:
        yield port, url_of(bound, settings)


def test_it_answers_before_anything_else_runs(served):
    """Alive from the start; not ready, with the reason, until nothing is waited for."""
    port, url = served
    assert ask(f"{url}/healthz") == (200, "ok")
    assert ask(f"{url}/readyz") == (503, "the program is starting")
    port.waits_for = "the view is catching up, 7 records behind"
    assert ask(f"{url}/readyz") == (503, "the view is catching up, 7 records behind")
    port.waits_for = None
    assert ask(f"{url}/readyz") == (200, "ready")


def test_a_program_that_stops_is_not_ready(served):
    """From the signal on, whatever else is well."""
    port, url = served
    port.waits_for = None
    port.stopping()
    assert ask(f"{url}/readyz") == (503, "the program is stopping")
    assert ask(f"{url}/healthz") == (200, "ok")


def test_a_view_that_is_old_is_told(served, tmp_path):
    """The brokers are silent: the processor stays ready, and says within seconds what it hears nothing of."""
    port, url = served
    port.waits_for = None
    writer = SnapshotWriter(tmp_path / "view", TRUSTING, map_size=1 << 24).open()
    writer.bind(Log().checkpoints())
    beats = HeartbeatFile(writer.folder, write=True)
    reader = SnapshotReader(writer.folder)
    ledger = Ledger()
    stamp = ledger.assign(("t", 0), generation=1, position=0)
    old = RawRecord("t", 0, 0, time.time_ns() // 1_000_000 - 7_000, 1, b"k", b"v", ())
    ledger.deliver(Run("t", 0, stamp.generation, stamp.epoch, 0, 1, (old,), 2))
    own = SimpleNamespace(fence=SimpleNamespace(ledger=ledger))
    app = SimpleNamespace(should_stop=False, behind=lambda: 0, waiting_s=lambda now_ms: App.waiting_s(own, now_ms))

    async def tended() -> None:
        tending = asyncio.create_task(_tend(app, set(), reader, follower, port))
        while not port.view_trouble and not tending.done():
            await asyncio.sleep(0.01)
        app.should_stop = True
        await tending

    follower = Follower(writer.folder, VIEW, {}, key_file=tmp_path / "keys.json")
    beat = Heartbeat(environment=writer.manifest.environment, boot=boot_id(), ready=True, live=True)
    contact = {"contact_boot_s": time.monotonic() - 7, "contact_s": time.time() - 7}
    beats.write(msgspec.structs.replace(beat, **contact))
    reader.open(wait_s=0)
    try:
        asyncio.run(asyncio.wait_for(tended(), 10))
        with DIRECT.open(f"{url}/readyz", timeout=5) as answer:
            told = json.load(answer)
    finally:
        reader.close()
        writer.close()
        beats.close()
    assert told["status"] == "ready" and "s old" in told["degraded"]
    assert 7 <= (REGISTRY.get_sample_value("keymill_consumer_waiting_seconds") or 0) < 60


def test_an_event_loop_that_hangs_is_not_ready(served, monkeypatch):
    """It was heard of once, and then not for too long; before its first beat the start says what is missing."""
    port, url = served
    port.waits_for = None
    port.beat()
    assert ask(f"{url}/readyz") == (200, "ready")
    monkeypatch.setattr(health, "SILENT_S", -1.0)
    assert ask(f"{url}/readyz")[1].startswith("the event loop has not been heard of")
