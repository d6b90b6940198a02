"""Bad input: every kind of it becomes a dead letter that names the field, holds no content, and costs itself alone."""

import json
from functools import partial

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.kms.keyring import Keyring
from keymill.kms.provider import RootActivation
from keymill.telemetry import REQUEST_ID_HEADER
from schemas import framing, topics
from schemas.codec import encode
from schemas.ids import asset_key
from schemas.partition import partition_for
from schemas.records import AssetRecord, DeadLetter
from streams.decide import Decided, Decider
from streams.raw import MAX_MESSAGE, request_id_of
from streams.runs import RawRecord, Run
from tests.builders import NOW, assign, ingest, rotate
from tests.fakes import MemoryKms
from tests.golden.verdicts import body_of, framed, header_of, ingested, track

PARTITIONS = 12
DAY_MS = 86_400_000
JSON = ("content-type", b"application/json")
KEY = b"demo/bbb"
HERE = partition_for(KEY, PARTITIONS)


class Written:
    """A `Lookup` over what earlier runs have called for."""

    def __init__(self) -> None:
        self.assets: dict[bytes, AssetRecord] = {}
        self.keys: dict[bytes, bytes] = {}
        self.asked: list[bytes] = []

    def asset(self, organization: str, asset: str) -> AssetRecord | None:
        return self.assets.get(asset_key(organization, asset))

    def has(self, record_key: bytes) -> bool:
        self.asked.append(record_key)
        return record_key in self.keys

    def take(self, decided: Decided) -> None:
        self.assets |= decided.assets
        self.keys |= decided.key_records


def record(value, offset=0, *, key=KEY, partition=HERE, headers=(), timestamp=NOW) -> RawRecord:
    """A Kafka record; an event is encoded."""
    data = encode(value) if isinstance(value, msgspec.Struct) else value
    return RawRecord(topics.ASSETS.name, partition, offset, timestamp, 1, key, data, tuple(headers))


def decide(*records: RawRecord, lookup: Written | None = None, kms: MemoryKms | None = None, generation=0) -> Decided:
    """What a run of records calls for."""
    decode = partial(framing.decode_event, registry=None)
    decider = Decider(Keyring(kms or MemoryKms()), decode, partitions=PARTITIONS, generation=generation)
    run = Run(topics.ASSETS.name, records[0].partition, 1, 1, records[0].offset, records[-1].offset + 1, records, 1)
    decided, held = decider.begin(run), lookup or Written()
    for each in records:
        decider.record(each, decided, held)
    return decided


def refused(bad: RawRecord) -> DeadLetter:
    """The dead letter of a record between two good ones, which have their keys all the same."""
    before, after = record(ingest("SD"), 1), record(ingest("HD"), 3)
    decided = decide(before, msgspec.structs.replace(bad, offset=2, partition=HERE), after)
    (letter,) = decided.dead_letters
    assert 2 == len(decided.key_records)
    assert 3 == decided.assets[KEY].applied.offset
    return letter


@pytest.mark.parametrize(
    ("key", "whose"),
    [
        (KEY, ("demo", "bbb")),
        (b"demo", ("demo", None)),
        (b"demo/a/b", (None, None)),
        (b"Demo/bbb", (None, None)),
        (b"\xff/bbb", (None, None)),
        (b"", (None, None)),
        (None, (None, None)),
    ],
)
def test_a_letter_of_a_body_that_nobody_can_read_says_whose_it_is(
    key: bytes | None, whose: tuple[str | None, str | None]
) -> None:
    """By its record key, so that `keymill dlq list --organization … --asset …` finds it."""
    letter = refused(record(b"hello", key=key))
    assert whose == (letter.organization, letter.asset)


def avro(**fields) -> RawRecord:
    """An event that bare fastavro wrote, so that nothing of ours has checked it."""
    value = ingested(**fields)
    key = f"{value['organization']}/{value['asset']}".encode()
    return record(framed("asset_event", value), key=KEY if partition_for(key, PARTITIONS) != HERE else key)


def plain(**fields) -> RawRecord:
    """A JSON event."""
    value = {"organization": "demo", "asset": "bbb", "event_time": NOW, "body": {"type": "AssetIngested"}}
    return record(json.dumps(value | fields).encode(), headers=[JSON])


