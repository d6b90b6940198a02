"""
The forging matrix: every authenticated topic, every kind of forgery, every program that reads the topic.

A cell's verdict is what the program's own reading function says of a message as the client gives it. What follows from
the verdict (quarantine, a dead letter, passed over, a concern) is tested with each reader.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from confluent_kafka import Message

from keymill.core.record_authentication import FORGED, HEADER, NO_RECORD_KEY, UNAUTHENTICATED, Mac, Signer
from keymill.errors import InvalidRecord
from keymill.kafka import authentication
from keymill.kafka.adoption import adoptions_of
from keymill.kafka.authentication import authenticator_of, refusal_of
from keymill.kafka.latest import Read, Whole
from keymill.kafka.positions import Incoming
from keymill.kafka.scan import DECIDED, Scanner
from keymill.kafka.status_topic import status_of
from keymill.kms.keyfile import KeyFile, add_organization, create_key_file
from keymill.kms.keyring import Keyring
from keymill.kms.record_keys import RecordKeys, record_keys_of
from keymill.snapshot.incoming import EXAMINERS, Examiner
from schemas import topics
from schemas.codec import encode
from schemas.operations import ProgramReport
from schemas.records import Claim, TopicAdopted
from schemas.topics import Authentication, Program, Topic
from schemas.values import LogPosition, Record, Scheme
from streams.raw import check_authentic
from streams.runs import RawRecord
from tests import view_records

AUTHENTICATED = {topic.name: topic for topic in topics.CATALOGUE if topic.authentication is not Authentication.NONE}
PARTITIONS = 1
"""So that every record belongs where it stands, and its authenticator alone decides."""
REPORT = ProgramReport(program="proxy", instance="one", version="1", started=1, at=2, progress=(), keks=())
ADOPTED = TopicAdopted(topic="drm.keys.v1", topic_id="id", partitions=1, generation=0, adopted=1)
CLAIM = Claim(
    organization="demo", kid=b"k" * 16, asset="film", key_version=1, label="SD", scheme=Scheme.CBCS, root_version=1,
    event=LogPosition(generation=0, offset=1),
)  # fmt: skip
RECORDS: Mapping[str, tuple[bytes, Record | bytes]] = {
    topics.KEYS.name: view_records.key_record("film"),
    topics.POLICIES.name: view_records.policy_record(1),
    topics.ENTITLEMENTS.name: view_records.entitlement("ann", "gold"),
    topics.SERVICES.name: view_records.service("s"),
    topics.CREDENTIALS.name: view_records.credential("c"),
    topics.CLAIMS.name: (b"demo/" + (b"k" * 16).hex().encode(), CLAIM),
    topics.ADOPTIONS.name: (b"topic/drm.keys.v1", ADOPTED),
    topics.STATUS.name: (b"proxy/one", REPORT),
    topics.POLICY_CHANGES.name: (b"demo", b"any value"),
    topics.REQUESTS.name: (b"demo/film", b"any value"),
    topics.DEAD_LETTERS.name: (b"drm.assets.v1/3/17", b"any value"),
}
"""By topic; where a reader looks at the authenticator before it reads the value, any value does."""

Headers = list[tuple[str, bytes | None]]
Forged = tuple[bytes | None, Headers]
"""Value and headers."""


class Writers:
    """The installation's keys, and those of a stranger who knows how records are authenticated."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "own.json"
        self.own, self.strange = (self._made(folder / f"{name}.json") for name in ("own", "strange"))

    @staticmethod
    def _made(path: Path) -> RecordKeys:
        create_key_file(path)
        for organization in ("demo", "other"):
            add_organization(path, organization)
        return record_keys_of(path)


Forgery = Callable[[Topic, bytes, bytes, Writers], Forged]


def forgery(change: Callable[[Topic, bytes, bytes, Writers], bytes | None]) -> Forgery:
    """The true value under another authenticator."""
    return lambda topic, key, value, by: (value, [(HEADER, change(topic, key, value, by))])


