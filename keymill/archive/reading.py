"""
The archive as a second source: what rebuilds and audits read when a topic is gone.

    with closing(ArchiveReader(url)) as archive:
        for record_key, value in archive.newest_records("drm.keys.v1"):
            …

A record is given as it stood on its topic, byte for byte, with its headers.
"""

import heapq
from collections.abc import Iterator
from typing import Final

import msgspec
from sqlalchemy import URL, Column, ColumnElement, Connection, Row, Select, Table, func, inspect, select

from keymill import sql
from keymill.archive.rows import headers_of_text
from keymill.archive.tables import ARCHIVED, ASSET_RECORDS, KEY_RECORDS, PLACE, POLICIES, POSITIONS, TABLES_OF
from keymill.errors import Misconfigured
from schemas.ids import partition_key

READ_AT_ONCE: Final = 2_000
_TOO_LONG: Final = 19
"""Digits that no 64-bit policy id has."""


class ArchivedRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A record as it stood on its topic; `timestamp` is the broker's, epoch ms."""

    topic: str
    generation: int
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class ArchivedTopic(msgspec.Struct, frozen=True, kw_only=True):
    """How far one generation of a topic is archived: everything below each partition's next offset."""

    topic: str
    generation: int
    topic_id: str
    positions: dict[int, int]
    moved: int


def is_archive(url: URL) -> bool:
    """Whether there is one; no database is made. Raises `Unavailable` when it does not answer."""
    file = sql.file_of(url)
    if file is not None and not file.is_file():
        return False
    engine = sql.open_engine(url, write=False, ours=False)
    try:
        with sql.failures(url):
            return inspect(engine).has_table(POSITIONS.name)
    finally:
        engine.dispose()


class ArchiveReader:
    """
    Reads an archive, also while it is written; each iterator sees one state of it.

    Raises `Misconfigured` when there is no archive, `Unavailable` when the database does not answer.
    """

    def __init__(self, url: URL) -> None:
        if not is_archive(url):
            name = sql.file_of(url) or sql.name_of(url)
            raise Misconfigured(f"there is no archive {name}: `keymill connect sql-archive` writes one")
        self._url = url
        self._engine = sql.open_engine(url, write=False)

    def topics(self) -> list[ArchivedTopic]:
        """Every topic that is archived, generation by generation; for lag, compare with the topics' ends."""
        with sql.failures(self._url), self._engine.connect() as connection:
            rows = connection.execute(select(POSITIONS).order_by(*POSITIONS.primary_key)).all()
        found: dict[tuple[str, int], list[Row[tuple[object, ...]]]] = {}
        for row in rows:
            found.setdefault((row.topic, row.generation), []).append(row)
        return [
            ArchivedTopic(
                topic=topic,
                generation=generation,
                topic_id=each[0].topic_id,
                positions={row.partition: row.next_offset for row in each},
                moved=max(row.moved for row in each),
            )
            for (topic, generation), each in found.items()
        ]

    def newest_records(
        self,
        topic: str,
        partition: int | None = None,
        *,
        generation: int | None = None,
        record_key: bytes | None = None,
    ) -> Iterator[tuple[bytes, bytes]]:
        """
        Of every record key, or one, the record that a view would hold, over all generations or of one; in no order.

        An asset or policy record with the highest `applied`, a key record of the highest KEK epoch; then the last one.
        Records without key or value, and those that no released schema reads, are left out.
        """
        for table in _tables_of(topic):
            place = [table.c[name] for name in PLACE]
            rank = func.row_number().over(
                partition_by=table.c.record_key, order_by=[column.desc() for column in _precedence(table)]
            )
            wanted = [*_where(table, topic, partition, generation), table.c.problem.is_(None)]
            wanted += [table.c.record_key.is_not(None), table.c.value.is_not(None)]
            wanted += [] if record_key is None else _named(table, record_key)
            newest = select(*place, rank.label("rank")).where(*wanted).subquery()
            same = [newest.c[name] == table.c[name] for name in PLACE]
            query = select(table.c.record_key, table.c.value).join(newest, _all(same)).where(newest.c.rank == 1)
            with sql.failures(self._url), self._engine.connect() as connection:
                for row in _stream(connection, query):
                    yield row.record_key, row.value

    def log(
        self, topic: str, partition: int, *, generation: int | None = None, start: int = 0
    ) -> Iterator[ArchivedRecord]:
        """Every record of a partition by generation, then offset; *start* is the first offset of each generation."""
        with sql.failures(self._url), self._engine.connect() as connection:
            parts = []
            for table in _tables_of(topic):
                wanted = [*_where(table, topic, partition, generation), table.c.record_offset >= start]
                order = (table.c.generation, table.c.record_offset)
                parts.append(_stream(connection, select(table).where(*wanted).order_by(*order)))
            for row in heapq.merge(*parts, key=lambda row: (row.generation, row.record_offset)):
                yield ArchivedRecord(
                    topic=topic,
                    generation=row.generation,
                    partition=row.partition,
                    offset=row.record_offset,
                    timestamp=row.record_time,
                    key=row.record_key,
                    value=row.value,
                    headers=headers_of_text(row.headers),
                )

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()


def _tables_of(topic: str) -> tuple[Table, ...]:
    if topic not in TABLES_OF:
        raise Misconfigured(f"{topic} is not archived: one of {', '.join(ARCHIVED)}")
    return TABLES_OF[topic]


def _where(table: Table, topic: str, partition: int | None, generation: int | None) -> list[ColumnElement[bool]]:
    wanted = [table.c.topic == topic]
    if partition is not None:
        wanted.append(table.c.partition == partition)
    if generation is not None:
        wanted.append(table.c.generation == generation)
    return wanted


def _named(table: Table, record_key: bytes) -> list[ColumnElement[bool]]:
    """One record key of asset, key or policy records, found by the index over what it names."""
    organization, _, name = partition_key(record_key).decode("utf-8", "replace").partition("/")
    name_of = table.c.policy_id if table is POLICIES else table.c.asset
    named = int(name) if table is POLICIES and name.isdecimal() and len(name) < _TOO_LONG else name
    return [table.c.organization == organization, name_of == named, table.c.record_key == record_key]


def _precedence(table: Table) -> list[Column[int]]:
    last = [table.c.generation, table.c.record_offset]
    if table in (ASSET_RECORDS, POLICIES):
        return [table.c.applied_generation, table.c.applied_offset, *last]
    return [table.c.kek_epoch, *last] if table is KEY_RECORDS else last


def _all(conditions: list[ColumnElement[bool]]) -> ColumnElement[bool]:
    first, *others = conditions
    for each in others:
        first = first & each
    return first


def _stream(connection: Connection, query: Select[tuple[object, ...]]) -> Iterator[Row[tuple[object, ...]]]:
    return iter(connection.execution_options(yield_per=READ_AT_ONCE).execute(query))
