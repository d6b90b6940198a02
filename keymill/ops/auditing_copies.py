"""
A copy of a topic, a view's or an archive's, against what the topic holds. Pure over what it is shown.

A copy may be newer than the topic was when it was read, and older while it catches up; it never contradicts.
"""

from collections.abc import Callable, Iterable, Mapping, Set
from typing import NamedTuple

from keymill.core.view import identity_of
from keymill.errors import InvalidRecord
from keymill.ops.auditing import Audit
from schemas import topics
from schemas.codec import decode
from schemas.ids import is_key_set
from schemas.records import AssetRecord, KeyRecord, PolicyRecord

Ends = Mapping[str, Mapping[int, int]]
"""End offset by topic and partition, as the audit read them."""


class Copy(NamedTuple):
    """
    What is compared.

    Args:
        name: as people call it.
        raw: the value of a topic's record key, or None.
        reached: whether it holds what a topic's partition held when that was read; what it lacks is missing then.
    """

    name: str
    raw: Callable[[str, bytes], bytes | None]
    reached: Callable[[str, int], bool]


def compare_copy(
    audit: Audit, copy: Copy, topic: str, partition: int, held: Mapping[bytes, bytes | None]
) -> set[bytes]:
    """Compare records of one partition, by record key; returns those that the copy may yet come to agree on."""
    reached, unsettled = copy.reached(topic, partition), set()
    for record_key, value in held.items():
        found = copy.raw(topic, record_key)
        place = ("copy", copy.name, topic, record_key)
        if found == value:
            audit.findings.put(place)
            continue
        unsettled.add(record_key)
        if value is None:
            audit.note(place, "copy_unexpected", record_key, _stranger(copy, topic))
        elif found is None and reached:
            audit.note(place, "copy_missing", record_key, f"{copy.name} has no such record of {topic}")
        elif found is not None and (reason := _difference(topic, record_key, value, found, reached)):
            audit.note(place, "copy_different", record_key, f"{copy.name}: {reason}")
        else:
            audit.findings.put(place)
    return unsettled


def find_strangers(audit: Audit, copy: Copy, topic: str, keys: Iterable[bytes], known: Set[bytes]) -> set[bytes]:
    """Tell, and return, the record keys of a copy that its topic does not hold."""
    strangers = {record_key for record_key in keys if record_key not in known}
    for record_key in sorted(strangers):
        place = ("copy", copy.name, topic, record_key)
        audit.note(place, "copy_unexpected", record_key, _stranger(copy, topic))
    return strangers


def _stranger(copy: Copy, topic: str) -> str:
    return f"{copy.name} has a record that {topic} does not hold"


def _difference(topic: str, record_key: bytes, value: bytes, found: bytes, reached: bool) -> str:
    """Why two records of one record key cannot both be; empty where one is only the later one."""
    try:
        if topic == topics.POLICIES.name:
            return _later(decode(value, PolicyRecord), decode(found, PolicyRecord), reached)
        if not is_key_set(record_key):
            return _later(decode(value, AssetRecord), decode(found, AssetRecord), reached)
        here, there = decode(value, KeyRecord), decode(found, KeyRecord)
    except InvalidRecord as error:
        return str(error)
    if identity_of(here) != identity_of(there):
        return "KIDs, fingerprints or identity differ"
    return "it has an earlier KEK epoch" if reached and there.kek_epoch < here.kek_epoch else ""


def _later(here: AssetRecord | PolicyRecord, there: AssetRecord | PolicyRecord, reached: bool) -> str:
    if here.applied == there.applied:
        return "" if here == there else "another record of the same event"
    return "it is of an earlier event" if reached and there.applied < here.applied else ""