GOOD = framed("asset_event", ingested(tracks=[track("SD")]))
BAD = {
    "unreadable Avro": (record(GOOD[:-1]), "invalid_record", "periods"),
    "no bytes": (record(b""), "invalid_record", "value"),
    "a byte too many": (record(GOOD + b"\0"), "invalid_record", "value"),
    "no Avro": (record(b"hello"), "invalid_record", "value"),
    "an unknown fingerprint": (record(b"\xc3\x01" + bytes(8) + GOOD[10:]), "invalid_record", "value"),
    "another record's fingerprint": (record(header_of("key_record") + GOOD[10:]), "invalid_record", "value"),
    "a wrong type in JSON": (plain(event_time="noon"), "invalid_record", "event_time"),
    "a wrong type inside": (plain(body={"type": "AssetIngested", "tracks": "SD"}), "invalid_record", "tracks"),
    "an empty organization": (avro(organization=""), "invalid_record", "organization"),
    "an over-long organization": (avro(organization="a" * 64), "invalid_record", "organization"),
    "an ill-formed organization": (avro(organization="Demo"), "invalid_record", "organization"),
    "an empty asset": (avro(asset=""), "invalid_record", "asset"),
    "an over-long asset": (avro(asset="a" * 129), "invalid_record", "asset"),
    "an ill-formed asset": (avro(asset="a/b"), "invalid_record", "asset"),
    "the reserved prefix": (avro(asset="hex:zz"), "invalid_record", "asset"),
    "an empty event id": (avro(event_id=""), "invalid_record", "event_id"),
    "an ill-formed event id": (avro(event_id="a b"), "invalid_record", "event_id"),
    "an over-long product": (avro(product_id="p" * 129), "invalid_record", "product_id"),
    "an unknown track type": (avro(tracks=[track("8K")]), "invalid_record", "tracks.label"),
    "an unknown track type in JSON": (
        plain(body={"type": "AssetIngested", "tracks": [{"label": "sd"}]}),
        "invalid_record",
        "tracks.label",
    ),
    "no track": (avro(tracks=[]), "invalid_record", "tracks"),
    "a salt too short": (avro(salt=b"s" * 15), "invalid_record", "salt"),
    "a null key": (record(GOOD, key=None), "null_key", "key"),
    "a null value": (record(None), "null_value", "value"),
    "a day ahead": (avro(event_time=NOW + DAY_MS + 1), "invalid_record", "event_time"),
    "microseconds": (avro(event_time=NOW * 1000), "invalid_record", "event_time"),
    "a salt that differs": (avro(salt=b"s" * 16), "conflict", "salt"),
    "one key for all, later": (avro(single_key=True), "conflict", "single_key"),
    "other schemes, later": (avro(schemes=["cenc"]), "conflict", "schemes"),
    "a version that skips one": (avro(key_version=3), "version_gap", "key_version"),
    "a rotation that skips one": (record(rotate(3)), "version_gap", "to_version"),
}


@pytest.mark.parametrize(("bad", "reason", "field"), BAD.values(), ids=BAD)
def test_bad_input_costs_itself_alone(bad: RawRecord, reason: str, field: str) -> None:
    """Reason and field are named, the partition goes on, and the letter can be written and read."""
    letter = refused(bad)
    assert (reason, field) == (letter.reason, letter.field)
    assert letter.message
    assert (2, HERE, NOW, len(bad.value or b"")) == (
        letter.offset,
        letter.partition,
        letter.timestamp,
        letter.value_size,
    )


@pytest.mark.parametrize("key", [KEY, b"demo/other", b"", b"\xff\x00"])
def test_a_wrong_partition_names_the_right_one(key: bytes) -> None:
    """Whatever the key: the producer must learn where it belongs, and that murmur2 says so."""
    right = partition_for(key, PARTITIONS)
    wrong = (right + 1) % PARTITIONS
    (letter,) = decide(record(GOOD, key=key, partition=wrong)).dead_letters
    assert ("wrong_partition", "partition") == (letter.reason, letter.field)
    assert f"partition {wrong}," in letter.message
    assert f"belongs on {right}:" in letter.message
    assert "murmur2" in letter.message


def test_another_assets_key_is_refused() -> None:
    """Compaction and partitioning go by the record key, so it must be the event's own."""
    (letter,) = decide(record(GOOD, key=b"demo/other", partition=partition_for(b"demo/other", PARTITIONS))).dead_letters
    assert ("key_mismatch", "key") == (letter.reason, letter.field)


def test_an_organization_without_roots_is_refused() -> None:
    """No key can be derived for it; the letter names the organization."""
    key = b"nobody/bbb"
    event = msgspec.structs.replace(ingest(), organization="nobody")
    decided = decide(record(event, key=key, partition=partition_for(key, PARTITIONS)))
    (letter,) = decided.dead_letters
    assert ("unknown_organization", "organization", "nobody") == (letter.reason, letter.field, letter.organization)
    assert not decided.key_records


