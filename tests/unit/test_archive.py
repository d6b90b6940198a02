"""The SQL archive on SQLite and a real PostgreSQL: whatever comes twice, however it is cut, the tables are the same."""

import itertools
import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL, create_engine, text

from connectors.sql_archive import SqlArchive
from keymill import sql
from keymill.archive import migrate, tables
from keymill.archive.reading import ArchiveReader
from keymill.archive.writing import ArchiveWriter, archive_url
from keymill.errors import Misconfigured, Unavailable
from keymill.kafka.positions import Checkpoint, Described, Slot, Whole
from keymill.ops.rebuild_archive import _lacking
from schemas import topics
from schemas.codec import encode
from schemas.ids import asset_key, key_set_key
from tests.archive_rig import adopted, contents, key_record, logs, slots_after
from tests.builders import NOW, folded, ingest
from tests.postgres import fresh_database, running_postgres

LOGS = logs()
EVERY_RECORD = [record for each in LOGS.values() for record in each]


@pytest.fixture(scope="module")
def server() -> Iterator[URL]:
    """A PostgreSQL."""
    with running_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[URL]:
    """An empty database of either kind."""
    if request.param == "sqlite":
        yield archive_url("", tmp_path)
        return
    with fresh_database(request.getfixturevalue("server")) as fresh:
        yield fresh


def write_all(url: URL, records: list[Whole] = EVERY_RECORD, **named) -> None:
    """Archive *records* in one transaction."""
    with closing(ArchiveWriter(url, adopted(**named))) as writer:
        writer.write(records, slots_after(records))


def query(url: URL, statement: str, **given: object) -> list[dict[str, object]]:
    """Rows of a statement."""
    engine = create_engine(url)
    with engine.connect() as connection:
        rows = [dict(row._mapping) for row in connection.execute(text(statement), given)]
    engine.dispose()
    return rows


def test_every_record_is_kept_as_it_was(url: URL) -> None:
    """Poison, records without key or value, headers: each partition reads back byte for byte, in order."""
    write_all(url)
    with closing(ArchiveReader(url)) as archive:
        for (topic, partition), each in LOGS.items():
            read = list(archive.log(topic, partition))
            assert [(r.offset, r.key, r.value, r.timestamp, r.headers) for r in read] == [
                (r.offset, r.key, r.value, r.timestamp, r.headers) for r in each
            ]
            assert {(r.topic, r.partition, r.generation) for r in read} == {(topic, partition, 0)}


def test_newest_records_are_what_a_view_would_hold(url: URL) -> None:
    """A late write with a lower `applied` or KEK epoch, and what nobody can read, do not displace the right record."""
    write_all(url)
    keys = LOGS[topics.KEYS.name, 0]
    with closing(ArchiveReader(url)) as archive:
        assert dict(archive.newest_records(topics.KEYS.name, 0)) == {
            asset_key("demo", "bbb"): keys[2].value,
            key_set_key("demo", "bbb", b"d" * 16): keys[4].value,
        }
        assert [value for _, value in archive.newest_records(topics.POLICIES.name)] == [
            LOGS[topics.POLICIES.name, 1][1].value
        ]
        assert list(archive.newest_records(topics.KEYS.name, 1)) == []
        with pytest.raises(Misconfigured, match="is not archived"):
            list(archive.newest_records("drm.services.v1"))


