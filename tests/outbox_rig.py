"""An outbox as docs/outbox.md defines it, and a log that takes what a relay sends."""

import re
import threading
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import URL, Engine, create_engine, text

from keymill.kafka.outgoing import Outgoing
from schemas.codec import decode
from schemas.events import AssetEvent

PAGE = (Path(__file__).parents[1] / "docs" / "outbox.md").read_text()
EXAMPLES = dict(re.findall(r"^```(sql \w+|python)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))


def make_outbox(url: URL) -> Engine:
    """The documented table in an empty database."""
    engine = create_engine(url)
    run_script(engine, EXAMPLES[f"sql {url.get_backend_name()}"])
    return engine


def run_script(engine: Engine, script: str) -> None:
    """Statements, as a person pastes them."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in filter(None, (part.strip() for part in script.split(";"))):
            connection.exec_driver_sql(statement)


def insert(engine: Engine, *rows: tuple[str, str, str], organization: str = "demo") -> None:
    """Rows of (asset, event, body) in one transaction."""
    statement = text("INSERT INTO keymill_outbox (organization, asset_id, event, body) VALUES (:o, :a, :e, :b)")
    with engine.begin() as connection:
        connection.execute(statement, [{"o": organization, "a": a, "e": e, "b": b} for a, e, b in rows])


def rows_of(engine: Engine) -> list[dict[str, object]]:
    """Every row, by id."""
    with engine.connect() as connection:
        return [dict(row._mapping) for row in connection.execute(text("SELECT * FROM keymill_outbox ORDER BY id"))]


class SharedLog:
    """A log that several relays write to, as a `Publisher`; `fail` failures come first."""

    def __init__(self) -> None:
        self.records: list[Outgoing] = []
        self._lock = threading.Lock()

    def send_batch(self, records: Sequence[Outgoing]) -> "_Sent":
        """Append them, one after the other."""
        with self._lock:
            start = len(self.records)
            self.records += records
        return _Sent(list(range(start, start + len(records))))

    def flush_all(self, _deliveries: Sequence["_Sent"]) -> None:
        """They are there."""

    def events(self) -> list[AssetEvent]:
        """What was said, in order."""
        return [decode(record.value or b"", AssetEvent) for record in self.records]


class _Sent:
    def __init__(self, offsets: list[int]) -> None:
        self._offsets = offsets

    def result(self) -> list[int]:
        return self._offsets
