"""How a view lies in LMDB: the named databases, their keys and values. Another `FORMAT` is rebuilt by tailing."""

import struct
from typing import Final, NamedTuple

import msgspec

from keymill.errors import Misconfigured
from keymill.kafka.positions import Slot
from schemas import topics
from schemas.values import KID_SIZE, Record

FORMAT: Final = 2
"""Counts changes of anything in this module; a snapshot of another format is thrown away and read again."""
TAGS: Final[dict[str, bytes]] = {
    topics.KEYS.name: b"k",
    topics.POLICIES.name: b"p",
    topics.ENTITLEMENTS.name: b"e",
    topics.SERVICES.name: b"s",
    topics.CREDENTIALS.name: b"c",
    topics.CLAIMS.name: b"l",
}
"""One byte that begins the keys of a topic's records; also the list of topics that a view can follow."""
TOPIC_OF_TAG: Final = {tag[0]: name for name, tag in TAGS.items()}

RECORDS: Final = b"records"
"""tag | record key → partition, offset, Avro value."""
KIDS: Final = b"kids"
"""organization / KID → fingerprint | digest of the key record | asset."""
NAMES: Final = b"names"
"""
tag | name without organization | 0 | organization → nothing: finds services and credentials in any organization.

Also the index of an organization's policies, see `keymill.snapshot.policy_index`.
"""
CHECKPOINT: Final = b"checkpoint"
"""topic → next offset and leader epoch of every partition."""
META: Final = b"meta"
"""topic ids, counters; msgpack."""
REJECTED: Final = b"rejected"
"""ascending number → what was quarantined or stale; bounded."""
DATABASES: Final = (RECORDS, KIDS, NAMES, CHECKPOINT, META, REJECTED)

MAX_KEY: Final = 510
"""LMDB's compiled-in limit is 511 bytes, one of which is the tag."""
PLACE: Final = struct.Struct(">HQ")
PLACE_SIZE: Final = PLACE.size
_SLOT: Final = struct.Struct(">qi")
_KEY_SET: Final = "/k/"


class Place(NamedTuple):
    """Where a record stands in its topic."""

    partition: int
    offset: int


class Owner(NamedTuple):
    """Who a KID belongs to."""

    asset: str
    record_key: bytes
    fp: bytes


class Rejection(Record, frozen=True, kw_only=True):
    """A record that the view did not take; `fate` is `quarantined` or `stale`, `reason` a stable code."""

    fate: str
    reason: str
    topic: str
    partition: int
    offset: int
    record_key: bytes


def tag_of(topic: str) -> bytes:
    """The byte of a topic's records; `Misconfigured` for a topic that no view follows."""
    if topic not in TAGS:
        raise Misconfigured(f"a view cannot follow {topic}, only {', '.join(TAGS)}")
    return TAGS[topic]


def kid_key(organization: bytes, kid: bytes) -> bytes:
    """Key of a KID's entry."""
    return organization + b"/" + kid


def unpack_owner(organization: str, entry: bytes) -> Owner:
    """Read a KID's entry."""
    fp, digest, asset = entry[:KID_SIZE], entry[KID_SIZE : 2 * KID_SIZE], entry[2 * KID_SIZE :].decode("ascii")
    return Owner(asset, f"{organization}/{asset}{_KEY_SET}{digest.hex()}".encode("ascii"), fp)


def name_key(tag: bytes, record_key: bytes) -> bytes:
    """Key under which a record of any organization is found by the rest of its record key."""
    organization, _, name = record_key.partition(b"/")
    return tag + name + b"\0" + organization


def pack_slots(slots: dict[int, Slot], partitions: int) -> bytes:
    """Write the checkpoint of a topic."""
    return b"".join(_SLOT.pack(*slots[number]) for number in range(partitions))


def unpack_slots(data: bytes) -> dict[int, Slot]:
    """Read the checkpoint of a topic."""
    return {number: Slot(*pair) for number, pair in enumerate(_SLOT.iter_unpack(data))}


def pack_rejection(rejection: Rejection) -> bytes:
    """Write what was refused."""
    return msgspec.msgpack.encode(rejection)


def unpack_rejection(data: bytes) -> Rejection:
    """Read what was refused."""
    return msgspec.msgpack.decode(data, type=Rejection)
