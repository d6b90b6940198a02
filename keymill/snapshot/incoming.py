"""
From a message to a candidate: is it on its partition, can it be read, does it belong under its record key.

What is held plays no part here; that is `keymill.snapshot.batch`. A bulk load spends its time in this module.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from confluent_kafka.cimpl import murmur2

from keymill.core.view import misplaced
from keymill.errors import InvalidRecord
from keymill.kafka.positions import Incoming
from keymill.snapshot import layout, peek
from schemas import access, records, topics
from schemas.codec import decode
from schemas.ids import scoped_key
from schemas.values import Record


class Candidate(NamedTuple):
    """
    A readable message in its place. `value` None deletes; `record` is None where a peek said enough.

    `tracks` are the (KID, fingerprint) pairs of a key record, None for any other record; `about` is what a peek found.
    """

    key: bytes
    value: bytes | None
    message: Incoming
    record: Record | None = None
    tracks: list[tuple[bytes, bytes]] | None = None
    about: peek.AssetPeek | None = None


Examined = Candidate | str
"""A candidate, or the reason why the message is quarantined."""
_DIGEST_AT: Final = -35
"""Where `/k/` begins in a key record's record key: 32 digits follow."""


class Examiner:
    """Looks at messages of the topics that a view follows."""

    def __init__(self, partitions: dict[str, int]) -> None:
        self._partitions = partitions
        self._last: tuple[bytes, int] = (b"", -1)

    def examine(self, message: Incoming) -> Examined:
        """Give a message's candidate, or why it is quarantined."""
        key, topic = message.key, message.topic
        if not key or len(key) > layout.MAX_KEY or b"/" not in key or not key.isascii():
            return "record_key"
        part = partition_part(topic, key)
        if self._last[0] != part:
            # librdkafka's own murmur2 is 20 times as fast as schemas.partition, and the same (tests/unit/test_peek.py).
            self._last = (part, murmur2(part, self._partitions[topic]))
        if self._last[1] != message.partition:
            self._last = (b"", -1)
            return "wrong_partition"
        try:
            return EXAMINERS[topic](message, layout.TAGS[topic] + key, part)
        except InvalidRecord:
            return "undecodable"


def partition_part(topic: str, key: bytes) -> bytes:
    """The part of a record key that chooses its partition, as `topics.partition_of` has it."""
    if topic == topics.KEYS.name:
        return key.split(b"/k/", 1)[0]
    if topic == topics.ENTITLEMENTS.name:
        return key.rsplit(b"/", 1)[0]
    return key if topic == topics.CLAIMS.name else key.split(b"/", 1)[0]


def _key_topic(message: Incoming, key: bytes, part: bytes) -> Examined:
    value = message.value
    if value is None:
        return "tombstone"
    organization, _, asset = part.partition(b"/")
    if len(key) == len(part) + 1:
        if about := peek.asset_peek(value, organization, asset):
            return Candidate(key, value, message, about=about)
        return _placed(Candidate(key, value, message, record=decode(value, records.AssetRecord)))
    if key[_DIGEST_AT : _DIGEST_AT + 3] != b"/k/" or len(key) != len(part) + 1 - _DIGEST_AT or not _is_hex(key):
        return "record_key"
    if tracks := peek.key_tracks(value, organization, asset):
        return Candidate(key, value, message, tracks=tracks)
    record = decode(value, records.KeyRecord)
    tracks = [(track.kid, track.fp) for track in record.tracks]
    return _placed(Candidate(key, value, message, record=record, tracks=tracks))


def _is_hex(key: bytes) -> bool:
    return not key[-32:].strip(b"0123456789abcdef")


def _policy(message: Incoming, key: bytes, part: bytes) -> Examined:
    if message.value is None:
        return "tombstone"
    return _placed(Candidate(key, message.value, message, record=decode(message.value, records.PolicyRecord)))


def _placed(candidate: Candidate) -> Examined:
    verdict = misplaced(candidate.key[1:], candidate.record)  # type: ignore[arg-type]
    return verdict.reason if verdict else candidate


def _entitlement(message: Incoming, key: bytes, part: bytes) -> Examined:
    if message.value is None:
        return Candidate(key, None, message)
    record = decode(message.value, access.Entitlement)
    return _named(message, key, record, scoped_key(record.organization, record.user, record.product))


def _service(message: Incoming, key: bytes, part: bytes) -> Examined:
    if message.value is None:
        return "tombstone"
    record = decode(message.value, access.Service)
    return _named(message, key, record, scoped_key(record.organization, record.service, record.version))


def _credential(message: Incoming, key: bytes, part: bytes) -> Examined:
    if message.value is None:
        return "tombstone"
    record = decode(message.value, access.Credential)
    return _named(message, key, record, scoped_key(record.organization, record.credential))


def _claim(message: Incoming, key: bytes, part: bytes) -> Examined:
    if message.value is None:
        return "tombstone"
    record = decode(message.value, records.Claim)
    return Candidate(key, message.value, message, record=record)


def _named(message: Incoming, key: bytes, record: Record, own_key: bytes) -> Examined:
    return Candidate(key, message.value, message, record=record) if key[1:] == own_key else "record_key_of_another"


EXAMINERS: Final[dict[str, Callable[[Incoming, bytes, bytes], Examined]]] = {
    topics.KEYS.name: _key_topic,
    topics.POLICIES.name: _policy,
    topics.ENTITLEMENTS.name: _entitlement,
    topics.SERVICES.name: _service,
    topics.CREDENTIALS.name: _credential,
    topics.CLAIMS.name: _claim,
}
