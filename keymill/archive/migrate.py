"""The archive's schema, brought to where this release wants it; two starters wait for each other."""

from importlib.resources import files
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text

from keymill import sql
from keymill.errors import Misconfigured

LOCK: Final = 0x6B6D_6172
"""PostgreSQL's advisory lock of everything that writes an archive."""
LOCK_S: Final = 30
"""As long as SQLite waits (`sql.BUSY_S`)."""
FROZEN_S: Final = 60


def upgrade(connection: Connection) -> None:
    """
    Run what migrations are missing, in the transaction that *connection* is in.

    Raises:
        Misconfigured: a later release has written this database.
    """
    lock(connection)
    config = _config()
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    held = MigrationContext.configure(connection).get_current_revision()
    if held == scripts.get_current_head():
        return
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise Misconfigured(f"the archive's schema is of revision {held}, which this release lacks: {error}") from None


def lock(connection: Connection) -> None:
    """
    Keep other writers out until the transaction ends; SQLite's has the write lock already.

    Neither waits without end: a writer that is frozen with the lock loses it, and who waits for too long is told.
    """
    if connection.dialect.name == sql.POSTGRESQL:
        connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{FROZEN_S}s'"))
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_S}s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("keymill.archive").joinpath("migrations")))
    return config
