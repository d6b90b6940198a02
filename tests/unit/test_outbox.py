"""The SQL outbox on SQLite and a real PostgreSQL: each row once, in order per asset, refusals beside."""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL, Engine, text
from sqlalchemy.event import listen, remove

from connectors.outbox_rows import OutboxRow, event_id_of, record_of
from connectors.runner import relay
from connectors.sql_outbox import PER_ASSET, SqlOutbox, in_order
from keymill.errors import InvalidRecord, Misconfigured, Reject, Unavailable
from keymill.sql import parse_url
from schemas.codec import decode
from schemas.events import AssetEvent, AssetIngested, AssetRestored, AssetRevoked, KeysRotated, PolicyAssigned
from schemas.partition import partition_for
from tests.outbox_rig import EXAMPLES, SharedLog, insert, make_outbox, rows_of, run_script
from tests.postgres import fresh_database, running_postgres

PARTITIONS = 12
TERMINATE = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid != pg_backend_pid()"""

MANY_RELAYED = """INSERT INTO keymill_outbox (organization, asset_id, relayed)
SELECT 'demo', 'film-' || n, now() FROM generate_series(1, 20000) n; ANALYZE keymill_outbox"""


@pytest.fixture(scope="module")
def server() -> Iterator[URL]:
    """A PostgreSQL."""
    with running_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[URL]:
    """An empty database of either kind."""
    if request.param == "sqlite":
        yield parse_url(f"sqlite:///{tmp_path}/cms.sqlite", "outbox_url")
        return
    with fresh_database(request.getfixturevalue("server")) as fresh:
        yield fresh


@pytest.fixture
def outbox(url: URL) -> Iterator[Engine]:
    """The documented table in it."""
    engine = make_outbox(url)
    yield engine
    engine.dispose()


def source_of(url: URL, batch: int = 1000) -> SqlOutbox:
    """A relay's source."""
    return SqlOutbox(url, "keymill_outbox", partitions=PARTITIONS, batch=batch)


def relay_all(url: URL, log: SharedLog, *, batch: int = 1000) -> None:
    """What `keymill connect sql-outbox --once` does."""
    with closing(source_of(url, batch)) as source:
        relay(source, log, stop=threading.Event(), poll_s=0.01, once=True)  # type: ignore[arg-type]


def test_rows_become_events_and_are_marked(url: URL, outbox: Engine) -> None:
    """Every kind of event; the row says where in the log it stands."""
    insert(
        outbox,
        ("film-1", "ingest", '{"tracks": ["SD"], "policy_id": 3}'),
        ("film-1", "rotate", '{"to_version": 2}'),
        ("film-1", "policy", '{"policy_id": 4}'),
        ("film-1", "revoke", '{"reason": "expired"}'),
        ("film-1", "restore", ""),
        ("film-1", "native", '{"type": "AssetIngested", "schemes": ["cenc"]}'),
    )
    log = SharedLog()
    relay_all(url, log)
    kinds = [AssetIngested, KeysRotated, PolicyAssigned, AssetRevoked, AssetRestored, AssetIngested]
    assert [type(event.body) for event in log.events()] == kinds
    partition = partition_for(b"demo/film-1", PARTITIONS)
    assert [(r["log_offset"], r["partition"], r["error_code"]) for r in rows_of(outbox)] == [
        (n, partition, None) for n in range(6)
    ]
    assert all(row["relayed"] for row in rows_of(outbox))


