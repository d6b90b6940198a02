"""The SQL archive as a copy of the topics: whatever it once saw of keys and policies, a topic must still hold."""

from collections.abc import Iterator, Mapping

from keymill.archive.reading import ArchiveReader
from keymill.ops.auditing_copies import Copy
from schemas import topics

Ends = Mapping[str, Mapping[int, int]]
"""End offset by topic and partition, as the audit read them."""


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
