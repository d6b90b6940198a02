"""The SQL connectors as programs, against a real broker and a real PostgreSQL: killed, doubled, measured."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import httpx
import pytest
from confluent_kafka.admin import AdminClient
from sqlalchemy import URL, Engine, create_engine, text

from keymill.archive.reading import ArchivedRecord, ArchiveReader
from keymill.core.folding import fold
from keymill.kafka.admin import adopt, create_topics, end_offsets, plan_adoption, require_topics
from keymill.kafka.ports import free_ports
from keymill.kafka.producer import Outgoing, Publisher
from keymill.kafka.scan import headers_of, scan_partition
from keymill.sql import parse_url
from schemas import topics
from schemas.codec import decode, encode
from schemas.events import AssetEvent
from schemas.ids import asset_key
from schemas.records import AssetRecord
from tests.archive_rig import logs
from tests.authentic import installation
from tests.broker import running_broker
from tests.builders import at, folded, ingest
from tests.gateway_rig import eventually
from tests.outbox_rig import insert, make_outbox, rows_of
from tests.postgres import fresh_database, running_postgres

PARTITIONS = 4
WAIT_S = 60
OTHERS = (topics.DEAD_LETTERS.name, topics.POLICIES.name, topics.CLAIMS.name)


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker with every topic."""
    installation(tmp_path_factory.mktemp("keys"), "demo")
    with running_broker() as address:
        create_topics(address, PARTITIONS)
        yield address


@pytest.fixture(scope="module")
def server() -> Iterator[URL]:
    """A PostgreSQL."""
    with running_postgres() as url:
        yield url


@pytest.fixture
def database(server: URL) -> Iterator[URL]:
    """An empty database in it."""
    with fresh_database(server) as url:
        yield url


def connector(name: str, bootstrap: str, folder: Path, *options: str, **settings: object) -> "subprocess.Popen[str]":
    """Start `keymill connect NAME`; its log goes to a file of the folder."""
    given = {f"KEYMILL_{key.upper()}": str(value) for key, value in settings.items()}
    command = [sys.executable, "-m", "keymill.ops.cli", "connect", name, "--bootstrap", bootstrap, *options]
    command += ["--data", str(folder)]
    with open(folder / f"{name}.log", "a") as log:
        return subprocess.Popen(command, env={**os.environ, **given}, stderr=log, text=True)


def once(name: str, bootstrap: str, folder: Path, **settings: object) -> float:
    """Run it until there is nothing more; how long that took."""
    begun = time.monotonic()
    code = connector(name, bootstrap, folder, "--once", **settings).wait(120)
    assert code == 0, (folder / f"{name}.log").read_text()
    return time.monotonic() - begun


def shown(url: URL) -> str:
    """With its password, for a setting."""
    return url.render_as_string(hide_password=False)


def publisher_of(bootstrap: str) -> Publisher:
    """A publisher of every topic."""
    return Publisher(
        bootstrap, {name: each.partitions for name, each in require_topics(bootstrap, topics.BY_NAME).items()}
    )


def assets_of(count: int, start: int = 0) -> list[Outgoing]:
    """Asset events and records."""
    found = []
    for n in range(start, start + count):
        event = ingest(asset=f"film-{n}", event_id=f"e-{n}")
        key = asset_key("demo", event.asset)
        found.append(
            Outgoing(topic=topics.ASSETS.name, record_key=key, value=encode(event), headers=(("x-request-id", b"r"),))
        )
        found.append(Outgoing(topic=topics.KEYS.name, record_key=key, value=encode(folded(event))))
    return found


def whole_log(bootstrap: str, topic: str) -> list[tuple[object, ...]]:
    """A topic as the broker gives it: partition, offset, key, value, time, headers."""
    return [
        (partition, m.offset(), m.key(), m.value(), m.timestamp()[1], headers_of(m))
        for partition, end in sorted(end_offsets(bootstrap, topic).items())
        for m in scan_partition(bootstrap, topic, partition, end=end)
    ]


def archived(url: URL, topic: str, generation: int = 0) -> list[tuple[object, ...]]:
    """The same of the archive."""

    def plain(r: ArchivedRecord) -> tuple[object, ...]:
        return (r.partition, r.offset, r.key, r.value, r.timestamp, r.headers)

    with closing(ArchiveReader(url)) as archive:
        return [plain(r) for p in range(PARTITIONS) for r in archive.log(topic, p, generation=generation)]


