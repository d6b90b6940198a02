"""Properties of the codec: canonical, equal to fastavro, and quick to refuse hostile bytes."""

import io
import time
import tracemalloc

import fastavro
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keymill.errors import InvalidRecord
from schemas.codec import SCHEMA_FILES, decode, decode_json, encode, schema_of
from schemas.events import AssetEvent
from schemas.framing import decode_event
from schemas.records import AssetRecord, KeyRecord
from schemas.values import Record
from tests.examples import examples
from tests.golden import verdicts
from tests.property.strategies import ASSET_RECORDS, EVENTS, KEY_RECORDS, RECORDS

KINDS = {kind.__name__: kind for kind in SCHEMA_FILES}
HOT = {AssetEvent: EVENTS, AssetRecord: ASSET_RECORDS, KeyRecord: KEY_RECORDS}
SLOW_S = 0.1
LARGEST = 4_000_000


def by_fastavro(record: Record) -> bytes:
    """The record written by fastavro, from plain values."""
    value = msgspec.to_builtins(record, builtin_types=(bytes,))
    if isinstance(value.get("body"), dict):
        value["body"]["-type"] = "keymill." + value["body"].pop("type")
    out = io.BytesIO()
    out.write(schema_of(type(record)).header)
    fastavro.schemaless_writer(out, schema_of(type(record)).parsed, value, disable_tuple_notation=True)
    return out.getvalue()


@pytest.mark.parametrize("name", RECORDS)
@given(data=st.data())
def test_a_record_comes_back_and_has_one_byte_string(name, data):
    """Encode and decode are inverse, twice the same, and what fastavro gives."""
    record = data.draw(RECORDS[name])
    written = encode(record)
    assert written == by_fastavro(record)
    assert decode(written, KINDS[name]) == record
    assert encode(decode(written, KINDS[name])) == written


@given(record=EVENTS)
def test_json_says_the_same_as_avro(record):
    """An event sent as JSON is the same event."""
    assert decode_json(msgspec.json.encode(record), AssetEvent) == record
    headers = (("content-type", b"application/json"),)
    assert decode_event(msgspec.json.encode(record), headers) == decode_event(encode(record))


def _refused_or_canonical(data: bytes, kind: type[Record]) -> None:
    before = time.perf_counter()
    try:
        record = decode(data, kind)
    except InvalidRecord as refused:
        assert refused.field
    else:
        assert decode(encode(record), kind) == record
    assert time.perf_counter() - before < SLOW_S


@pytest.mark.parametrize("kind", HOT, ids=lambda kind: kind.__name__)
@given(body=st.binary(max_size=400))
@example(body=b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(body=b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
def test_any_bytes_are_read_or_refused_quickly(kind, body):
    """Behind a good header: a record, or InvalidRecord within 100 ms; nothing else."""
    _refused_or_canonical(schema_of(kind).header + body, kind)


@pytest.mark.parametrize("kind", HOT, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_a_damaged_record_is_read_or_refused_quickly(kind, data):
    """One byte changed, a piece cut out or put in, the end cut off."""
    written = bytearray(encode(data.draw(HOT[kind])))
    place = data.draw(st.integers(10, len(written) - 1))
    how = data.draw(st.sampled_from(["change", "cut", "insert", "truncate"]))
    if how == "change":
        written[place] = data.draw(st.integers(0, 255))
    elif how == "cut":
        del written[place : place + data.draw(st.integers(1, 8))]
    elif how == "insert":
        written[place:place] = data.draw(st.binary(min_size=1, max_size=12))
    else:
        del written[place:]
    _refused_or_canonical(bytes(written), kind)


@pytest.mark.parametrize("size", [9, 2**20])
def test_a_promised_length_allocates_nothing(size):
    """2^62 bytes or items, announced in ten: refused without memory, at the end of 1 MiB as well."""
    head = verdicts.header_of("key_record") + b"\x06"
    huge = b"\xfe" + b"\xff" * 8 + b"\x01"
    tracemalloc.start()
    before = time.perf_counter()
    for tail in (huge, huge * (size // 10 + 1), b"\x80" * size, b"\x01" + b"\x02" * size, b"\xff" * size):
        with pytest.raises(InvalidRecord):
            decode(head + tail, KeyRecord)
    assert time.perf_counter() - before < 5 * (1.0 if size > 9 else SLOW_S)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * LARGEST


@examples(3)
@given(value=st.binary(max_size=200), kind=st.sampled_from(["application/json", "", "avro/binary", "x"]))
def test_any_value_under_any_content_type_is_an_event_or_refused(value, kind):
    """The framing never raises anything but InvalidRecord."""
    try:
        decode_event(value, (("Content-Type", kind.encode()),), lambda number: '"string"')
    except InvalidRecord as refused:
        assert refused.field