def true(topic: Topic, key: bytes, value: bytes, by: Writers) -> bytes:
    """The authenticator of a program of the installation."""
    return by.own.authenticate(topic, key, value)


def of_another_form(topic: Topic, key: bytes, value: bytes, by: Writers) -> bytes:
    """A MAC where a signature belongs, and the reverse, made with the installation's own keys."""
    return made(topic, topic.name, topic.authentication is not Authentication.MAC, key, value, by)


def of_another_topic(topic: Topic, key: bytes, value: bytes, by: Writers) -> bytes:
    """The authenticator that the same record would have on another topic."""
    return made(topic, "drm.another.v1", topic.authentication is Authentication.MAC, key, value, by)


def made(topic: Topic, name: str, mac: bool, key: bytes, value: bytes, by: Writers) -> bytes:
    """An authenticator of either form for a topic of any name, under the keys that the record's would have."""
    keyring, organization = Keyring(KeyFile(by.path)), whose(topic, key)
    if mac:
        return Mac(keyring.record_mac_key(organization, 1), name, 1).authenticate(key, value)
    return Signer(keyring.record_signing_key(organization, 1), name, 1).authenticate(key, value)


def whose(topic: Topic, key: bytes) -> str:
    """The organization whose keys a topic would have for a record key."""
    return topics.organization_of(topic, key)


def of_another_epoch(topic: Topic, key: bytes, value: bytes, by: Writers) -> bytes:
    """A key that nobody has yet: the head names epoch 9."""
    made = bytearray(true(topic, key, value, by))
    made[4] = 9
    return bytes(made)


def twice(*order: str) -> Forgery:
    """Two headers of that name, of which the last counts."""

    def change(topic: Topic, key: bytes, value: bytes, by: Writers) -> Forged:
        made = {"true": true(topic, key, value, by), "strange": by.strange.authenticate(topic, key, value)}
        return value, [(HEADER, made[name]) for name in order]

    return change


FORGERIES: Mapping[str, tuple[Forgery, str]] = {
    "none": (forgery(true), ""),
    "no header": (lambda _t, _k, value, _by: (value, []), UNAUTHENTICATED),
    "another header": (lambda t, k, value, by: (value, [("auth", true(t, k, value, by))]), UNAUTHENTICATED),
    "a header without a value": (forgery(lambda *_: None), UNAUTHENTICATED),
    "an empty header": (forgery(lambda *_: b""), FORGED),
    "a stranger's keys": (forgery(lambda t, k, v, by: by.strange.authenticate(t, k, v)), FORGED),
    "another form": (forgery(of_another_form), FORGED),
    "another topic's": (forgery(of_another_topic), FORGED),
    "another record key's": (forgery(lambda t, k, v, by: true(t, k + b"1" if b"/" in k else b"other", v, by)), FORGED),
    "another value's": (forgery(lambda t, k, v, by: true(t, k, v + b"1", by)), FORGED),
    "cut off": (forgery(lambda t, k, v, by: true(t, k, v, by)[:-1]), FORGED),
    "too long": (forgery(lambda t, k, v, by: true(t, k, v, by) + b"\0"), FORGED),
    "an epoch that is not": (forgery(of_another_epoch), NO_RECORD_KEY),
    "a changed value": (lambda t, k, v, by: (v[:-1] + bytes((v[-1] ^ 1,)), [(HEADER, true(t, k, v, by))]), FORGED),
    "a bare tombstone": (lambda *_: (None, []), UNAUTHENTICATED),
    "a tombstone with the record's header": (lambda t, k, v, by: (None, [(HEADER, true(t, k, v, by))]), FORGED),
    "the true header, then a stranger's": (twice("true", "strange"), FORGED),
    "a stranger's header, then the true one": (twice("strange", "true"), ""),
}


