"""Of several relays of one SQLite database the one that works; the kernel frees its lock when it ends, however."""

import fcntl
from pathlib import Path
from typing import IO, Any

from keymill import telemetry
from keymill.durable import own_file

log = telemetry.logger("connectors.standby")


class Standby:
    """A lock on a file beside the database; without a file there is nothing to wait for."""

    def __init__(self, database: Path | None, table: str) -> None:
        self._file: IO[Any] | None = None
        self._told = False
        if database is not None:
            real = database.resolve()  # one lock, by whatever name the database is reached
            self._file = own_file(real.with_name(f"{real.name}.{table}.lock"), "w")
        self._active = database is None

    def active(self) -> bool:
        """Whether it is this one; asked again and again by those that stand by."""
        if not self._active and self._file is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._active = True
            except BlockingIOError:
                if not self._told:
                    log.info("another relay works on this outbox, this one stands by")
                    self._told = True
        return self._active

    def close(self) -> None:
        """Let the next one work."""
        if self._file is not None:
            self._file.close()