def test_archive_is_the_logs_whatever_kills_it(bootstrap: str, database: URL, tmp_path: Path) -> None:
    """Killed again and again while the topics grow, then run to the end: every record once, byte for byte."""
    setting = {"archive_url": shown(database), "archive_batch": 50}
    with closing(publisher_of(bootstrap)) as publisher:
        for topic, partition in (
            (topics.DEAD_LETTERS.name, 0),
            (topics.POLICIES.name, None),
            (topics.CLAIMS.name, None),
        ):
            some = next(each for (name, _), each in logs().items() if name == topic)
            key, value = some[0].key, some[0].value
            assert key and value
            publisher.flush_all([publisher.send(topic, key, value, partition=partition)])
        for round_ in range(4):
            process = connector("sql-archive", bootstrap, tmp_path, **setting)
            publisher.flush_all([publisher.send_batch(assets_of(500, 500 * round_))])
            time.sleep(1.5 + 0.3 * round_)
            process.kill()
            process.wait()
    once("sql-archive", bootstrap, tmp_path, **setting)
    for topic in (
        topics.ASSETS.name,
        topics.KEYS.name,
        topics.DEAD_LETTERS.name,
        topics.POLICIES.name,
        topics.CLAIMS.name,
    ):
        assert archived(database, topic) == whole_log(bootstrap, topic) != []
    engine = create_engine(database)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM assets_current")).scalar() == 2000
    engine.dispose()


def test_archive_goes_on_in_a_new_generation(bootstrap: str, tmp_path: Path) -> None:
    """A topic that is deleted, made again and adopted continues in new rows; before the adoption nothing is written."""
    url = parse_url(f"sqlite:///{tmp_path}/archive.sqlite", "archive_url")
    once("sql-archive", bootstrap, tmp_path)
    before = archived(url, topics.KEYS.name)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.delete_topics([topics.KEYS.name])[topics.KEYS.name].result(30)
    time.sleep(1)
    create_topics(bootstrap, PARTITIONS)
    assert connector("sql-archive", bootstrap, tmp_path, "--once").wait(60) == 2
    adopt(bootstrap, plan_adoption(bootstrap, [topics.KEYS.name]))
    with closing(publisher_of(bootstrap)) as publisher:
        publisher.flush_all([publisher.send_batch([r for r in assets_of(20) if r.topic == topics.KEYS.name])])
    once("sql-archive", bootstrap, tmp_path)
    assert archived(url, topics.KEYS.name) == before
    assert archived(url, topics.KEYS.name, generation=1) == whole_log(bootstrap, topics.KEYS.name) != []
    with closing(ArchiveReader(url)) as archive:
        newest = dict(archive.newest_records(topics.KEYS.name))
    assert {decode(value, AssetRecord).asset for value in newest.values()} >= {f"film-{n}" for n in range(20)}


@pytest.fixture
def outbox(database: URL) -> Iterator[Engine]:
    """The documented table."""
    engine = make_outbox(database)
    yield engine
    engine.dispose()


def events_since(bootstrap: str, starts: dict[int, int]) -> list[tuple[int, int, AssetEvent]]:
    """(offset, time, event) of the asset topic from *starts* on."""
    found = []
    for partition, end in end_offsets(bootstrap, topics.ASSETS.name).items():
        for m in scan_partition(bootstrap, topics.ASSETS.name, partition, start=starts[partition], end=end):
            found.append((m.offset() or 0, m.timestamp()[1], decode(m.value() or b"", AssetEvent)))
    return found


def waiting(engine: Engine) -> int:
    """How many rows wait."""
    with engine.connect() as connection:
        return connection.execute(text("SELECT count(*) FROM keymill_outbox WHERE relayed IS NULL")).scalar() or 0


def test_two_relays_killed_in_turn_give_each_row_one_effect(
    bootstrap: str, database: URL, outbox: Engine, tmp_path: Path
) -> None:
    """Two relays on PostgreSQL, one of them killed every moment, while rows are written: each row's event has exactly
    one effect, in the order of its asset's rows."""
    starts = end_offsets(bootstrap, topics.ASSETS.name)
    assets = [f"killed-{n}" for n in range(30)]
    insert(outbox, *[(asset, "ingest", '{"tracks": ["SD"]}') for asset in assets])
    setting = {"outbox_url": shown(database), "outbox_poll_ms": 5, "outbox_batch": 60}
    relays = [connector("sql-outbox", bootstrap, tmp_path, **setting) for _ in range(2)]
    number = started = 0
    for turn in range(6):
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            number += 1
            insert(outbox, *[(asset, "policy", json.dumps({"policy_id": number})) for asset in assets])
            time.sleep(0.02)
        relays[turn % 2].send_signal(signal.SIGKILL)
        relays[turn % 2].wait()
        started = (tmp_path / "sql-outbox.log").read_text().count("connector started")
        relays[turn % 2] = connector("sql-outbox", bootstrap, tmp_path, **setting)
    deadline = time.monotonic() + WAIT_S
    log = tmp_path / "sql-outbox.log"
    while (waiting(outbox) or log.read_text().count("connector started") == started) and time.monotonic() < deadline:
        time.sleep(0.2)
    for relay in relays:
        relay.terminate()
        assert relay.wait(30) == 0
    assert waiting(outbox) == 0
    _check_effects(events_since(bootstrap, starts), assets, number, len(rows_of(outbox)))


