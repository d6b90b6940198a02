"""Authenticators: what they bind, who can make them, and that a view takes no record without the right one."""

import timeit
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.core import record_authentication
from keymill.core.record_authentication import FORGED, HEAD_SIZE, NO_RECORD_KEY, UNAUTHENTICATED
from keymill.errors import Misconfigured, UnknownKey
from keymill.kafka import authentication
from keymill.kafka.outgoing import Outgoing
from keymill.kms.keyfile import add_organization, create_key_file
from keymill.kms.keyring import Keyring
from keymill.kms.provider import RootActivation
from keymill.kms.record_keys import RecordKeys, record_keys_of
from keymill.snapshot.reader import SnapshotReader
from keymill.snapshot.writer import ANYBODY, MAX_KEYLESS, SnapshotWriter, keys_come
from schemas import topics
from schemas.codec import encode
from schemas.topics import Authentication
from tests.fakes import MemoryKms
from tests.view_records import (
    VIEW_TOPICS,
    Log,
    asset_record,
    credential,
    entitlement,
    key_record,
    policy_record,
    service,
)

MAP = 16 << 20
AUTHENTICATED = [topic for topic in topics.CATALOGUE if topic.authentication is not Authentication.NONE]
KEY, VALUE = b"demo/film", b"\xc3\x01 canonical bytes"


def keys_of(*names: str, versions: int = 1) -> RecordKeys:
    """The record keys of these organizations, with so many roots."""
    activations = tuple(RootActivation(root_version=n + 1, activates=n) for n in range(versions))
    return RecordKeys(lambda: Keyring(MemoryKms(names=names, activations=activations)))


KEYS = keys_of("demo", "other")


def record_key_of(topic: topics.Topic) -> bytes:
    """A record key that the topic may have."""
    return b"drm.assets.v1/3/17" if topic is topics.DEAD_LETTERS else KEY


@pytest.mark.parametrize("topic", AUTHENTICATED, ids=lambda topic: topic.name)
def test_an_authenticator_is_of_one_topic_record_key_and_value(topic: topics.Topic) -> None:
    """The same record gets the same one; moved to another place, or changed by a byte, it does not verify."""
    key = record_key_of(topic)
    made = KEYS.authenticate(topic, key, VALUE)
    assert made == keys_of("demo").authenticate(topic, key, VALUE)
    assert "" == KEYS.judge(topic.name, key, VALUE, made)
    assert "" == KEYS.judge(f"new.{topic.name}", key, VALUE, made)  # another set of the same topics
    assert UNAUTHENTICATED == KEYS.judge(topic.name, key, VALUE, None)
    assert FORGED == KEYS.judge(topic.name, key + b"2", VALUE, made)
    assert FORGED == KEYS.judge(topic.name, key, VALUE + b"\x00", made)
    assert FORGED == KEYS.judge(topic.name, key, b"", made)
    for other in AUTHENTICATED:
        if other is not topic and record_key_of(other) == key:
            assert FORGED == KEYS.judge(other.name, key, VALUE, made)


@given(place=st.integers(0, 200), flip=st.integers(1, 255), topic=st.sampled_from(AUTHENTICATED))
def test_no_bit_of_an_authenticator_may_be_another(place: int, flip: int, topic: topics.Topic) -> None:
    """Form, epoch and tag alike, and neither may it be shorter or longer."""
    key = record_key_of(topic)
    made = bytearray(KEYS.authenticate(topic, key, VALUE))
    made[place % len(made)] ^= flip
    assert KEYS.judge(topic.name, key, VALUE, bytes(made)) in (FORGED, NO_RECORD_KEY)
    made[place % len(made)] ^= flip
    for wrong in (b"", bytes(made[:-1]), bytes(made) + b"\x00", bytes(made[:HEAD_SIZE])):
        assert FORGED == KEYS.judge(topic.name, key, VALUE, wrong)


