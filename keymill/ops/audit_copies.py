"""The copies that an audit compares: views by their folders, an archive by its URL; opened anew for every look."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from keymill.ops.auditing import Audit
from keymill.ops.auditing_copies import Copy, Ends, compare_copy, find_strangers
from keymill.snapshot.reader import SnapshotReader
from schemas import topics

FEW: Final = 1000
"""Record keys that are read from an archive one by one, 0.3 ms each; for more of them whole partitions are."""
Value = Callable[[str, int, bytes], bytes | None]
"""What a topic's partition holds under a record key."""


class Listed(NamedTuple):
    """A copy, and the record keys that it has of a topic."""

    copy: Copy
    keys: Callable[[str], Iterator[bytes]]


OpenArchive = Callable[[ExitStack, Ends, bool], Listed]
"""Opens an archive until the stack closes; True when only a few record keys will be asked for."""


class Copies:
    """
    Compares whole partitions, and later the record keys that changed or that a copy may yet come to agree on.

    Args:
        snapshots: views' folders, as they are now; their followers may be at work.
    """

    def __init__(self, snapshots: Sequence[Path] = (), archive: OpenArchive | None = None) -> None:
        self._snapshots = snapshots
        self._archive = archive
        self._opened: list[Listed] = []
        self._known: dict[str, set[bytes]] = {}
        self._due: dict[tuple[str, int], set[bytes]] = {}

    def open(self, stack: ExitStack, ends: Ends, *, few: bool = False) -> None:
        """Open them all until *stack* closes; *ends* are how far the topics are read."""
        self._opened = [_snapshot(stack, folder, ends) for folder in self._snapshots]
        if self._archive is not None:
            self._opened.append(self._archive(stack, ends, few))

    def look(self, audit: Audit, topic: str, partition: int, held: Mapping[bytes, bytes | None]) -> None:
        """Compare records of one partition with every copy that is open."""
        unsettled: set[bytes] = set()
        for each in self._opened:
            unsettled |= compare_copy(audit, each.copy, topic, partition, held)
            self._known.setdefault(topic, set()).update(held)
        self._due[topic, partition] = unsettled

    def find_strangers(self, audit: Audit, ends: Ends) -> None:
        """Tell what only a copy has, once every partition was compared."""
        for each in self._opened:
            for topic, known in self._known.items():
                for stranger in find_strangers(audit, each.copy, topic, each.keys(topic), known):
                    partition = topics.partition_of(topics.BY_NAME[topic], stranger, len(ends[topic]))
                    self._due[topic, partition].add(stranger)
        self._known.clear()

    def changed(self, topic: str, partition: int, record_keys: Iterable[bytes]) -> None:
        """These must be compared again."""
        if self._snapshots or self._archive is not None:
            self._due.setdefault((topic, partition), set()).update(record_keys)

    def look_again(self, audit: Audit, ends: Ends, value: Value) -> None:
        """Compare what is due; what cannot be read now stays due."""
        if not (count := sum(map(len, self._due.values()))):
            return
        with ExitStack() as stack:
            self.open(stack, ends, few=count <= FEW)
            for (topic, partition), due in list(self._due.items()):
                self.look(audit, topic, partition, {key: value(topic, partition, key) for key in due})
        self._known.clear()


def _snapshot(stack: ExitStack, folder: Path, ends: Ends) -> Listed:
    reader = stack.enter_context(SnapshotReader(folder))
    view = stack.enter_context(reader.at_once())
    positions = view.positions()

    def reached(topic: str, partition: int) -> bool:
        return positions.get(topic, {}).get(partition, 0) >= ends[topic][partition]

    def keys(topic: str) -> Iterator[bytes]:
        return (key for key, _, _ in view.scan(topic))

    return Listed(Copy(f"the view {folder}", view.raw, reached), keys)