def test_views_answer_what_people_ask(url: URL) -> None:
    """Assets with version and policy, keys by KID, changes in a time window, refusals."""
    write_all(url)
    (asset,) = query(url, "SELECT * FROM assets_current WHERE organization = 'demo' AND asset = 'bbb'")
    named = ("state", "key_version", "policy_id", "policy_name", "policy_version", "at")
    assert [asset[name] for name in named] == ["ACTIVE", 2, 1, "v2", 2, "2027-01-15T08:00:00.002Z"]
    kid = "01000100-0100-0100-0100-010001000100"
    (key,) = query(url, "SELECT * FROM keys_by_kid WHERE kid = :kid", kid=kid)
    assert [key[name] for name in ("asset", "label", "origin", "kek_epoch")] == ["bbb", "SD", "DERIVED", 2]
    window = query(url, "SELECT what FROM changes WHERE record_time BETWEEN :a AND :b", a=NOW + 3, b=NOW + 3)
    assert sorted(str(each["what"]) for each in window) == ["AssetRecord ACTIVE", "KeysRotated"]
    (refusal,) = query(url, "SELECT reason, field, message, source_offset FROM refusals")
    assert refusal == {
        "reason": "conflict", "field": "tracks", "message": "a NUL \ufffd that somebody sent", "source_offset": 7,
    }  # fmt: skip
    (poison,) = query(url, "SELECT organization, problem FROM asset_events WHERE record_offset = 2 AND partition = 0")
    assert poison["organization"] == "demo" and poison["problem"]


@st.composite
def deliveries(draw: st.DrawFn) -> list[list[Whole]]:
    """The logs, partitions interleaved anyhow, cut anyhow, and from some batch on begun again from an earlier one."""
    queues = [list(each) for each in LOGS.values()]
    ordered: list[Whole] = []
    while queues := [each for each in queues if each]:
        ordered.append(draw(st.sampled_from(queues)).pop(0))
    cuts = sorted({0, len(ordered), *draw(st.lists(st.integers(0, len(ordered)), max_size=8))})
    batches = [ordered[a:b] for a, b in itertools.pairwise(cuts)]
    again = draw(st.lists(st.integers(0, len(batches) - 1), max_size=3))
    return [*itertools.chain.from_iterable(batches[: n + 1] for n in again), *batches]


@given(delivered=deliveries())
def test_any_redelivery_gives_the_same_tables(tmp_path_factory: pytest.TempPathFactory, delivered) -> None:
    """However the logs are cut, interleaved and repeated, also by two writers in turn."""
    plain = archive_url("", tmp_path_factory.mktemp("plain"))
    write_all(plain)
    repeated = archive_url("", tmp_path_factory.mktemp("repeated"))
    with closing(ArchiveWriter(repeated, adopted())) as one, closing(ArchiveWriter(repeated, adopted())) as two:
        for batch, writer in zip(delivered, itertools.cycle((one, two)), strict=False):
            writer.write(batch, slots_after(batch))
    assert contents(repeated) == contents(plain)


def archive_for_ever(url: URL) -> None:
    """Archive one record at a time, from where it was left, again and again."""
    with closing(ArchiveWriter(url, adopted())) as writer:
        held = writer.checkpoints()
        for record in EVERY_RECORD:
            known = held[record.topic].slots.get(record.partition) if record.topic in held else None
            if known is None or record.offset >= known.offset:
                writer.write([record], slots_after([record]))
        time.sleep(60)


def test_kill_at_any_moment_loses_and_repeats_nothing(url: URL, tmp_path: Path) -> None:
    """Positions and rows move together: a writer that is killed goes on where it was, and the tables come out whole."""
    write_all(url, EVERY_RECORD[:1])
    context = multiprocessing.get_context("spawn")
    for _ in range(4):
        process = context.Process(target=archive_for_ever, args=(url,))
        process.start()
        deadline = time.monotonic() + 20
        before = contents(url)["positions"]
        while contents(url)["positions"] == before and time.monotonic() < deadline and len(before) < len(LOGS):
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        found = contents(url)
        positions = {(row[0], row[2]): row[4] for row in found["positions"]}
        for name in tables.TABLES_OF[topics.ASSETS.name]:
            assert all(row[3] < positions[row[0], row[2]] for row in found[name.name])
    write_all(url)
    plain = archive_url("", tmp_path / "plain")
    write_all(plain)
    assert contents(url) == contents(plain)