def test_each_organization_has_keys_of_its_own() -> None:
    """One organization's authenticator says nothing about another's record of the same value."""
    mine = KEYS.authenticate(topics.KEYS, b"demo/film", VALUE)
    assert FORGED == KEYS.judge(topics.KEYS.name, b"other/film", VALUE, mine)
    assert NO_RECORD_KEY == KEYS.judge(topics.KEYS.name, b"nobody/film", VALUE, mine)
    with pytest.raises(UnknownKey):
        KEYS.authenticate(topics.KEYS, b"nobody/film", VALUE)


def test_a_new_root_brings_a_new_key_and_the_old_one_still_reads() -> None:
    """The epoch is the root version: readers take every version that the KMS has, and no other."""
    before, after = keys_of("demo"), keys_of("demo", versions=2)
    old, new = (keys.authenticate(topics.POLICIES, KEY, VALUE) for keys in (before, after))
    assert (1, 2) == (old[HEAD_SIZE - 1], new[HEAD_SIZE - 1])
    assert ["", ""] == [after.judge(topics.POLICIES.name, KEY, VALUE, each) for each in (old, new)]
    assert NO_RECORD_KEY == before.judge(topics.POLICIES.name, KEY, VALUE, new)


def test_what_grants_authority_cannot_be_made_from_what_readers_hold() -> None:
    """Those topics have signatures: a MAC, which every reader of a topic could make, does not verify there."""
    granting = (topics.CREDENTIALS, topics.POLICIES, topics.SERVICES, topics.ENTITLEMENTS, topics.POLICY_CHANGES)
    for topic in granting:
        assert topic.authentication is Authentication.SIGNATURE
        bulk = msgspec.structs.replace(topic, authentication=Authentication.MAC)
        assert FORGED == KEYS.judge(topic.name, KEY, VALUE, keys_of("demo").authenticate(bulk, KEY, VALUE))


def test_nothing_that_must_be_authenticated_is_written_without_keys() -> None:
    """The publisher says so before it sends anything; other topics need none."""
    before = authentication.installed()
    authentication.install(None)
    try:
        with pytest.raises(Misconfigured, match=r"drm\.keys\.v1 record demo/film cannot be written"):
            authentication.with_authenticator(Outgoing(topic=topics.KEYS.name, record_key=KEY, value=VALUE))
        event = Outgoing(topic=topics.ASSETS.name, record_key=KEY, value=VALUE, headers=(("a", b"b"),))
        assert [("a", b"b")] == authentication.with_authenticator(event)
        authentication.install(KEYS)
        old = ((record_authentication.HEADER, b"of somebody else"), ("a", b"b"))
        again = Outgoing(topic=topics.KEYS.name, record_key=KEY, value=VALUE, headers=old)
        expected = [("a", b"b"), (record_authentication.HEADER, KEYS.authenticate(topics.KEYS, KEY, VALUE))]
        assert expected == authentication.with_authenticator(again)
    finally:
        authentication.install(before)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[tuple[Log, SnapshotWriter, SnapshotReader, RecordKeys]]:
    """A view that asks for the authenticators of a key file which knows the organization demo."""
    path = tmp_path / "keys.json"
    create_key_file(path)
    add_organization(path, "demo")
    keys = record_keys_of(path)
    with SnapshotWriter(tmp_path / "view", keys, map_size=MAP) as writer:
        writer.bind(Log().checkpoints())
        with SnapshotReader(tmp_path / "view") as reader:
            yield Log(), writer, reader, keys


RECORDS = {
    "key record": (topics.KEYS, key_record("film")),
    "asset record": (topics.KEYS, asset_record("film")),
    "policy": (topics.POLICIES, policy_record(1)),
    "entitlement": (topics.ENTITLEMENTS, entitlement("ann", "gold")),
    "service": (topics.SERVICES, service("s")),
    "credential": (topics.CREDENTIALS, credential("c")),
}


