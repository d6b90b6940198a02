"""Whatever a broker takes from a producer, the processor can read."""

import tracemalloc

import pytest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.memory_records import MemoryRecords

from keymill.errors import InvalidRecord
from streams.batches import TOLD_MAX, Batches
from streams.raw import value_in_place
from streams.runs import UNPACKED_MAX, RawRecord

RECORDS = 5


class Name(str):
    """A header name that is written as bytes which are no UTF-8, as C, Go and Rust clients can."""

    def encode(self, *_arguments: str, **_named: str) -> bytes:
        """Bytes."""
        return b"\xff\xfename"


def batch(codec: int, *names: str, start: int = 0, records: int = RECORDS, value: bytes = b"v" * 200) -> bytes:
    """A batch whose records have these header names."""
    builder = _DefaultRecordBatchBuilderPy(
        magic=2, compression_type=codec, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=1 << 30,
    )  # fmt: skip
    for offset in range(records):
        builder.append(offset, 1_800_000_000_000, b"k", value, [(name, b"1") for name in names])
    data = bytearray(builder.build())
    data[:8] = start.to_bytes(8, "big")
    return bytes(data)


@pytest.mark.parametrize("codec", range(5), ids=["none", "gzip", "snappy", "lz4", "zstd"])
def test_every_codec_and_every_header_name_is_read(codec: int) -> None:
    """A batch of a plain producer, then one whose names nobody can decode, then a plain one: all their records."""
    data = batch(codec, "x") + batch(codec, "x", Name(), start=RECORDS) + batch(codec, "\ufffd", start=2 * RECORDS)
    batches, found = Batches(data), []
    while batches.has_next():
        each = batches.next_batch()
        assert each.validate_crc() and not each.is_control_batch
        found += [(record.offset, record.value, tuple(record.headers)) for record in each]
    assert [offset for offset, _, _ in found] == list(range(3 * RECORDS))
    assert {value for _, value, _ in found} == {b"v" * 200}
    assert [found[0][2], found[RECORDS][2], found[-1][2]] == [(("x", b"1"),), (), (("\ufffd", b"1"),)]


@pytest.mark.parametrize("codec", [1, 3, 4], ids=["gzip", "lz4", "zstd"])
def test_a_batch_that_would_fill_the_memory_is_refused_record_by_record(codec: int) -> None:
    """Its offsets are told, with the reason; what stands before and behind it is read, and nothing of it is held."""
    bomb = batch(codec, start=RECORDS, records=3, value=bytes(UNPACKED_MAX // 2))
    assert len(bomb) < UNPACKED_MAX / 100
    batches, found = Batches(batch(codec) + bomb + batch(codec, start=RECORDS + 3)), []
    tracemalloc.start()
    while batches.has_next():
        found += list(batches.next_batch())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [record.offset for record in found] == list(range(2 * RECORDS + 3))
    assert peak < 1.5 * UNPACKED_MAX
    for record in found[RECORDS : RECORDS + 3]:
        raw = RawRecord("drm.assets.v1", 0, record.offset, 1, 1, record.key, record.value, tuple(record.headers))
        with pytest.raises(InvalidRecord, match="offsets 5 to 7") as refused:
            value_in_place(raw, 12)
        assert refused.value.code == "unreadable_batch"
    assert {b"k"} == {record.key for record in (*found[:RECORDS], *found[RECORDS + 3 :])}


def test_many_offsets_of_such_a_batch_are_told_in_bounds() -> None:
    """A head may claim two thousand million records."""
    bomb = batch(4, records=TOLD_MAX + 5, value=bytes(UNPACKED_MAX // TOLD_MAX))
    found = list(Batches(bomb).next_batch())
    assert [record.offset for record in found] == list(range(TOLD_MAX))


def test_aiokafka_still_needs_this() -> None:
    """When it reads such names itself, `streams.batches` can go."""
    with pytest.raises(ValueError, match="utf-8"):
        list(MemoryRecords(batch(0, Name())).next_batch())
