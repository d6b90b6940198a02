"""The short cuts of a bulk load against the code they stand in for."""

import msgspec
import pytest
from confluent_kafka import murmur2
from hypothesis import example, given
from hypothesis import strategies as st

from keymill.errors import InvalidRecord
from keymill.snapshot import peek
from keymill.snapshot.incoming import partition_part
from schemas import topics
from schemas.codec import decode, encode
from schemas.partition import partition_for
from schemas.records import (
    AcceptedEvent,
    AssetRecord,
    AssetState,
    CryptoPeriod,
    KeyOrigin,
    KeyRecord,
    KeySet,
    KeyVersion,
    LivePeriods,
    TrackIdentity,
    TrackKey,
)
from schemas.values import LABELS, MAX_INT, LogPosition, Record, Scheme
from tests.examples import examples
from tests.view_records import VIEW_TOPICS, asset_record, key_record

names = st.from_regex(r"[a-z0-9][A-Za-z0-9._~:@-]{0,100}", fullmatch=True)
numbers = st.integers(0, 2**31 - 1)
offsets = st.integers(0, 2**53)
positions = st.builds(LogPosition, generation=numbers, offset=offsets)
labels = st.sampled_from([*sorted(LABELS), "HD+UHD1"])
schemes = st.sampled_from(list(Scheme))
sixteen = st.binary(min_size=16, max_size=16)


def many(of: st.SearchStrategy[object], least: int, most: int) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(of, min_size=least, max_size=most).map(tuple)


key_records = st.builds(
    KeyRecord,
    kek_epoch=numbers,
    tracks=many(
        st.builds(
            TrackKey, kid=sixteen, fp=sixteen, label=labels, scheme=schemes, origin=st.sampled_from(list(KeyOrigin))
        ),
        0,
        10,
    ),
    wrapped=st.binary(max_size=200),
    organization=names,
    asset=names,
    key_version=numbers,
    root_version=numbers,
    period=st.none() | st.builds(CryptoPeriod, index=offsets, start=st.none() | offsets, end=st.none() | offsets),
    event=positions,
)
tracks = many(
    st.builds(TrackIdentity, label=labels, scheme=schemes, declared=st.booleans(), kid=st.none() | sixteen), 0, 9
)
versions = st.builds(
    KeyVersion,
    key_version=numbers,
    root_version=numbers,
    salt=st.none() | st.binary(min_size=16, max_size=64),
    single_key=st.booleans(),
    schemes=many(schemes, 0, 4),
    created=positions,
    key_sets=many(st.builds(KeySet, digest=sixteen, at=positions, tracks=tracks), 0, 3),
    live=st.none()
    | st.builds(
        LivePeriods, period_s=numbers, start=st.none() | offsets, from_index=offsets, through_index=offsets,
        at=positions, tracks=tracks,
    ),
)  # fmt: skip
asset_records = st.builds(
    AssetRecord,
    organization=names,
    asset=names,
    state=st.sampled_from(list(AssetState)),
    applied=positions,
    policy_id=offsets,
    product_id=st.none() | names,
    available_from=st.none() | offsets,
    available_until=st.none() | offsets,
    versions=many(versions, 0, 4),
    recent=many(
        st.builds(
            AcceptedEvent,
            event_id=names,
            request_hash=st.binary(min_size=32, max_size=32),
            at=positions,
            timestamp=offsets,
        ),
        0,
        5,
    ),
)


def names_of(organization: str, asset: str) -> bytes:
    return peek.text(organization.encode()) + peek.text(asset.encode())


def check(record: Record, data: bytes) -> bool:
    """A peek agrees with the codec or says nothing; gives whether it said something."""
    assert isinstance(record, KeyRecord | AssetRecord)
    names = names_of(record.organization, record.asset)
    if isinstance(record, KeyRecord):
        pairs = peek.key_tracks(data, names)
        if pairs is None:
            return False
        decoded = decode(data, KeyRecord)
        assert pairs == [(track.kid, track.fp) for track in decoded.tracks]
        assert (decoded.organization, decoded.asset) == (record.organization, record.asset)
        return True
    about, applied = peek.asset_peek(data, names), peek.applied(data)
    assert peek.is_usual_asset(data, names) == (about is not None)
    if about is None:
        return False
    whole = decode(data, AssetRecord)
    assert about.applied == (whole.applied.generation, whole.applied.offset)
    assert applied in (None, about.applied)
    assert about.versions in data
    assert (whole.organization, whole.asset) == (record.organization, record.asset)
    return True


@examples(2)
@given(record=key_records | asset_records)
def test_a_peek_agrees_with_the_codec(record: Record) -> None:
    """Any record: the peek says the same as decoding, or nothing."""
    check(record, encode(record))