@pytest.mark.parametrize("kind", RECORDS)
@pytest.mark.parametrize("forgery", ["none", "no authenticator", "another key's", "another value's", "wrong keys"])
def test_a_view_takes_only_what_verifies(log, kind: str, forgery: str, tmp_path: Path) -> None:
    """What does not is quarantined under its reason, and what was held before is served on."""
    records, writer, reader, keys = log
    topic, (key, record) = RECORDS[kind]
    value = encode(record)
    strangers = record_keys_of(tmp_path / "strange.json")
    create_key_file(tmp_path / "strange.json")
    add_organization(tmp_path / "strange.json", "demo")
    authenticator = {
        "none": keys.authenticate(topic, key, value),
        "no authenticator": None,
        "another key's": keys.authenticate(topic, key + b"x", value),
        "another value's": keys.authenticate(topic, key, value + b"x"),
        "wrong keys": strangers.authenticate(topic, key, value),
    }[forgery]
    message = msgspec.structs.replace(records.put((key, record)), authenticator=authenticator)
    fates = writer.apply([message], records.slots)
    assert topic.name in VIEW_TOPICS
    if forgery == "none":
        assert 1 == fates[record_fate("applied")]
        assert reader.has(topic.name, key)
        return
    assert 1 == fates[record_fate("quarantined")]
    assert not reader.has(topic.name, key)
    assert [UNAUTHENTICATED if authenticator is None else FORGED] == [each.reason for each in reader.rejected()]


def record_fate(name: str):
    from keymill.core.view import Fate

    return Fate(name)


def test_records_that_came_before_the_keys_are_judged_again(log, tmp_path: Path) -> None:
    """An organization whose keys arrive later gets its records; the view says for whom it waits."""
    records, writer, reader, keys = log
    key, record = key_record("film", organization="late")
    path = tmp_path / "keys.json"
    late = tmp_path / "late.json"
    late.write_bytes(path.read_bytes())
    late.chmod(0o600)
    add_organization(late, "late")
    authenticator = record_keys_of(late).authenticate(topics.KEYS, key, encode(record))
    message = msgspec.structs.replace(records.put((key, record)), authenticator=authenticator)
    writer.apply([message], records.slots)
    assert ("late/1",) == writer.facts.keyless
    assert [NO_RECORD_KEY] == [each.reason for each in reader.rejected()]
    assert not keys.knows("late", 1)
    path.write_bytes(late.read_bytes())
    assert keys.knows("late", 1)
    writer.apply_again([message])
    writer.found_keys(["late/1"])
    assert reader.has(topics.KEYS.name, key)
    assert () == writer.facts.keyless


def test_a_record_of_an_unknown_epoch_has_nothing_judged_again(log, tmp_path: Path) -> None:
    """Nobody can have a known organization's records read over and over; they are when that root comes."""
    records, writer, _, keys = log
    key, record = key_record("film")
    forged = record_authentication.write_head(record_authentication.MAC_FORM, 2) + bytes(record_authentication.MAC_SIZE)
    writer.apply([msgspec.structs.replace(records.put((key, record)), authenticator=forged)], records.slots)
    assert ("demo/2",) == writer.facts.keyless
    assert ([], set()) == keys_come(writer.facts.keyless, keys, frozenset())
    assert (["demo/2"], {"demo"}) == keys_come(writer.facts.keyless, keys_of("demo", versions=2), frozenset())


def test_invented_organizations_keep_no_real_one_waiting(log) -> None:
    """However many there were before it, its records are judged when its keys come; and no others then."""
    records, writer, _, keys = log
    batch = []
    for number in range(MAX_KEYLESS + 5):
        key, record = key_record("film", organization=f"fake-{number}")
        made = keys_of(f"fake-{number}").authenticate(topics.KEYS, key, encode(record))
        batch.append(msgspec.structs.replace(records.put((key, record)), authenticator=made))
    writer.apply(batch, records.slots)
    keyless = writer.facts.keyless
    assert (MAX_KEYLESS + 1, ANYBODY) == (len(keyless), keyless[-1])
    before = keys.epochs()
    assert ([], set()) == keys_come(keyless, keys, before)
    assert ([], {"late"}) == keys_come(keyless, keys_of(*(each for each, _ in before), "late"), before)


def test_a_mac_costs_little() -> None:
    """It is checked for every record of a bootstrap; the bound is loose, `make bench` measures."""
    made = KEYS.authenticate(topics.KEYS, KEY, b"v" * 600)
    spent = min(timeit.repeat(lambda: KEYS.judge(topics.KEYS.name, KEY, b"v" * 600, made), number=2000, repeat=5))
    assert spent / 2000 < 20e-6
