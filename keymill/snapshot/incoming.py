"""
From a message to a candidate: is it on its partition, did a program with the keys write it, can it be read, does it
belong under its record key.

What is held plays no part here; that is `keymill.snapshot.batch`. A bulk load spends its time in this module.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from confluent_kafka.cimpl import murmur2

from keymill.core.record_authentication import UNAUTHENTICATED
from keymill.core.view import misplaced
from keymill.errors import InvalidRecord
from keymill.kafka.authentication import RecordKeys, is_older
from keymill.kafka.positions import Incoming
from keymill.snapshot import layout, peek
from schemas import access, records, topics
from schemas.codec import decode
from schemas.ids import claim_key, scoped_key
from schemas.values import Record


class Candidate(Record, frozen=True, gc=False):
    """
    A readable message in its place; `record` is None where a peek said enough.

    Of a key record also: `kids`, the index keys of its KIDs, `tracks`, KID and fingerprint of each, and `rest`, the end
    of their index entries; of a peeked asset record `names`, see `keymill.snapshot.peek`.
    """

    key: bytes
    value: bytes
    message: Incoming
    record: Record | None = None
    kids: list[bytes] | None = None
    tracks: list[tuple[bytes, bytes]] | None = None
    rest: bytes = b""
    names: bytes = b""


Examined = Candidate | str
"""A candidate, or the reason why the message is quarantined."""
_KEYS: Final = topics.KEYS.name
_TAGS: Final = layout.TAGS
_DIGEST_AT: Final = -32
_KEY_SET_AT: Final = _DIGEST_AT - len(b"/k/")
_HEX_DIGITS: Final = b"0123456789abcdef"


class Place(NamedTuple):
    """What the partitioning part of a record key says; on the key topic that is an asset."""

    part: bytes
    partition: int
    prefix: bytes
    asset: bytes
    names: bytes


class Examiner:
    """Looks at messages of the topics that a view follows."""

    def __init__(self, partitions: dict[str, int], keys: RecordKeys) -> None:
        self._partitions = partitions
        self._judge = keys.judge
        self._last = Place(b"", -1, b"", b"", b"")
        self._last_topic = ""

    def examine(self, message: Incoming) -> Examined:
        """Give a message's candidate, or why it is quarantined."""
        topic, key = message.topic, message.key
        if not key or len(key) > layout.MAX_KEY or not key.isascii():
            return "record_key"
        part = key.split(b"/k/", 1)[0] if topic == _KEYS else partition_part(topic, key)
        place = self._last
        if place.part != part or self._last_topic != topic:  # an asset's records mostly follow each other
            place = self._last = self._place(topic, part)
            self._last_topic = topic
        if place.partition != message.partition:
            return "wrong_partition" if b"/" in key else "record_key"
        forged = self._judge(topic, key, message.value or b"", message.authenticator)
        if forged and not (forged == UNAUTHENTICATED and is_older(topic, message.partition, message.offset)):
            return forged
        try:
            return EXAMINERS[topic](message, _TAGS[topic] + key, place)
        except InvalidRecord:
            return "undecodable"

    def _place(self, topic: str, part: bytes) -> Place:
        organization, _, asset = part.partition(b"/")
        # librdkafka's own murmur2 is 20 times as fast as schemas.partition, and the same (tests/unit/test_peek.py).
        partition = murmur2(part, self._partitions[topic])
        return Place(part, partition, organization + b"/", asset, peek.text(organization) + peek.text(asset))


def partition_part(topic: str, key: bytes) -> bytes:
    """The part of a record key that chooses its partition, as `topics.partition_of` has it."""
    if topic == topics.KEYS.name:
        return key.split(b"/k/", 1)[0]
    if topic == topics.ENTITLEMENTS.name:
        return key.rsplit(b"/", 1)[0]
    return key if topic == topics.CLAIMS.name else key.split(b"/", 1)[0]


def _key_topic(message: Incoming, key: bytes, place: Place) -> Examined:
    value, length = message.value, len(place.part) + 1
    if value is None:
        return "tombstone"
    if len(key) == length:
        if peek.is_usual_asset(value, place.names):
            return Candidate(key, value, message, None, None, None, b"", place.names)
        return _placed(Candidate(key, value, message, decode(value, records.AssetRecord)))
    digest = key[_DIGEST_AT:]
    if len(key) != length - _KEY_SET_AT or digest.strip(_HEX_DIGITS):
        return "record_key"
    record, tracks = None, peek.key_tracks(value, place.names)
    if tracks is None:
        record = decode(value, records.KeyRecord)
        tracks = [(track.kid, track.fp) for track in record.tracks]
    prefix, rest = place.prefix, bytes.fromhex(digest.decode("ascii")) + place.asset
    found = Candidate(key, value, message, record, [prefix + kid for kid, _ in tracks], tracks, rest)
    return found if record is None else _placed(found)


def _policy(message: Incoming, key: bytes, place: Place) -> Examined:
    if message.value is None:
        return "tombstone"
    return _placed(Candidate(key, message.value, message, record=decode(message.value, records.PolicyRecord)))


def _placed(candidate: Candidate) -> Examined:
    verdict = misplaced(candidate.key[1:], candidate.record)  # type: ignore[arg-type]
    return verdict.reason if verdict else candidate


def _entitlement(message: Incoming, key: bytes, place: Place) -> Examined:
    if message.value is None:
        return "tombstone"
    record = decode(message.value, access.Entitlement)
    return _named(message, message.value, key, record, scoped_key(record.organization, record.user, record.product))


def _service(message: Incoming, key: bytes, place: Place) -> Examined:
    if message.value is None:
        return "tombstone"
    record = decode(message.value, access.Service)
    return _named(message, message.value, key, record, scoped_key(record.organization, record.service, record.version))


def _credential(message: Incoming, key: bytes, place: Place) -> Examined:
    if message.value is None:
        return "tombstone"
    record = decode(message.value, access.Credential)
    return _named(message, message.value, key, record, scoped_key(record.organization, record.credential))


def _claim(message: Incoming, key: bytes, place: Place) -> Examined:
    if message.value is None:
        return "tombstone"
    record = decode(message.value, records.Claim)
    return _named(message, message.value, key, record, claim_key(record.organization, record.kid))


def _named(message: Incoming, value: bytes, key: bytes, record: Record, own_key: bytes) -> Examined:
    return Candidate(key, value, message, record=record) if key[1:] == own_key else "record_key_of_another"


EXAMINERS: Final[dict[str, Callable[[Incoming, bytes, Place], Examined]]] = {
    topics.KEYS.name: _key_topic,
    topics.POLICIES.name: _policy,
    topics.ENTITLEMENTS.name: _entitlement,
    topics.SERVICES.name: _service,
    topics.CREDENTIALS.name: _credential,
    topics.CLAIMS.name: _claim,
}
