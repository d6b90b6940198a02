"""Whatever a broker takes from a producer, the processor can read."""

import pytest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.memory_records import MemoryRecords

from streams.batches import Batches

RECORDS = 5


class Name(str):
    """A header name that is written as bytes which are no UTF-8, as C, Go and Rust clients can."""

    def encode(self, *_arguments: str, **_named: str) -> bytes:
        """Bytes."""
        return b"\xff\xfename"


def batch(codec: int, *names: str, start: int = 0) -> bytes:
    """A batch whose records have these header names."""
    builder = _DefaultRecordBatchBuilderPy(
        magic=2, compression_type=codec, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=1 << 20,
    )  # fmt: skip
    for offset in range(RECORDS):
        builder.append(offset, 1_800_000_000_000, b"k", b"v" * 200, [(name, b"1") for name in names])
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


def test_aiokafka_still_needs_this() -> None:
    """When it reads such names itself, `streams.batches` can go."""
    with pytest.raises(ValueError, match="utf-8"):
        list(MemoryRecords(batch(0, Name())).next_batch())
