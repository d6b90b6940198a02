"""What this processor has written and its view has not read back yet."""

from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Overlay(Generic[T]):
    """
    Acknowledged records over the view, until the view's position has passed them.

    Only ever a newer truth than the view's; cleared on revoke and on any produce error, after which the view is
    waited for again. Of a topic's record keys it keeps what they hold as a *T* where the writer gave it.
    """

    def __init__(self) -> None:
        self._records: dict[bytes, T] = {}
        self._offsets: dict[int, dict[bytes, int]] = {}

    def get(self, record_key: bytes) -> T | None:
        """The record written last, if the view may lack it."""
        return self._records.get(record_key)

    def of(self, partition: int) -> Iterable[tuple[bytes, T]]:
        """Every record written to a partition that the view may lack, by record key."""
        return [(key, self._records[key]) for key in self._offsets.get(partition, ()) if key in self._records]

    def holds(self, partition: int, record_key: bytes) -> bool:
        """Whether the record was written and acknowledged, and is not known to be read back."""
        return record_key in self._offsets.get(partition, ())

    def any(self, partition: int) -> bool:
        """Whether anything was written to a partition that the view may lack."""
        return bool(self._offsets.get(partition))

    def add(self, partition: int, record_key: bytes, offset: int, record: T | None = None) -> None:
        """Remember an acknowledged record."""
        self._offsets.setdefault(partition, {})[record_key] = offset
        if record is not None:
            self._records[record_key] = record

    def read_back(self, partition: int, position: int) -> None:
        """Forget what stands below the view's *position* in the topic's partition."""
        held = self._offsets.get(partition)
        if not held:
            return
        for record_key in [key for key, offset in held.items() if offset < position]:
            del held[record_key]
            self._records.pop(record_key, None)

    def clear(self, partitions: frozenset[int] | None = None) -> None:
        """Forget everything written to *partitions*, or at all."""
        for partition in list(self._offsets) if partitions is None else partitions:
            for record_key in self._offsets.pop(partition, {}):
                self._records.pop(record_key, None)

    def __len__(self) -> int:
        return sum(len(held) for held in self._offsets.values())