def test_refused_rows_say_why_and_hold_nobody_up(url: URL, outbox: Engine) -> None:
    """Code, field and message stand in the row; corrected and cleared, it is sent."""
    bad = [
        ("film-1", "explode", "{}", "event"), ("film-1", "rotate", "{}", "to_version"),
        ("fi lm", "ingest", "{}", "asset_id"),
        ("film-1", "ingest", "nonsense", "body"), ("film-1", "ingest", '{"trakcs": []}', "trakcs"),
        ("film-1", "ingest", '{"asset_id": "film-2"}', "asset_id"), ("film-1", "ingest", "[" * 5000, "body"),
        ("film-1", "ingest", '{"product_id": "\\ud800"}', "body"), ("film-1", "policy", "{}", "policy_id"),
        ("film-1", "native", '{"type": "Nothing"}', "type"), ("film-1", "native", "[", "body"),
        ("film-1", "ingest", '{"policy_id": 123456789012345678901234567890}', "policy_id"),
        ("film-1", "ingest", '{"event_time": "2999-01-01T00:00:00Z"}', "event_time"),
        ("film-1", "ingest", '{"\\u0000": 1}', "\ufffd"),
        ("film-1", "ingest", '{"product_id": "' + "x" * 1_000_000 + '"}', "body"),
    ]  # fmt: skip
    insert(outbox, ("film-1", "ingest", "{}"), *[row[:3] for row in bad], ("film-2", "ingest", "{}"))
    log = SharedLog()
    relay_all(url, log)
    assert [event.asset for event in log.events()] == ["film-1", "film-2"]
    refused = rows_of(outbox)[1:-1]
    assert [(row["error_field"], bool(row["error_code"]), row["relayed"]) for row in refused] == [
        (row[3], True, None) for row in bad
    ]
    assert all(row["error_message"] for row in refused)
    with outbox.begin() as connection:
        connection.execute(text("UPDATE keymill_outbox SET event = 'ingest', error_code = NULL WHERE id = 2"))
    relay_all(url, log)
    assert len(log.records) == 3


def test_what_the_broker_refuses_is_marked_too(url: URL, outbox: Engine) -> None:
    """Refused by the source's own `refuse`, in the batch's transaction."""
    insert(outbox, ("film-1", "ingest", "{}"), ("film-2", "ingest", "{}"))
    with closing(source_of(url)) as source:
        batch = source.read()
        assert batch is not None
        source.refuse(batch.items[0], Reject("too large", field="value", code="too_large"))
        source.acknowledge(batch, {batch.items[1].name: 7})
    first, second = rows_of(outbox)
    assert (first["error_code"], first["relayed"], second["log_offset"]) == ("too_large", None, 7)


def test_unacknowledged_rows_come_again_the_same(url: URL, outbox: Engine) -> None:
    """After a release or a crash the same rows have the same event ids and hashes: a second sending has no effect."""
    insert(outbox, *[(f"film-{n % 3}", "ingest", "{}") for n in range(9)])

    def said(source: SqlOutbox) -> list[tuple[object, ...]]:
        batch = source.read()
        assert batch is not None
        events = [decode(item.record.value or b"", AssetEvent) for item in batch.items]
        return [(event.asset, event.event_id, event.request_hash) for event in events]

    with closing(source_of(url)) as one:
        first = said(one)
        one.release()
        assert said(one) == first
    with closing(source_of(url)) as two:
        assert said(two) == first
    assert len(set(first)) == 9


def test_batch_holds_no_more_rows_of_an_asset_than_its_record_remembers(url: URL, outbox: Engine) -> None:
    """A repeat of the batch then meets every one of its event ids, also with rows before it that came late."""
    insert(outbox, *[("film-1", "ingest", "{}")] * 40, ("film-2", "ingest", "{}"))
    with closing(source_of(url)) as source:
        batch = source.read()
        assert batch is not None
        assert [item.record.record_key for item in batch.items] == [b"demo/film-1"] * PER_ASSET + [b"demo/film-2"]
    log = SharedLog()
    relay_all(url, log, batch=7)
    assert [event.event_id for event in log.events() if event.asset == "film-1"] == [
        event_id_of(_as_row(row)) for row in rows_of(outbox)[:40]
    ]


