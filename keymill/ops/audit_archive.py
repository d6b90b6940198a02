"""The SQL archive as a copy of the topics: whatever it once saw of keys and policies, a topic must still hold."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from keymill.archive.reading import ArchiveReader
from keymill.archive.writing import archive_url
from keymill.ops.audit_copies import Listed, OpenArchive
from keymill.ops.auditing_copies import Copy, Ends
from keymill.sql import name_of
from schemas import topics


def opener(text: str, data: Path) -> OpenArchive:
    """What opens the archive that a setting names for one look at it."""
    url = archive_url(text, data)

    def open_archive(stack: ExitStack, ends: Ends, few: bool) -> Listed:
        reader = stack.enter_context(closing(ArchiveReader(url)))
        archive = ArchiveCopy(reader, name_of(url), ends, few=few)
        return Listed(archive.copy(), archive.keys)

    return open_archive


class ArchiveCopy:
    """
    Over an archive that may be at work. Holds one partition in memory at a time, as an audit goes through them.

    Args:
        name: how messages name the archive; no password.
        ends: of the topics that are compared.
        few: only a few record keys will be asked for: each is read by itself.
    """

    def __init__(self, reader: ArchiveReader, name: str, ends: Ends, *, few: bool = False) -> None:
        self._reader = reader
        self._name = name
        self._ends = ends
        self._few = few
        self._positions = {each.topic: each.positions for each in reader.topics()}  # the newest generation comes last
        self._at = ("", -1)
        self._held: dict[bytes, bytes] = {}

    def copy(self) -> Copy:
        """For `compare_copy` and `find_strangers`."""
        return Copy(f"the archive {self._name}", self._raw, self._reached)

    def keys(self, topic: str) -> Iterator[bytes]:
        """Every record key that the archive has seen on a topic."""
        return (record_key for record_key, _ in self._reader.newest_records(topic))

    def _raw(self, topic: str, record_key: bytes) -> bytes | None:
        at = topic, topics.partition_of(topics.BY_NAME[topic], record_key, len(self._ends[topic]))
        if self._few:
            return dict(self._reader.newest_records(*at, record_key=record_key)).get(record_key)
        if at != self._at:
            self._held, self._at = dict(self._reader.newest_records(*at)), at
        return self._held.get(record_key)

    def _reached(self, topic: str, partition: int) -> bool:
        return self._positions.get(topic, {}).get(partition, 0) >= self._ends[topic][partition]
