"""
The SQL archive as a sink: every record of six topics, with its coordinates, on SQLite or PostgreSQL.

Exactly-once in effect: rows are keyed by (topic, generation, partition, offset) and positions move in the transaction
that writes them. A topic that was created anew and adopted goes on in rows of its own generation. What is kept, and
how to ask for it, is docs/archive.md.
"""

from collections.abc import Mapping, Sequence

from keymill import telemetry
from keymill.archive.writing import ArchiveWriter
from keymill.kafka.positions import Checkpoint, Slot, Whole

log = telemetry.logger("connectors.sql_archive")


class SqlArchive:
    """A `Sink`."""

    def __init__(self, writer: ArchiveWriter) -> None:
        self._writer = writer
        self._moved: dict[str, dict[int, Slot]] = {}

    def checkpoints(self) -> Mapping[str, Checkpoint]:
        """See `Sink`."""
        return self._writer.checkpoints()

    def begin(self, places: Mapping[str, Checkpoint]) -> None:
        """See `Sink`."""
        self._writer.begin(places)
        self._moved = {name: dict(place.slots) for name, place in places.items()}

    def write(self, records: Sequence[Whole], slots: Mapping[str, Mapping[int, Slot]]) -> None:
        """See `Sink`; only what moved is touched, so an idle archive is not written to."""
        moved = {
            name: new
            for name, parts in slots.items()
            if (new := {each: slot for each, slot in parts.items() if slot != self._moved[name][each]})
        }
        if not moved:
            return
        for table, rows in self._writer.write(records, moved).items():
            telemetry.ARCHIVED.labels(table).inc(rows)
        for name, parts in moved.items():
            self._moved[name] |= parts

    def close(self) -> None:
        """See `Sink`."""
        self._writer.close()