def test_a_new_generation_goes_on_in_rows_of_its_own(url: URL) -> None:
    """A topic that was created anew and adopted starts over at offset 0 beside the old rows; the newest counts."""
    write_all(url)
    key, value = LOGS[topics.KEYS.name, 0][0].key, encode(key_record(kek_epoch=3))
    rebuilt = Whole(topics.KEYS.name, 0, 0, key, value, None, NOW)
    with closing(ArchiveWriter(url, adopted(generation=1, topic_id="second"))) as writer:
        assert writer.checkpoints() == {}
        writer.write([rebuilt], slots_after([rebuilt]))
        assert writer.checkpoints()[topics.KEYS.name].slots == {0: Slot(1, 3)}
    with closing(ArchiveReader(url)) as archive:
        read = [(r.generation, r.offset) for r in archive.log(topics.KEYS.name, 0)]
        assert read == [*((0, r.offset) for r in LOGS[topics.KEYS.name, 0]), (1, 0)]
        assert dict(archive.newest_records(topics.KEYS.name))[rebuilt.key] == rebuilt.value
        assert dict(archive.newest_records(topics.KEYS.name, generation=0))[rebuilt.key] != rebuilt.value
        assert {(t.generation, t.topic_id[:6]) for t in archive.topics()} == {(0, "first-"), (1, "second")}


def test_archive_of_another_cluster_is_refused(url: URL) -> None:
    """The same generation of another topic id would mix two logs; so would a topic that changed since its adoption."""
    write_all(url)
    with (
        closing(ArchiveWriter(url, adopted(topic_id="other"))) as writer,
        pytest.raises(Misconfigured, match="another"),
    ):
        writer.checkpoints()
    with closing(ArchiveWriter(url, adopted())) as writer, pytest.raises(Misconfigured, match="created anew"):
        place = Checkpoint(topic=Described(topic_id="new", partitions=2), slots={0: Slot(0), 1: Slot(0)})
        writer.begin({topics.KEYS.name: place})


def test_positions_never_go_back(url: URL) -> None:
    """A second writer that is behind does not take them back."""
    write_all(url)
    before = contents(url)["positions"]
    write_all(url, EVERY_RECORD[:1])
    assert contents(url)["positions"] == before


def test_two_starters_migrate_once(url: URL) -> None:
    """Both find the schema whole; no one fails."""
    context = multiprocessing.get_context("spawn")
    starters = [context.Process(target=write_all, args=(url, EVERY_RECORD)) for _ in range(2)]
    for each in starters:
        each.start()
    for each in starters:
        each.join(60)
    assert [each.exitcode for each in starters] == [0, 0]
    assert len(contents(url)["asset_events"]) == 6


def test_migrations_and_definitions_agree(url: URL) -> None:
    """What the migrations make is what the code writes: no table, column or index more or less."""
    write_all(url, [])
    engine = create_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.METADATA) == []
    engine.dispose()


def test_later_release_s_schema_is_left_alone(url: URL) -> None:
    """A program that is older than the database says so and changes nothing."""
    write_all(url)
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(Misconfigured, match="9999"):
        ArchiveWriter(url, adopted())


def test_idle_archive_is_not_written_to(url: URL) -> None:
    """Positions that stand still cost nothing; positions that moved without a record (markers, holes) are kept."""
    with closing(SqlArchive(ArchiveWriter(url, adopted()))) as sink:
        place = Checkpoint(topic=Described(topic_id=f"first-{topics.KEYS.name}", partitions=2), slots={0: Slot(4)})
        sink.begin({topics.KEYS.name: place})
        before = query(url, "SELECT moved FROM positions")
        time.sleep(0.01)
        sink.write([], {topics.KEYS.name: {0: Slot(4)}})
        assert query(url, "SELECT moved FROM positions") == before
        sink.write([], {topics.KEYS.name: {0: Slot(5)}})
        assert sink.checkpoints()[topics.KEYS.name].slots == {0: Slot(5, -1)}


