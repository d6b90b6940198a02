"""
What a fetch brought, read to its end whatever a producer called its headers.

aiokafka decodes header names as UTF-8 and fails at any other. The broker takes such a record, so it would end every
worker that reads its partition, for ever. Here it is read as a record without headers, as `keymill.kafka.scan` reads
it, so that a replay decides about it what the processor decided.

aiokafka also unpacks whatever a batch holds, and 3 KB can hold a gigabyte. Above `UNPACKED_MAX` nothing is unpacked: in
the place of the batch's records stand records of the same offsets without key and value, whose header says why, and
the agents refuse them. The topics of the catalogue are stored unpacked by the broker, so such a batch was written
before that was set, or to a topic that drifted (`keymill.kafka.batch`).
"""

from collections.abc import Iterator
from typing import Any, Final

import cramjam
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchPy, _DefaultRecordPy
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy

from streams.runs import UNPACKED_MAX, UNREADABLE_BATCH_HEADER

TOLD_MAX: Final = 10_000
"""Of a batch that is not unpacked so many offsets are refused one by one: as many as librdkafka packs into one."""
_UNPACKERS: Final = {
    _DefaultRecordBatchPy.CODEC_GZIP: cramjam.gzip.decompress_into,
    _DefaultRecordBatchPy.CODEC_LZ4: cramjam.lz4.decompress_into,
    _DefaultRecordBatchPy.CODEC_ZSTD: cramjam.zstd.decompress_into,
}
"""By codec. Snappy is not among them: it makes at most 21 bytes of one."""


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
        if self._fast.compression_type in _UNPACKERS:
            slow = _slow(self._data, self._number)
            if not _fits(slow):
                return iter(_refused(slow))
        try:
            return iter(list(self._fast))
        except (UnicodeDecodeError, CorruptRecordException):  # the pure Python reader wraps the one in the other
            return iter(_read_leniently(self._data, self._number))


def _read_leniently(data: bytes, number: int) -> list[Any]:
    """The records of batch *number*; raises `CorruptRecordException` when more than a name is wrong."""
    batch = _slow(data, number)
    batch._maybe_uncompress()
    batch._buffer = _Lenient(batch._buffer)
    records = list(batch)
    for record in records:
        if any(name is _UNREADABLE for name, _ in record.headers):
            record.headers.clear()
    return records


def _slow(data: bytes, number: int) -> _DefaultRecordBatchPy:
    """Batch *number* for the pure Python reader, still packed."""
    batches = _MemoryRecordsPy(data)
    for _ in range(number):
        batches.next_batch()
    return _DefaultRecordBatchPy(batches._next_slice)


def _fits(batch: _DefaultRecordBatchPy) -> bool:
    """Whether the unpacked batch has at most `UNPACKED_MAX` bytes; more are never held."""
    try:
        _UNPACKERS[batch.compression_type](bytes(batch._buffer[batch._pos :]), bytearray(UNPACKED_MAX))
    except cramjam.DecompressionError:
        return False
    return True


def _refused(batch: _DefaultRecordBatchPy) -> list[_DefaultRecordPy]:
    """Records in the place of those in the batch."""
    last = batch.base_offset + batch.last_offset_delta
    why = f"offsets {batch.base_offset} to {last} cannot be unpacked, or to more than {UNPACKED_MAX} bytes"
    headers: list[tuple[str, bytes | None]] = [(UNREADABLE_BATCH_HEADER, why.encode())]
    told = range(batch.base_offset, min(last + 1, batch.base_offset + TOLD_MAX))
    return [
        _DefaultRecordPy(offset, batch.max_timestamp, batch.timestamp_type, None, None, list(headers))
        for offset in told
    ]


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