def _as_row(row: dict[str, object]) -> OutboxRow:
    created = row["created"]
    shown = created if isinstance(created, str) else f"{created:%Y-%m-%d %H:%M:%S.%f}".rstrip("0") + "+00"
    return OutboxRow(
        id=int(str(row["id"])), organization=str(row["organization"]), asset_id=str(row["asset_id"]),
        event=str(row["event"]), body=str(row["body"]), created=shown,
    )  # fmt: skip


NUMBERS = st.integers(1, 30)


@given(
    waiting=st.dictionaries(NUMBERS, st.sampled_from("abc"), max_size=20),
    foreign=st.sets(NUMBERS),
    limit=st.integers(1, 20),
)
def test_rows_behind_another_relay_s_wait(waiting: dict[int, str], foreign: set[int], limit: int) -> None:
    """Whatever another relay has under way: what is taken of an asset is a beginning of what waits, and not that."""
    ours = sorted(set(waiting) - foreign)[:limit]
    rows = [OutboxRow(id=n, organization="o", asset_id=waiting[n], event="", body="", created="") for n in ours]
    end = ours[-1] if ours else 0
    taken = in_order(rows, [("o", asset, n) for n, asset in sorted(waiting.items()) if n <= end])
    for asset in "abc":
        all_waiting = sorted(n for n, name in waiting.items() if name == asset)
        of_asset = [row.id for row in taken if row.asset_id == asset]
        assert of_asset == all_waiting[: len(of_asset)]
    assert not {row.id for row in taken} & foreign
    if not foreign:
        assert [row.id for row in taken] == ours


def test_two_relays_keep_each_asset_s_order(url: URL, outbox: Engine) -> None:
    """Relays side by side, while rows are written: every row once, per asset in the order of its rows."""
    log, stop = SharedLog(), threading.Event()

    def work() -> None:
        with closing(source_of(url, batch=20)) as source:
            relay(source, log, stop=stop, poll_s=0.001)  # type: ignore[arg-type]

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for n in range(60):
        insert(outbox, *[(f"film-{m % 7}", "policy", json.dumps({"policy_id": 10 * n + m})) for m in range(10)])
    deadline = time.monotonic() + 30
    while len(log.records) < 600 and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    for worker in workers:
        worker.join()
    by_asset: dict[str, list[int]] = {}
    for event in log.events():
        by_asset.setdefault(event.asset, []).append(event.body.policy_id)
    assert sum(map(len, by_asset.values())) == 600
    assert all(ids == sorted(ids) for ids in by_asset.values())


def age_in(outbox: Engine, seconds: int, row: int = 1) -> None:
    """Make a row older."""
    sqlite = outbox.dialect.name == "sqlite"
    then = f"datetime('now', '-{seconds} seconds')" if sqlite else f"now() - interval '{seconds} seconds'"
    run_script(outbox, f"UPDATE keymill_outbox SET created = {then} WHERE id = {row}")


def test_age_of_the_oldest_row_is_told(url: URL, outbox: Engine) -> None:
    """As long as it is neither relayed nor refused, also while its batch cannot be published; then 0."""
    with closing(source_of(url, batch=1)) as source:
        assert source.read() is None  # it has looked and will not so soon again
        insert(outbox, ("film-1", "explode", "{}"), ("film-2", "ingest", "{}"))
        age_in(outbox, 300, row=1)
        age_in(outbox, 100, row=2)
        seen = []
        for offsets in ({}, {2: 0}):
            assert source.read() is not None
            source.release()
            batch = source.read()
            assert batch is not None
            seen.append(source.oldest.age_s())
            source.acknowledge(batch, offsets)
        assert source.read() is None
        assert [300, 100] == [pytest.approx(each, abs=5) for each in seen]
        assert 0 == source.oldest.age_s()


