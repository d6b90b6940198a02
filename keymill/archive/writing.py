"""The archive as it is written: rows and positions in one transaction, so that neither is ever without the other."""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Table, select
from sqlalchemy.dialects import postgresql, sqlite

from keymill import sql
from keymill.archive import migrate
from keymill.archive.rows import Row, rows_of
from keymill.archive.tables import POSITIONS
from keymill.durable import open_own, own_folder
from keymill.errors import Misconfigured
from keymill.kafka.positions import Checkpoint, Described, Slot, Whole
from schemas.records import TopicAdopted

FILE: Final = "archive.sqlite"
_INSERTS: Final[dict[str, Any]] = {sql.SQLITE: sqlite.insert, sql.POSTGRESQL: postgresql.insert}


def archive_url(text: str, data: Path) -> URL:
    """The archive that a setting names; when it is empty, the SQLite file in the data folder."""
    return sql.parse_url(text, "archive_url") if text else URL.create("sqlite", database=str(data / FILE))


def _make_file(url: URL) -> None:
    """For its owner alone, as the views' are; SQLite gives its other files the same mode."""
    file = sql.file_of(url)
    if file is None:
        raise Misconfigured("archive_url names a database in memory, which keeps nothing: sqlite:///PATH")
    own_folder(file.parent)
    os.close(open_own(file.resolve(), os.O_RDWR | os.O_CREAT))  # where it lies is the setting's choice


class ArchiveWriter:
    """
    An archive of the topics that were adopted so; its schema is brought up to date as it opens.

    Writing is idempotent by (topic, generation, partition, offset), and positions never go back, so two writers, a
    repeated batch and a kill at any moment leave the same tables.

    Raises:
        Misconfigured: another database than SQLite or PostgreSQL, or an archive of another cluster's topics.
        Unavailable: the database does not answer.
    """

    def __init__(self, url: URL, adopted: Mapping[str, TopicAdopted]) -> None:
        if url.get_backend_name() not in _INSERTS:
            raise Misconfigured(f"the archive is SQLite or PostgreSQL, not {url.get_backend_name()}")
        if url.get_backend_name() == sql.SQLITE:
            _make_file(url)
        self._url = url
        self._generations = {name: each.generation for name, each in adopted.items()}
        self._adopted = dict(adopted)
        self._engine = sql.open_engine(url)
        self._insert = _INSERTS[url.get_backend_name()]
        with sql.failures(url), self._engine.begin() as connection:
            migrate.upgrade(connection)

    def checkpoints(self) -> dict[str, Checkpoint]:
        """How far each topic is archived in its generation; one that is not archived yet is left out."""
        with sql.failures(self._url), self._engine.connect() as connection:
            rows = connection.execute(select(POSITIONS)).all()
        found: dict[str, dict[int, Slot]] = {}
        for row in rows:
            if self._generations.get(row.topic) != row.generation:
                continue
            if row.topic_id != self._adopted[row.topic].topic_id:
                raise Misconfigured(
                    f"{sql.name_of(self._url)} is the archive of another {row.topic} of generation {row.generation} "
                    f"(id {row.topic_id}): name another database in archive_url, or adopt the topic under a new "
                    "generation with `keymill topics adopt --generation`"
                )
            found.setdefault(row.topic, {})[row.partition] = Slot(row.next_offset, row.leader_epoch)
        return {name: Checkpoint(topic=self._described(name), slots=slots) for name, slots in found.items()}

    def begin(self, places: Mapping[str, Checkpoint]) -> None:
        """
        Note where reading begins.

        Raises:
            Misconfigured: a topic that is read is not the adopted one.
        """
        for name, place in places.items():
            if place.topic.topic_id != self._adopted[name].topic_id:
                raise Misconfigured(f"{name} was created anew since it was adopted: see `keymill topics adopt`")
        self.write((), {name: place.slots for name, place in places.items()})

    def write(self, records: Sequence[Whole], slots: Mapping[str, Mapping[int, Slot]]) -> dict[str, int]:
        """Keep the records, and that everything before *slots* is kept; returns how many rows, by table."""
        rows = self._rows(records)
        with sql.failures(self._url), self._engine.begin() as connection:
            migrate.lock(connection)
            for table, each in rows.items():
                connection.execute(self._insert(table).on_conflict_do_nothing(), each)
            self._move(connection, slots)
        return {table.name: len(each) for table, each in rows.items()}

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def _rows(self, records: Iterable[Whole]) -> dict[Table, list[Row]]:
        rows: dict[Table, list[Row]] = {}
        for record in records:
            for table, row in rows_of(record, self._generations[record.topic]):
                rows.setdefault(table, []).append(row)
        return rows

    def _move(self, connection: Connection, slots: Mapping[str, Mapping[int, Slot]]) -> None:
        now = time.time_ns() // 1_000_000
        rows = [
            {
                "topic": name,
                "generation": self._generations[name],
                "partition": partition,
                "topic_id": self._adopted[name].topic_id,
                "next_offset": slot.offset,
                "leader_epoch": slot.epoch,
                "moved": now,
            }
            for name, parts in slots.items()
            for partition, slot in parts.items()
        ]
        statement = self._insert(POSITIONS)
        new = statement.excluded
        statement = statement.on_conflict_do_update(
            index_elements=list(POSITIONS.primary_key),
            set_={"next_offset": new.next_offset, "leader_epoch": new.leader_epoch, "moved": new.moved},
            where=new.next_offset > POSITIONS.c.next_offset,
        )
        if rows:
            connection.execute(statement, rows)

    def _described(self, name: str) -> Described:
        return Described(topic_id=self._adopted[name].topic_id, partitions=self._adopted[name].partitions)