def view(message: Message, keys: RecordKeys) -> str:
    """The followers of processor, gateway and proxy; what comes of a verdict is in test_record_authentication."""
    topic = message.topic() or ""
    incoming = Incoming(topic, 0, 7, message.key(), message.value(), authenticator_of(message))
    examined = Examiner({topic: PARTITIONS}, keys).examine(incoming)
    return examined if isinstance(examined, str) else ""


def owner(message: Message, keys: RecordKeys) -> str:
    """A processor, of what it decides."""
    topic = message.topic() or ""
    headers = tuple(message.headers() or ())
    try:
        check_authentic(RawRecord(topic, 0, 7, 0, 1, message.key(), message.value(), headers), keys)
    except InvalidRecord as refusal:
        return refusal.code
    return ""


def scan(message: Message, keys: RecordKeys) -> str:
    """Commands, audits and connectors that read a partition in order; decided topics are decided again there."""
    topic = message.topic() or ""
    if topic in DECIDED:
        return owner(message, keys)
    with Scanner("127.0.0.1:9") as scanner, pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanner, "raw", lambda *_, **__: iter([message]))
        judged = [reason for _, reason in scanner.judge(topic, 0, end=8)]
        assert [each == "" for each in judged] == [True] * len(list(scanner.read(topic, 0, end=8))) or judged[0]
    return judged[0]


def whole(message: Message, keys: RecordKeys) -> str:
    """Every program and command, of the small topics that are read whole at a start."""
    topic = message.topic() or ""
    refusal = refusal_of(message, topic)
    found = Whole(PARTITIONS, (Read(0, 7, message.key() or b"", message.value(), refusal),))
    if topic == topics.ADOPTIONS.name:
        held = adoptions_of(topics.ADOPTIONS, found)
        assert bool(held.held) == (not refusal)
        assert bool(held.unreadable) == bool(refusal)
    else:
        status = status_of(found)
        assert bool(status.reports) == (not refusal)
        assert [each.reason for each in status.unreadable] == ([refusal] if refusal and message.value() else [])
    return refusal


READERS: Mapping[str, Mapping[Program, Callable[[Message, RecordKeys], str]]] = {
    name: {
        program: whole
        if name in (topics.ADOPTIONS.name, topics.STATUS.name)
        else scan
        if program in (Program.OPS, Program.CONNECT) or name == topics.DEAD_LETTERS.name
        else view
        if name in EXAMINERS
        else owner
        for program in topic.readers
    }
    for name, topic in AUTHENTICATED.items()
}
CELLS = [(name, kind, program) for name in READERS for kind in FORGERIES for program in READERS[name]]


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> Writers:
    return Writers(tmp_path_factory.mktemp("keys"))


def test_every_authenticated_topic_is_in_the_matrix() -> None:
    """A topic that comes to the catalogue comes here, with a record of its own and each of its readers."""
    assert AUTHENTICATED.keys() == RECORDS.keys() == READERS.keys()
    assert all(READERS[name].keys() == set(topic.readers) for name, topic in AUTHENTICATED.items())
    assert len(CELLS) > 600


@pytest.mark.parametrize(("name", "program"), [(name, each) for name in READERS for each in READERS[name]])
def test_no_forgery_is_taken_for_a_record(name: str, program: Program, writers: Writers) -> None:
    """Each kind has its verdict, the same in every reader; the true record is taken by all."""
    key, record = RECORDS[name]
    value = record if isinstance(record, bytes) else encode(record)
    before = authentication.installed()
    authentication.install(writers.own)
    try:
        verdicts = {}
        for kind, (change, _) in FORGERIES.items():
            changed, headers = change(AUTHENTICATED[name], key, value, writers)
            message = Message(topic=name, partition=0, offset=7, key=key, value=changed, headers=headers)
            verdicts[kind] = READERS[name][program](message, writers.own)
    finally:
        authentication.install(before)
    assert {kind: verdict for kind, (_, verdict) in FORGERIES.items()} == verdicts
