"""
SQL databases as the connectors use them: PostgreSQL and SQLite, with one meaning of transactions and of failures.

SQLite is opened with a write-ahead log, so that readers and the one writer do not wait for each other; its transactions
begin when they begin, not at the first write. No URL, statement or parameter stands in a message: the first may hold
a password, the last wrapped keys.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from keymill.errors import Misconfigured, Unavailable

BUSY_S: Final = 30.0
"""How long SQLite waits for another writer's transaction."""
BUSY_LOOK_S: Final = 0.01
CONNECT_S: Final = 5
NUL: Final = "\0"
"""PostgreSQL's text cannot hold it; a name that somebody gave may."""
SQLITE: Final = "sqlite"
POSTGRESQL: Final = "postgresql"
_PRAGMAS: Final = (
    "PRAGMA synchronous=NORMAL",  # what a power cut takes back, it takes back with its positions
    "PRAGMA cache_size=-65536",  # KiB: the upper pages of the indices stay in memory
    "PRAGMA temp_store=MEMORY",
)
_SESSION: Final = (
    "SET TIME ZONE 'UTC'",
    "SET datestyle = 'ISO'",  # what is made of a time's text is the same for ever
    "SET tcp_keepalives_idle = 10",  # a machine that vanished gives its locks back within half a minute
    "SET tcp_keepalives_interval = 5",
    "SET tcp_keepalives_count = 3",
)


def parse_url(text: str, setting: str) -> URL:
    """The SQLAlchemy URL in a setting; raises `Misconfigured`, which does not repeat it."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        shape = "postgresql://USER:PASSWORD@HOST/DATABASE or sqlite:///PATH"
        raise Misconfigured(f"setting {setting} is no SQLAlchemy URL: {shape}") from None
    return url.set(drivername="postgresql+psycopg") if url.drivername == POSTGRESQL else url


def name_of(url: URL) -> str:
    """How messages name a database: never with its password."""
    return url.set(query={}).render_as_string(hide_password=True)


def open_engine(url: URL, *, write: bool = True, ours: bool = True) -> Engine:
    """
    An engine for *url*; nothing is connected yet.

    Args:
        write: transactions on SQLite take the write lock as they begin, so that none fails in its middle.
        ours: a SQLite file is set to keep a write-ahead log; another's is left as it is.

    Raises:
        Misconfigured: there is no such dialect or driver here.
    """
    sqlite = url.get_backend_name() == SQLITE
    options: dict[str, Any] = {"connect_args": {"timeout": BUSY_S}} if sqlite else {}
    if url.get_backend_name() == POSTGRESQL:
        options = {"connect_args": {"connect_timeout": CONNECT_S}, "isolation_level": "READ COMMITTED"}
    try:
        engine = create_engine(url, hide_parameters=True, **options)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise Misconfigured(f"the database driver for {name_of(url)} is not installed: {error}") from None
    if sqlite:
        event.listen(engine, "connect", _open_our_sqlite if ours else _open_sqlite)
        event.listen(engine, "begin", _begin_immediate if write else _begin)
    elif url.get_backend_name() == POSTGRESQL:
        event.listen(engine, "connect", _open_postgresql)
    return engine


@contextmanager
def failures(url: URL) -> Iterator[None]:
    """
    What the database raises inside the block, as ours.

    Raises:
        Unavailable: it does not answer, is locked, or broke off a transaction; the same may succeed later.
        Misconfigured: a table, column or right is not what it must be.
    """
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        raise Unavailable(f"the database {name_of(url)}: {_reason(error)}") from None
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Unavailable(f"the database {name_of(url)}: {_reason(error)}") from None
        raise Misconfigured(f"the database {name_of(url)}: {_reason(error)}") from None


def let_go(connection: Connection) -> None:
    """End what a connection is at, nothing of it done; never raises, since one that broke has ended already."""
    with suppress(DBAPIError):
        connection.close()


def file_of(url: URL) -> Path | None:
    """The file of a SQLite database; None for one in memory, or of another kind."""
    if url.get_backend_name() != SQLITE or not url.database or url.database == ":memory:":
        return None
    return Path(url.database.removeprefix("file:"))


def _reason(error: Exception) -> str:
    """What the driver says, on one line; of what PostgreSQL says not the detail, which repeats the row."""
    told = getattr(error, "orig", None) or error
    primary = getattr(getattr(told, "diag", None), "message_primary", None)
    return " ".join(str(primary or told).split())


def _open_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where `_begin` says
    connection.text_factory = lambda text: text.decode("utf-8", "replace")  # one bad row must not hide all others


def _open_our_sqlite(connection: Any, _record: object) -> None:
    _open_sqlite(connection, _record)
    _keep_write_ahead_log(connection)
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _keep_write_ahead_log(connection: Any) -> None:
    """SQLite does not wait when two starters change the journal of a new file: the second one is told it is locked."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(BUSY_LOOK_S)


def _open_postgresql(connection: Any, _record: object) -> None:
    before, connection.autocommit = connection.autocommit, True
    for statement in _SESSION:
        connection.execute(statement)
    connection.autocommit = before


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")