def test_a_second_contradicting_choice_in_the_same_run_is_refused() -> None:
    """The first event has not been published yet, and its choice holds."""
    decided = decide(record(ingest(salt=b"s" * 16), 1), record(ingest(salt=b"t" * 16), 2), record(ingest(), 3))
    (letter,) = decided.dead_letters
    assert ("conflict", "salt", 2) == (letter.reason, letter.field, letter.offset)
    assert b"s" * 16 == decided.assets[KEY].versions[0].salt
    assert 1 == len(decided.key_records)


def test_a_letter_says_who_and_what_stood_there() -> None:
    """Where the event could be read: its names and ids; always size and hash, and the request id of the header."""
    event = msgspec.structs.replace(ingest(event_id="e-7"), event_time=NOW + 2 * DAY_MS)
    letter = refused(record(event, headers=[("other", b"x"), (REQUEST_ID_HEADER, b"r-9")]))
    assert ("demo", "bbb", "e-7", "r-9") == (letter.organization, letter.asset, letter.event_id, letter.request_id)
    unread = refused(record(b"hello", headers=[(REQUEST_ID_HEADER, b"")]))
    assert ("demo", "bbb", None, None) == (unread.organization, unread.asset, unread.event_id, unread.request_id)
    assert 32 == len(letter.value_sha256) and letter.value_sha256 != unread.value_sha256


MARK = "5ecre7" + "0123456789abcdef" * 2
"""Somebody put a key where something else belongs."""
LEAKS = {
    "JSON that is none": record(MARK.encode(), headers=[JSON]),
    "a string for a number": plain(event_time=MARK),
    "an unknown scheme": plain(body={"type": "AssetIngested", "schemes": [MARK]}),
    "an unknown body": plain(body={"type": MARK}),
    "an unknown track type": plain(body={"type": "AssetIngested", "tracks": [{"label": MARK}]}),
    "an unknown track type in Avro": avro(tracks=[track(MARK)]),
    "an organization that is none": plain(organization=MARK + "/"),
    "an asset that is none": plain(asset=MARK + "/"),
    "an event id that is none": plain(event_id=MARK + "/"),
    "a salt that is no base64": plain(body={"type": "AssetIngested", "salt": MARK + "*"}),
    "a salt of another length": plain(body={"type": "AssetIngested", "salt": "MDEyMw=="}),
    "half an event": record(framed("asset_event", ingested(tracks=[track(MARK)]))[:40]),
    "another frame": record(MARK.encode()),
}


@pytest.mark.parametrize("bad", LEAKS.values(), ids=LEAKS)
def test_a_letter_holds_no_content(bad: RawRecord) -> None:
    """Dead letters are read by many: what stood in the value stays there, whatever was put in the wrong place."""
    letter = refused(bad)
    assert bad.value and MARK[:16].encode() not in encode(letter)
    assert b"MDEyMw" not in encode(letter)


@given(st.data())
def test_no_bytes_stop_a_partition(data) -> None:
    """Any change of a good record, its key and its headers ends in records or in one letter that can be written."""
    value = bytearray(data.draw(st.sampled_from([GOOD, framed("asset_event", ingested(salt=b"s" * 16)), b"{}"])))
    for _ in range(data.draw(st.integers(0, 4))):
        if value:
            value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    value = value[: data.draw(st.integers(0, len(value)))] if data.draw(st.booleans()) else value
    key = data.draw(st.sampled_from([KEY, None]) | st.binary(max_size=20))
    names = st.sampled_from(["content-type", "Content-Type", REQUEST_ID_HEADER]) | st.text(max_size=5)
    values = st.none() | st.sampled_from([b"application/json", b"text/xml"]) | st.binary(max_size=200)
    headers = data.draw(st.lists(st.tuples(names, values), max_size=3))
    partition = partition_for(key, PARTITIONS) if key is not None else 0
    decided = decide(record(bytes(value), key=key, partition=partition, headers=headers))
    assert 1 == len(decided.assets) + len(decided.dead_letters)
    for letter in decided.dead_letters:
        assert letter.reason and letter.field and len(letter.message) <= MAX_MESSAGE
        encode(letter)


def test_several_events_of_one_asset_in_one_run_become_one_asset_record() -> None:
    """Each builds on the one before; their key records are all there, before the asset record in order."""
    decided = decide(
        record(ingest("SD"), 10), record(ingest("SD", "HD"), 11), record(rotate(2), 12), record(assign(4), 13)
    )
    asset = decided.assets[KEY]
    assert (1, 13, 4, 2) == (len(decided.assets), asset.applied.offset, asset.policy_id, len(asset.versions))
    assert 3 == len(decided.key_records)
    assert [] == decided.dead_letters
    one = Written()
    for offset, event in enumerate((ingest("SD"), ingest("SD", "HD"), rotate(2), assign(4)), 10):
        one.take(decide(record(event, offset), lookup=one))
    assert (one.assets, one.keys) == (decided.assets, decided.key_records)