@examples(3)
@given(record=key_records | asset_records, data=st.data())
@example(record=key_record("film")[1], data=None)
def test_a_peek_never_takes_what_the_codec_refuses(record: Record, data: st.DataObject | None) -> None:
    """A changed, cut, or lengthened value is taken by the peek only if the codec takes it too, and reads it alike."""
    value = encode(record)
    if data is None:
        for place in range(len(value)):
            for changed in (0, 1, 2, 0x7F, 0x80, 0xFF):
                quietly(record, value[:place] + bytes([changed]) + value[place + 1 :])
            quietly(record, value[:place])
        return
    place = data.draw(st.integers(0, len(value)))
    patch = data.draw(st.binary(max_size=3))
    drop = data.draw(st.integers(0, 3))
    quietly(record, value[:place] + patch + value[place + drop :])


def quietly(record: Record, value: bytes) -> None:
    try:
        check(record, value)
    except InvalidRecord as error:
        raise AssertionError("the peek took what the codec refuses") from error


@examples(3)
@given(record=asset_records, data=st.data())
def test_the_head_of_an_asset_record_is_read_as_the_codec_reads_it(record: AssetRecord, data: st.DataObject) -> None:
    """Of any bytes that the codec takes: the same `applied`, or nothing; and nothing is ever raised."""
    value = encode(record)
    place, drop = data.draw(st.integers(0, len(value))), data.draw(st.integers(0, 3))
    for changed in (value, value[:place] + data.draw(st.binary(max_size=3)) + value[place + drop :], value[:place]):
        applied = peek.applied(changed)
        try:
            whole = decode(changed, AssetRecord).applied
        except InvalidRecord:
            continue
        assert applied in (None, (whole.generation, whole.offset))


@pytest.mark.parametrize("generation", [-1, 0, 63, 64, MAX_INT])
@pytest.mark.parametrize("offset", [-(2**63), -1, 0, 63, 64, 2**62, 2**63 - 1])
def test_any_position_in_a_head_is_read_as_the_codec_reads_it(generation: int, offset: int) -> None:
    """Or not at all."""
    at = LogPosition(generation=generation, offset=offset)
    value = encode(msgspec.structs.replace(asset_record("film")[1], applied=at))
    assert peek.applied(value) in (None, (generation, offset))


def test_a_number_that_is_too_long_is_not_read() -> None:
    """The codec refuses it; taken for an offset, it would be above every other one of its partition."""
    value = encode(asset_record("film")[1])
    at = len(value.partition(b"film")[0]) + len("film") + 2  # state and generation
    assert peek.applied(value) is not None
    assert peek.applied(value[:at] + b"\xff" * 10 + b"\x01" + value[at:]) is None


@pytest.mark.parametrize(
    "record",
    [
        key_record("film")[1],
        key_record("f" * 128, labels=("SD", "HD", "UHD1", "UHD2", "AUDIO"))[1],
        asset_record("film")[1],
        asset_record("film", 2**40, versions=3, product="gold")[1],
    ],
)
def test_a_usual_record_is_peeked_at(record: Record) -> None:
    """The shapes that fill a bulk load do not fall back to decoding."""
    assert check(record, encode(record))
    if isinstance(record, AssetRecord):
        assert peek.applied(encode(record)) == (record.applied.generation, record.applied.offset)


def test_a_record_of_another_asset_is_not_peeked_at() -> None:
    """The names must be those of the record key."""
    assert peek.key_tracks(encode(key_record("film")[1]), names_of("demo", "fil")) is None
    assert peek.asset_peek(encode(asset_record("film")[1]), names_of("dem", "film")) is None


@given(key=st.binary(max_size=300), partitions=st.integers(1, 500))
@example(key=b"TT0124", partitions=15)
@example(key=b"foobar", partitions=15)
def test_the_fast_murmur2_is_ours(key: bytes, partitions: int) -> None:
    """librdkafka's murmur2 partitioner gives what `schemas.partition` gives."""
    assert partition_for(key, partitions) == murmur2(key, partitions)


@pytest.mark.parametrize("topic", VIEW_TOPICS)
@pytest.mark.parametrize(
    "key", [b"demo/film", b"demo/film/k/00", b"demo/ann/gold", b"demo/s/1.0", b"demo/1", b"a/b/c/d"]
)
def test_the_partitioning_part_is_the_catalogues(topic: str, key: bytes) -> None:
    """What a reader checks is what `topics.partition_of` chooses."""
    assert partition_for(partition_part(topic, key), 12) == topics.partition_of(topics.BY_NAME[topic], key, 12)