def test_a_writer_that_is_frozen_holds_the_others_up_for_a_while_only(
    server: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for its lock is told, and tries again; the frozen one loses its transaction."""
    monkeypatch.setattr(migrate, "LOCK_S", 0.2)
    monkeypatch.setattr(migrate, "FROZEN_S", 1)
    with fresh_database(server) as url, closing(ArchiveWriter(url, adopted())) as writer:
        engine = sql.open_engine(url)
        with engine.connect() as frozen, sql.failures(url):
            migrate.lock(frozen)
            with pytest.raises(Unavailable, match="lock timeout"):
                writer.write(EVERY_RECORD, slots_after(EVERY_RECORD))
            time.sleep(1.2)
            writer.write(EVERY_RECORD, slots_after(EVERY_RECORD))
            with pytest.raises(Unavailable), sql.failures(url):
                frozen.execute(text("SELECT 1"))
        engine.dispose()


def test_what_an_archive_lacks_is_counted_by_partition(url: URL) -> None:
    """So that a filling that was stopped does not pass for a whole one; rows of a former generation do not count."""
    name, generations = topics.KEYS.name, {topics.KEYS.name: 0}
    ends = {name: {0: 5, 1: 2, 2: 1}}
    assert 8 == _lacking(ends, url, generations)
    with closing(ArchiveWriter(url, adopted())) as writer:
        writer.write([], {name: {0: Slot(3), 1: Slot(9)}})
    assert 3 == _lacking(ends, url, generations)
    assert 8 == _lacking(ends, url, {name: 1})


def test_passwords_stay_out_of_messages(tmp_path: Path) -> None:
    """A URL that is none, a server that is away, a driver that is missing: the password is in no message."""
    with pytest.raises(Misconfigured) as wrong:
        archive_url("postgresql:/me:hidden-word@host", tmp_path)
    away = archive_url("postgresql://me:hidden-word@127.0.0.1:1/x?password=hidden-word", tmp_path)
    with pytest.raises(Unavailable) as gone:
        ArchiveWriter(away, adopted())
    with pytest.raises(Misconfigured) as missing:
        sql.open_engine(sql.parse_url("oracle://me:hidden-word@host/x", "outbox_url"))
    with pytest.raises(Misconfigured, match="no archive"):
        ArchiveReader(archive_url("", tmp_path))
    assert not any("hidden-word" in str(each.value) for each in (wrong, gone, missing))


def test_an_archive_file_is_its_owner_s_alone(tmp_path: Path) -> None:
    """With its write-ahead log; a database in memory would keep nothing."""
    with closing(ArchiveWriter(archive_url("", tmp_path / "data"), adopted())):
        made = list((tmp_path / "data").iterdir())
        assert len(made) == 3
        assert {0o600} == {each.stat().st_mode & 0o777 for each in made}
    with pytest.raises(Misconfigured, match="in memory"):
        ArchiveWriter(archive_url("sqlite://", tmp_path), adopted())


def test_ten_thousand_rows_a_second_on_sqlite(tmp_path: Path) -> None:
    """Events, key records with their tracks and asset records, in the connector's batches; half of it is the bound."""
    records = []
    for n in range(4_000):
        asset, event = f"film-{n:06d}", ingest(asset=f"film-{n:06d}")
        key = asset_key("demo", asset)
        keys = key_record(asset, fill=n % 200)
        records.append(Whole(topics.ASSETS.name, 0, n, key, encode(event), None, NOW))
        set_key = key_set_key("demo", asset, b"d" * 16)
        records.append(Whole(topics.KEYS.name, 0, 2 * n, set_key, encode(keys), None, NOW))
        records.append(Whole(topics.KEYS.name, 0, 2 * n + 1, key, encode(folded(event)), None, NOW))
    with closing(ArchiveWriter(archive_url("", tmp_path), adopted())) as writer:
        begun, rows = time.process_time(), 0
        for start in range(0, len(records), 5_000):
            batch = records[start : start + 5_000]
            rows += sum(writer.write(batch, slots_after(batch)).values())
        seconds = time.process_time() - begun
    print(f"archive on SQLite: {rows} rows of {len(records)} records, {rows / seconds:.0f} rows/s of CPU time")
    assert rows == 20_000
    assert rows / seconds > 10_000