def test_a_redelivered_run_calls_for_nothing_new() -> None:
    """Whatever part of it was published before the crash."""
    records = [record(ingest("SD"), 1), record(ingest("HD"), 2), record(rotate(2), 3)]
    first = decide(*records)
    written = Written()
    written.take(first)
    again = decide(*records, lookup=written)
    assert ({}, {}, []) == (again.assets, again.key_records, again.dead_letters)
    for missing in first.key_records:
        lost = Written()
        lost.take(first)
        del lost.keys[missing]
        assert {missing: first.key_records[missing]} == decide(*records, lookup=lost).key_records


def test_an_identical_duplicate_changes_only_applied() -> None:
    """At a higher offset: the asset record is written with its new place, no key record is."""
    written = Written()
    written.take(decide(record(ingest("SD"), 1)))
    again = decide(record(ingest("SD"), 2), lookup=written)
    (asset,) = again.assets.values()
    assert {} == again.key_records
    assert written.assets[KEY] == msgspec.structs.replace(asset, applied=written.assets[KEY].applied)
    assert 2 == asset.applied.offset


def test_a_refused_event_leaves_no_trace_in_its_asset() -> None:
    """Not even its place: `applied` stays at the last event that was accepted."""
    written = Written()
    written.take(decide(record(ingest("SD"), 1)))
    decided = decide(record(ingest(schemes=("cenc",)), 2), lookup=written)
    assert ({}, {}) == (decided.assets, decided.key_records)


def test_the_root_version_is_pinned_by_the_time_of_the_record() -> None:
    """Not by the event's own time, and not again by a later event of the version."""
    steps = (RootActivation(root_version=1, activates=0), RootActivation(root_version=2, activates=NOW))
    kms = MemoryKms(activations=steps)
    decided = decide(
        record(ingest("SD"), 1, timestamp=NOW - 1),
        record(ingest("HD"), 2, timestamp=NOW),
        record(rotate(2), 3, timestamp=NOW),
        kms=kms,
    )
    assert [1, 2] == [version.root_version for version in decided.assets[KEY].versions]


def test_the_generation_of_the_topic_is_in_every_place() -> None:
    """After a topic was adopted anew its offset 0 is later than what was applied."""
    written = Written()
    written.take(decide(record(ingest("SD"), 100)))
    decided = decide(record(assign(3), 0), record(b"", 1), lookup=written, generation=1)
    assert (1, 0) == (decided.assets[KEY].applied.generation, decided.assets[KEY].applied.offset)
    assert 1 == decided.dead_letters[0].generation


def test_request_ids_follow_their_event() -> None:
    """A key record has that of the event that called for it, the asset record that of the last event."""
    first, second = (REQUEST_ID_HEADER, b"r-1"), (REQUEST_ID_HEADER, b"r-2")
    decided = decide(record(ingest("SD"), 1, headers=[first]), record(ingest("HD"), 2, headers=[second]))
    assert ["r-1", "r-2"] == [decided.request_ids[key] for key in decided.key_records]
    assert "r-2" == decided.request_ids[KEY]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"r-1", "r-1"), (b"", ""), (None, ""), (b"x" * 129, "x" * 128), (b"\xff", "\ufffd")],
)
def test_a_request_id_is_bounded_text(value: bytes | None, expected: str) -> None:
    """Whoever produces to the topic chooses it; a header may have no value at all."""
    assert expected == request_id_of(record(b"", headers=[(REQUEST_ID_HEADER, value)]))
    assert "" == request_id_of(record(b"", headers=[("other", value)]))


class BrokenKms(MemoryKms):
    """A KMS that does not answer."""

    def hmac(self, organization, root_version, message):
        raise ConnectionError("no answer")


def test_what_is_not_the_records_fault_is_raised() -> None:
    """It must never become a dead letter: the worker ends, and the event is read again."""
    with pytest.raises(ConnectionError):
        decide(record(ingest(), 1), kms=BrokenKms())


def test_the_body_writer_of_these_tests_writes_events() -> None:
    """Else the refusals above would prove nothing."""
    assert [] == decide(avro(tracks=[track("SD")])).dead_letters
    assert [] == decide(plain()).dead_letters
    assert header_of("asset_event") + body_of("asset_event", ingested()) == framed("asset_event", ingested())
