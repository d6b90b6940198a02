"""
A table in the ingest system's own database as a source of asset events: the transactional outbox.

The ingest system inserts a row in its own transaction; it is relayed, and marked when the broker has it. A row that
is refused is marked with its reason, and the rest goes on. docs/outbox.md has the table and its promises.

Order per asset, with any number of relays:

    1. lock the first rows that wait, by id; on PostgreSQL passing over what another relay has locked
    2. look which rows up to there wait and are not ours: another relay has them under way
    3. of each asset take rows up to the first that is not ours, and no more than a repeat can be told from
    4. publish, mark, commit: only then are the locks gone

SQLite has no row locks, and its write lock would stop the ingest system: there one relay works, others stand by for
the lock on a file beside the database.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    Text,
    Uuid,
    and_,
    bindparam,
    cast,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy.types import NullType

from connectors.contract import Batch, Item, Name
from connectors.outbox_oldest import OldestRow, WaitingRow
from connectors.outbox_rows import OutboxRow, record_of
from connectors.outbox_table import outbox_table
from connectors.standby import Standby
from keymill import sql, telemetry
from keymill.errors import Misconfigured, Reject
from schemas.values import MAX_RECENT

PER_ASSET: Final = MAX_RECENT // 2
"""Rows of one asset in a batch: what a killed relay sent is still among the ids that the asset's record remembers."""
ZOMBIE_S: Final = 60
"""A relay that is frozen for so long loses its transaction; longer than a delivery may take (35 s)."""
MAX_MESSAGE: Final = 500

