"""
What a fetch brought, read to its end whatever a producer called its headers.

aiokafka decodes header names as UTF-8 and fails at any other. The broker takes such a record, so it would end every
worker that reads its partition, for ever. Here it is read as a record without headers, as `keymill.kafka.scan` reads
it, so that a replay decides about it what the processor decided.
"""

from collections.abc import Iterator
from typing import Any, Final

from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy


class Batches:
    """Stands for aiokafka's `MemoryRecords`: the batches of one partition in an answer."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._fast = MemoryRecords(data)
        self._taken = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fast, name)

    def next_batch(self) -> "_Batch":
        """The next batch."""
        self._taken += 1
        return _Batch(self._fast.next_batch(), self._data, self._taken - 1)


class _Batch:
    def __init__(self, fast: Any, data: bytes, number: int) -> None:
        self._fast = fast
        self._data = data
        self._number = number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fast, name)

    def __next__(self) -> Any:
        return next(self._fast)

    def __iter__(self) -> Iterator[Any]:
        try:
            return iter(list(self._fast))
        except (UnicodeDecodeError, CorruptRecordException):  # the pure Python reader wraps the one in the other
            return iter(_read_leniently(self._data, self._number))


def _read_leniently(data: bytes, number: int) -> list[Any]:
    """The records of batch *number*; raises `CorruptRecordException` when more than a name is wrong."""
    batches = _MemoryRecordsPy(data)
    for _ in range(number):
        batches.next_batch()
    batch = _DefaultRecordBatchPy(batches._next_slice)
    batch._maybe_uncompress()
    batch._buffer = _Lenient(batch._buffer)
    records = list(batch)
    for record in records:
        if any(name is _UNREADABLE for name, _ in record.headers):
            record.headers.clear()
    return records


_UNREADABLE: Final = "\ufffd"


class _Lenient(bytearray):
    """Bytes whose parts decode to `_UNREADABLE` where they are no UTF-8."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Lenient(found) if isinstance(found, bytearray) else found

    def decode(self, *_arguments: Any, **_named: Any) -> str:
        """Never raises."""
        try:
            return bytes(self).decode()
        except UnicodeDecodeError:
            return _UNREADABLE