def _check_effects(found: list[tuple[int, int, AssetEvent]], assets: list[str], number: int, rows: int) -> None:
    held: dict[str, AssetRecord] = {}
    effects: dict[str, list[int]] = {asset: [] for asset in assets}
    for offset, _, event in found:
        before = held.get(event.asset)
        after = fold(event, at=at(offset), held=before, root_version=1).asset
        if before is None or after.recent != before.recent:
            effects[event.asset].append(getattr(event.body, "policy_id", None) or 0)
        held[event.asset] = after
    assert effects == {asset: list(range(number + 1)) for asset in assets}
    assert len({event.event_id for _, _, event in found}) == rows
    print(f"{rows} rows, {len(found) - rows} sent twice")


def told(port: int) -> tuple[float, str]:
    """The age of the oldest row in a relay's metrics, and why it is not ready; -1 until it answers."""
    try:
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        reason = httpx.get(f"http://127.0.0.1:{port}/readyz").json().get("detail", "")
    except httpx.TransportError:
        return -1, ""
    (age,) = re.findall(r"^keymill_outbox_oldest_seconds (\S+)$", metrics, re.MULTILINE)
    return float(age), reason


def test_two_relays_tell_of_a_row_that_waits(bootstrap: str, database: URL, outbox: Engine, tmp_path: Path) -> None:
    """A session that forgot its lock: both relays tell how old the row is and that they are late, until it has gone."""
    insert(outbox, ("stuck", "ingest", "{}"))
    ports = list(islice(free_ports(), 2))
    with outbox.connect() as forgotten:
        forgotten.execute(text("UPDATE keymill_outbox SET created = now() - interval '90 seconds'"))
        forgotten.commit()
        forgotten.execute(text("SELECT id FROM keymill_outbox FOR UPDATE"))
        relays = [
            connector("sql-outbox", bootstrap, tmp_path, outbox_url=shown(database), connect_port=port)
            for port in ports
        ]
        eventually(lambda: min(told(port)[0] for port in ports) > 90, WAIT_S)
        late = [told(port) for port in ports]
        assert all(age < 90 + WAIT_S for age, _ in late)
        assert all("it is late: the oldest row of the outbox has waited for" in reason for _, reason in late)
        assert waiting(outbox) == 1
    eventually(lambda: [(0, "")] * 2 == [told(port) for port in ports], WAIT_S)
    assert waiting(outbox) == 0
    for relay in relays:
        relay.terminate()
        assert relay.wait(30) == 0


def test_rows_are_in_the_log_within_200_ms(bootstrap: str, database: URL, outbox: Engine, tmp_path: Path) -> None:
    """From the ingest system's commit to the broker's time stamp, p99 of the middle one of three rounds."""
    relay = connector("sql-outbox", bootstrap, tmp_path, outbox_url=shown(database))
    insert(outbox, ("first", "ingest", "{}"))
    deadline = time.monotonic() + WAIT_S
    while waiting(outbox) and time.monotonic() < deadline:
        time.sleep(0.05)
    rounds = [_latencies(bootstrap, outbox, f"quick-{n}") for n in range(3)]
    relay.terminate()
    relay.wait(30)
    p99s = sorted(sorted(each)[int(0.99 * len(each))] for each in rounds)
    p50 = sorted(rounds[0])[len(rounds[0]) // 2]
    print(f"outbox: commit to log p50 {p50} ms, p99 {p99s} ms")
    assert p99s[1] <= 200


def _latencies(bootstrap: str, outbox: Engine, prefix: str) -> list[int]:
    starts = end_offsets(bootstrap, topics.ASSETS.name)
    committed = {}
    for n in range(100):
        insert(outbox, (f"{prefix}-{n}", "ingest", "{}"))
        committed[f"{prefix}-{n}"] = time.time_ns() // 1_000_000
        time.sleep(0.03)
    deadline = time.monotonic() + WAIT_S
    while waiting(outbox) and time.monotonic() < deadline:
        time.sleep(0.05)
    found = [(timestamp, event.asset) for _, timestamp, event in events_since(bootstrap, starts)]
    assert sorted(asset for _, asset in found) == sorted(committed)
    return [timestamp - committed[asset] for timestamp, asset in found]


def test_twenty_thousand_assets_through_the_outbox(
    bootstrap: str, database: URL, outbox: Engine, tmp_path: Path
) -> None:
    """Several thousand rows a second with `--once`, and what is refused beside them; no password in the log."""
    starts = end_offsets(bootstrap, topics.ASSETS.name)
    insert(outbox, *[(f"many-{n}", "ingest", '{"tracks": ["SD", "HD", "AUDIO"]}') for n in range(20_000)])
    insert(outbox, ("many-1", "explode", "{}"))
    secret = shown(database.set(password="hidden-word"))
    seconds = once("sql-outbox", bootstrap, tmp_path, outbox_url=secret)
    print(f"outbox on PostgreSQL: {20_000 / seconds:.0f} rows/s, start and end of the program included")
    assert len(events_since(bootstrap, starts)) == 20_000
    assert [row["error_field"] for row in rows_of(outbox) if not row["relayed"]] == ["event"]
    assert "hidden-word" not in (tmp_path / "sql-outbox.log").read_text()
    assert 20_000 / seconds > 2_000