log = telemetry.logger("connectors.sql_outbox")


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a row was refused."""

    id: Name
    code: str
    field: str
    message: str


class SqlOutbox:
    """
    A `Source`. Raises `Misconfigured` when the table or a column is missing, `Unavailable` without its database.

    `oldest` says for how long a row has waited.

    Args:
        partitions: of the asset topic.
        batch: rows of one transaction, at most.
    """

    def __init__(self, url: URL, table: str, *, partitions: int, batch: int) -> None:
        self._url = url
        self._partitions = partitions
        self._limit = batch
        if (file := sql.file_of(url)) and not file.is_file():  # SQLite would make one
            raise Misconfigured(f"there is no table {table}, nor its database {file}: docs/outbox.md has it")
        self._engine = sql.open_engine(url, write=False, ours=False)
        self._table = outbox_table(MetaData(), table)
        self._connection: Connection | None = None
        self.oldest = OldestRow()
        self._refused: list[Refused] = []
        self._places: dict[Name, int] = {}
        with sql.failures(url):
            _check_table(inspect(self._engine), self._table, self._engine.dialect.name)
        self._standby = Standby(file, table)

    def read(self) -> Batch | None:
        """See `Source`; the rows stay locked until `acknowledge` or `release`."""
        self.release()
        if not self._standby.active():
            return None
        with sql.failures(self._url):
            rows = self._lock_rows()
        if not rows:
            self.release()
            return None
        items = []
        for row in rows:
            try:
                record = record_of(row, self._partitions)
            except Reject as error:
                self._note(row.id, error)
            else:
                items.append(Item(row.id, record))
                self._places[row.id] = record.partition or 0
        return Batch(items=tuple(items), upto=tuple(row.id for row in rows))

    def refuse(self, item: Item, error: Reject) -> None:
        """See `Source`."""
        self._note(item.name, error)

    def acknowledge(self, batch: Batch, offsets: Mapping[Name, int]) -> None:
        """See `Source`: one transaction marks what is relayed and what is refused, and gives the locks back."""
        connection = self._held()
        with sql.failures(self._url):
            self._mark(connection, offsets)
            connection.commit()
        self.oldest.done((*offsets, *(refused.id for refused in self._refused)))
        telemetry.RELAYED.labels("sql-outbox", "relayed").inc(len(offsets))
        telemetry.RELAYED.labels("sql-outbox", "refused").inc(len(self._refused))
        for refused in self._refused[:10]:
            log.warning("row refused", row=refused.id, code=refused.code, field=refused.field)
        log.info("rows relayed", rows=len(offsets), refused=len(self._refused))
        self.release()

    def release(self) -> None:
        """See `Source`."""
        connection, self._connection = self._connection, None
        self._refused, self._places = [], {}
        if connection is not None:
            sql.let_go(connection)

    def close(self) -> None:
        """See `Source`."""
        self.release()
        self._engine.dispose()
        self._standby.close()

    def _note(self, row: Name, error: Reject) -> None:
        self._refused.append(Refused(row, error.code, _storable(error.field), _storable(str(error))))

    def _held(self) -> Connection:
        if self._connection is None:
            raise RuntimeError("read first")
        return self._connection

    def _lock_rows(self) -> list[OutboxRow]:
        self._connection = connection = self._engine.connect()
        if connection.dialect.name == sql.POSTGRESQL:
            connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{ZOMBIE_S}s'"))
        rows = [_row(*each) for each in connection.execute(self._waiting()).all()]
        if len({type(row.id) for row in rows}) > 1:
            raise Misconfigured(f"the ids of {self._table.fullname} are of several types, so they have no order")
        if not rows:
            self.oldest.took_none(lambda: self._first(connection))
            return []
        waiting: list[Any] = []
        if connection.dialect.name != sql.SQLITE:
            columns = self._table.c
            names = [cast(columns[name], Text) for name in ("organization", "asset_id", "created")]
            query = select(columns.id, *names).where(self._pending(), columns.id <= rows[-1].id)
            query = query.order_by(columns.id)
            waiting = list(connection.execute(query).all())
        self.oldest.saw(WaitingRow(row.id, _text(row.created)) for row in waiting or rows)
        taken = in_order(rows, ((_text(org), _text(asset), number) for number, org, asset, _ in waiting))
        if connection.dialect.name == sql.SQLITE:
            connection.rollback()  # the ingest system writes on while the rows are under way
        return taken

    def _first(self, connection: Connection) -> list[WaitingRow]:
        """Read without a lock, and so whoever holds it."""
        columns = self._table.c
        query = select(columns.id, cast(columns.created, Text)).where(self._pending()).order_by(columns.id).limit(1)
        return [WaitingRow(number, _text(created)) for number, created in connection.execute(query)]

    def _waiting(self) -> Select[Any]:
        columns = self._table.c
        texts = [cast(columns[name], Text) for name in ("organization", "asset_id", "event", "body", "created")]
        query = select(columns.id, *texts).where(self._pending()).order_by(columns.id).limit(self._limit)
        return query.with_for_update(skip_locked=True)  # SQLite has no such clause and leaves it out

    def _pending(self) -> ColumnElement[bool]:
        return and_(self._table.c.relayed.is_(None), self._table.c.error_code.is_(None))

    def _mark(self, connection: Connection, offsets: Mapping[Name, int]) -> None:
        columns = self._table.c
        one = self._table.update().where(columns.id == bindparam("row"))
        if offsets:
            marked = one.values(relayed=func.now(), partition=bindparam("p"), log_offset=bindparam("o"))
            rows = [{"row": row, "p": self._places[row], "o": offset} for row, offset in offsets.items()]
            connection.execute(marked, rows)
        if self._refused:
            marked = one.values(error_code=bindparam("c"), error_field=bindparam("f"), error_message=bindparam("m"))
            refusals = [{"row": r.id, "c": r.code, "f": r.field, "m": r.message} for r in self._refused]
            connection.execute(marked, refusals)


def in_order(rows: Iterable[OutboxRow], waiting: Iterable[tuple[str, str, Name]]) -> list[OutboxRow]:
    """
    Of our *rows*, ascending, those that may be sent: per asset up to the first that waits and is not ours.

    Args:
        waiting: (organization, asset, id) of every row that waits, ours among them, in the database's order.
    """
    rows = list(rows)
    ours = {row.id for row in rows}
    held: set[tuple[str, str]] = set()
    late: set[Name] = set()
    for organization, asset, number in waiting:
        if number not in ours:
            held.add((organization, asset))
        elif (organization, asset) in held:
            late.add(number)
    taken: list[OutboxRow] = []
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        name = (row.organization, row.asset_id)
        if row.id not in late and counts[name] < PER_ASSET:
            counts[name] += 1
            taken.append(row)
    return taken


def _row(number: Name, *columns: object) -> OutboxRow:
    organization, asset, event, body, created = map(_text, columns)
    return OutboxRow(id=number, organization=organization, asset_id=asset, event=event, body=body, created=created)


def _text(value: object) -> str:
    """A column as text, whatever the driver makes of it; null is empty."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "replace")
    return "" if value is None else str(value)


def _storable(text: str) -> str:
    """What may name a member of the row's body, cut, and without the character that PostgreSQL's text cannot hold."""
    return text[:MAX_MESSAGE].replace(sql.NUL, "\ufffd")


def _check_table(inspector: Any, table: Table, dialect: str) -> None:
    if not inspector.has_table(table.name, schema=table.schema):
        raise Misconfigured(f"there is no table {table.fullname} in the outbox's database: docs/outbox.md has it")
    held = {column["name"]: column["type"] for column in inspector.get_columns(table.name, schema=table.schema)}
    if missing := [column.name for column in table.columns if column.name not in held]:
        raise Misconfigured(f"the table {table.fullname} has no column {missing[0]}: docs/outbox.md has the table")
    if isinstance(held["id"], Integer):
        return
    if dialect == sql.SQLITE:
        table.c.id.type = NullType()  # whatever stands there, as it stands there
    elif isinstance(held["id"], String | Uuid):
        table.c.id.type = held["id"]
    else:
        raise Misconfigured(
            f"the column id of {table.fullname} is {held['id']}: rows are sent by ascending id, so it must be a whole "
            "number, a UUID or text whose order is that of the rows"
        )