def test_age_counts_what_others_have_under_way(server: URL) -> None:
    """A relay tells of a row that another one has locked, beside rows of its own and without any."""
    with fresh_database(server) as url:
        outbox = make_outbox(url)
        insert(outbox, ("film-1", "ingest", "{}"))
        age_in(outbox, 200)
        with closing(source_of(url)) as one, closing(source_of(url)) as two, closing(source_of(url)) as three:
            first = one.read()
            insert(outbox, ("film-2", "ingest", "{}"))
            second = two.read()
            assert first is not None and second is not None and three.read() is None
            assert [200] * 3 == [pytest.approx(each.oldest.age_s(), abs=5) for each in (one, two, three)]
            one.acknowledge(first, {1: 0})
            assert one.read() is None
            assert 0 <= one.oldest.age_s() < 5
            two.acknowledge(second, {2: 0})
            assert two.read() is None
            assert 0 == two.oldest.age_s()
        outbox.dispose()


def test_looking_for_the_oldest_row_costs_one_step_in_an_index(server: URL) -> None:
    """Of a large table whose one waiting row is locked, a relay that polls looks once a second, and reads no more."""
    with fresh_database(server) as url:
        outbox, looks = make_outbox(url), []
        run_script(outbox, MANY_RELAYED)
        insert(outbox, ("film-1", "ingest", "{}"))

        def note(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
            if statement.startswith("SELECT") and "FOR UPDATE" not in statement:
                looks.append(statement)

        with outbox.begin() as other, closing(source_of(url)) as source:
            other.execute(text("SELECT id FROM keymill_outbox WHERE relayed IS NULL FOR UPDATE"))
            listen(Engine, "before_cursor_execute", note)
            try:
                assert [None] * 50 == [source.read() for _ in range(50)]
            finally:
                remove(Engine, "before_cursor_execute", note)
        assert 1 == len(looks)
        with outbox.connect() as connection:
            asked = looks[0].replace("%(param_1)s::INTEGER", "1")
            plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {asked}").scalars())
        assert "Index Scan using keymill_outbox_waiting" in plan and "Sort" not in plan, plan
        outbox.dispose()


def test_row_that_another_relay_has_under_way_holds_its_asset_only(server: URL) -> None:
    """A row that is locked elsewhere: what follows of its asset waits, all else is sent, nothing blocks."""
    with fresh_database(server) as url:
        outbox = make_outbox(url)
        insert(outbox, ("film-1", "ingest", "{}"), ("film-2", "ingest", "{}"), ("film-1", "ingest", "{}"))
        with outbox.begin() as other:
            other.execute(text("SELECT id FROM keymill_outbox WHERE id = 1 FOR UPDATE"))
            log = SharedLog()
            with closing(source_of(url)) as source:
                batch = source.read()
                assert batch is not None and [item.name for item in batch.items] == [2]
        relay_all(url, log)
        assert [event.asset for event in log.events()] == ["film-1", "film-2", "film-1"]
        outbox.dispose()


def test_a_row_says_the_same_however_the_database_shows_times(server: URL) -> None:
    """Its id is made of its time as text: another zone or date style must not make another event of it."""
    with fresh_database(server) as url:
        outbox, said = make_outbox(url), set()
        insert(outbox, ("film-1", "ingest", "{}"))
        for setting in ("timezone = 'UTC'", "timezone = 'Asia/Kolkata'", "datestyle = 'German'"):
            run_script(outbox, f'ALTER DATABASE "{url.database}" SET {setting}')
            with closing(source_of(url)) as source:
                batch = source.read()
                assert batch is not None
                said.add(decode(batch.items[0].record.value or b"", AssetEvent).event_id)
        assert 1 == len(said)
        outbox.dispose()


def test_what_the_database_refuses_is_told_without_the_row(server: URL) -> None:
    """PostgreSQL repeats a row that breaks a constraint of the ingest system's, body and all."""
    with fresh_database(server) as url:
        outbox = make_outbox(url)
        run_script(outbox, "ALTER TABLE keymill_outbox ADD CONSTRAINT unmarked CHECK (log_offset IS NULL)")
        insert(outbox, ("film-1", "ingest", '{"product_id": "confidential"}'))
        with pytest.raises(Misconfigured, match="unmarked") as told:
            relay_all(url, SharedLog())
        assert "confidential" not in str(told.value)
        outbox.dispose()


def test_database_that_restarts_costs_a_repeat(server: URL) -> None:
    """A connection that ends while its rows are under way: the relay says so, and reads the same rows again."""
    with fresh_database(server) as url:
        outbox = make_outbox(url)
        insert(outbox, ("film-1", "ingest", "{}"))
        with closing(source_of(url)) as source:
            batch = source.read()
            assert batch is not None
            run_script(outbox, TERMINATE)
            with pytest.raises(Unavailable):
                source.acknowledge(batch, {batch.items[0].name: 0})
            source.release()
            again = source.read()
            assert again is not None and again.upto == batch.upto
            run_script(outbox, TERMINATE)
            source.release()
        relay_all(url, log := SharedLog())
        assert len(log.records) == 1
        outbox.dispose()


def test_row_that_becomes_visible_late_is_sent(server: URL) -> None:
    """A transaction that took its id first and commits last loses nothing; its asset's later rows went ahead."""
    with fresh_database(server) as url:
        outbox, log = make_outbox(url), SharedLog()
        with outbox.connect() as slow:
            slow.execute(text("INSERT INTO keymill_outbox (organization, asset_id) VALUES ('demo', 'film-1')"))
            insert(outbox, ("film-2", "ingest", "{}"))
            relay_all(url, log)
            slow.commit()
        relay_all(url, log)
        assert [event.asset for event in log.events()] == ["film-2", "film-1"]
        outbox.dispose()


def test_on_sqlite_the_second_relay_stands_by(tmp_path: Path) -> None:
    """By whatever name of the file; it takes over when the first has ended, and the ingest system can write."""
    url = parse_url(f"sqlite:///{tmp_path}/cms.sqlite", "outbox_url")
    outbox = make_outbox(url)
    insert(outbox, ("film-1", "ingest", "{}"))
    (tmp_path / "link.sqlite").symlink_to("cms.sqlite")
    by_link = parse_url(f"sqlite:///{tmp_path}/link.sqlite", "outbox_url")
    with closing(source_of(url)) as first, closing(source_of(by_link)) as second:
        assert first.read() is not None
        assert second.read() is None
        insert(outbox, ("film-2", "ingest", "{}"))
        first.close()
        assert (batch := second.read()) is not None and len(batch.items) == 2
    outbox.dispose()


def test_missing_table_or_column_is_named(url: URL, tmp_path: Path) -> None:
    """Before anything is read or made; a database that is away is no mistake of the settings."""
    with pytest.raises(Misconfigured, match="no table keymill_outbox"):
        source_of(url)
    assert [] == list(tmp_path.iterdir())
    engine = make_outbox(url)
    run_script(engine, "ALTER TABLE keymill_outbox DROP COLUMN error_field")
    engine.dispose()
    with pytest.raises(Misconfigured, match="no column error_field"):
        source_of(url)
    with pytest.raises(Unavailable):
        source_of(parse_url("postgresql://u:p@127.0.0.1:1/x", "outbox_url"))


@pytest.mark.parametrize("kind", ["uuid", "text", "varchar(26)"])
def test_ids_may_be_anything_that_has_an_order(url: URL, kind: str) -> None:
    """Rows are sent in the order of their ids, marked each, and never again."""
    if (kind, url.get_backend_name()) == ("varchar(26)", "sqlite"):
        kind = "blob"
    engine = make_outbox(url)
    script = EXAMPLES[f"sql {url.get_backend_name()}"]
    run_script(engine, "DROP TABLE keymill_outbox")
    run_script(engine, re.sub(r"\bid +[a-zA-Z ]+PRIMARY KEY[A-Z ]*", f"id {kind} PRIMARY KEY", script, count=1))
    ids = [f"018f{number:04x}-0000-7000-8000-000000000000" for number in (3, 1, 2)]
    ids = ids if kind in ("uuid", "text") else [each[:26] for each in ids]
    for each in ids:
        with engine.begin() as connection:
            statement = "INSERT INTO keymill_outbox (id, organization, asset_id, body) VALUES (:i, 'demo', :a, '{}')"
            name = each.encode() if kind == "blob" else each
            connection.execute(text(statement), {"i": name, "a": f"film-{each[7]}"})
    log = SharedLog()
    relay_all(url, log, batch=2)
    relay_all(url, log, batch=2)
    assert ["film-1", "film-2", "film-3"] == [event.asset for event in log.events()]
    rows = rows_of(engine)
    assert [0, 1, 2] == [row["log_offset"] for row in rows] and all(row["relayed"] for row in rows)
    engine.dispose()


def test_ids_without_an_order_are_refused_at_the_start(server: URL) -> None:
    """One line that names the column, its type and what it must be."""
    with fresh_database(server) as url:
        engine = make_outbox(url)
        run_script(engine, "ALTER TABLE keymill_outbox DROP COLUMN id; ALTER TABLE keymill_outbox ADD COLUMN id jsonb")
        engine.dispose()
        with pytest.raises(Misconfigured, match="the column id of keymill_outbox is JSONB: rows are sent by ascending"):
            source_of(url)


def test_examples_of_the_page_run(url: URL, outbox: Engine, tmp_path: Path) -> None:
    """The documented table takes the documented inserts, in plain SQL and with SQLAlchemy, and all are relayed."""
    assert set(EXAMPLES) == {"sql postgresql", "sql sqlite", "sql insert", "python"}
    run_script(outbox, EXAMPLES["sql insert"])
    environment = {"DATABASE": url.render_as_string(hide_password=False)}
    done = subprocess.run([sys.executable, "-c", EXAMPLES["python"]], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    log = SharedLog()
    relay_all(url, log)
    assert [(event.asset, type(event.body)) for event in log.events()] == [
        ("film-20", AssetIngested), ("film-20", PolicyAssigned), ("film-21", AssetIngested),
    ]  # fmt: skip
    assert not any(row["error_code"] for row in rows_of(outbox))


def test_jsonb_and_another_schema_s_table_will_do(server: URL) -> None:
    """`body` as jsonb, and SCHEMA.TABLE."""
    with fresh_database(server) as url:
        engine = make_outbox(url)
        run_script(
            engine, "ALTER TABLE keymill_outbox ALTER body DROP DEFAULT, ALTER body TYPE jsonb USING body::jsonb"
        )
        run_script(engine, "CREATE SCHEMA cms; ALTER TABLE keymill_outbox SET SCHEMA cms")
        run_script(engine, "INSERT INTO cms.keymill_outbox (organization, asset_id, body) VALUES ('demo', 'f', '{}')")
        with closing(SqlOutbox(url, "cms.keymill_outbox", partitions=PARTITIONS, batch=10)) as source:
            batch = source.read()
            assert batch is not None and batch.items[0].record.record_key == b"demo/f"
        engine.dispose()


def test_event_ids_tell_rows_apart() -> None:
    """Another id, time or content is another event."""
    row = OutboxRow(id=1, organization="demo", asset_id="a", event="ingest", body="{}", created="now")
    others = [
        ("id", 2),
        ("organization", "other"),
        ("asset_id", "b"),
        ("event", "revoke"),
        ("body", ""),
        ("created", ""),
    ]
    fields = {name: getattr(row, name) for name in row.__struct_fields__}
    ids = {event_id_of(row), *(event_id_of(OutboxRow(**fields | {name: value})) for name, value in others)}
    assert len(ids) == 7
    with pytest.raises(InvalidRecord, match="event must be one of"):
        record_of(OutboxRow(**fields | {"event": ""}), PARTITIONS)
