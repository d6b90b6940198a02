"""
What a restore changes on the topics: pure comparisons of a backup with what the cluster has.

A topic that is not the one of the backup starts over at offset 0. Its generation becomes one more than the backup's,
so that (generation, offset) places its events after every event of the lost one (`LogPosition`).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from keymill.core.view import NO_SEQUENCE, Sequenced
from keymill.kafka.outgoing import Outgoing
from keymill.ops.backup_file import SavedRecord
from schemas.codec import decode, encode
from schemas.records import TopicAdopted
from schemas.topics import ENTITLEMENTS, entry_of

MISSING: Final = "missing"
OVERWRITTEN: Final = "overwritten"
KEPT: Final = "kept: the topic's is another"
SAME: Final = "the same"
WITHDRAWN: Final = "left out: deleted since the backup"

NewestByKey = Mapping[bytes, bytes | None]
"""The newest value of every record key of one topic; None is a tombstone."""


class Renewal(msgspec.Struct, frozen=True, kw_only=True):
    """A generation to record. `topic_id` is None while the topic does not exist."""

    topic: str
    topic_id: str | None
    generation: int
    partitions: int
    reason: str


def renewals(
    saved: Iterable[TopicAdopted], ids: Mapping[str, tuple[str, int]], current: Mapping[str, TopicAdopted], least: int
) -> Iterator[Renewal]:
    """
    The generations that must be recorded so that nothing new is placed before what was folded.

    Args:
        ids: (topic id, partitions) of the topics that exist.
        current: the adoptions that count.
        least: generation of new topics at least; above the backup's where topics were lost once more since.
    """
    for before in saved:
        now = current.get(before.topic)
        topic_id, partitions = ids.get(before.topic, (None, before.partitions))
        held = now.generation if now else -1
        if topic_id == before.topic_id:
            if now is None or now.topic_id != topic_id or held < before.generation:
                generation, reason = max(before.generation, held), "its adoption is lost"
                yield _renewal(before.topic, topic_id, generation, partitions, reason)
            continue
        wanted = max(before.generation + 1, least)
        if now is None or now.topic_id != topic_id or held < wanted:
            taken_over = now is not None and now.topic_id != topic_id
            generation = max(wanted, held + 1 if taken_over else 0)
            reason = "a new topic" if topic_id is None else "not the topic of the backup"
            yield _renewal(before.topic, topic_id, generation, partitions, reason)


def _renewal(topic: str, topic_id: str | None, generation: int, partitions: int, reason: str) -> Renewal:
    return Renewal(topic=topic, topic_id=topic_id, generation=generation, partitions=partitions, reason=reason)


def decisions(
    saved: Iterable[SavedRecord], held: NewestByKey, *, same_topic: bool, overwrite: bool
) -> Iterator[tuple[Outgoing | None, str]]:
    """
    For every saved record of one topic what is written, and why; None where nothing is.

    What the topic holds is newer than any backup, and stays unless *overwrite*.

    Args:
        same_topic: it is the very topic of the backup: what it lacks was deleted since, if deletion is possible.
    """
    for each in saved:
        if each.record_key not in held:
            if each.value is None:  # in a backup of a release that ended entitlements by a tombstone
                yield None, SAME
            elif same_topic and _can_be_deleted(each):
                yield None, WITHDRAWN
            else:
                yield _outgoing(each), MISSING
        elif held[each.record_key] == each.value:
            yield None, SAME
        elif overwrite:
            yield _outgoing(each, held[each.record_key]), OVERWRITTEN
        else:
            yield None, KEPT


def _can_be_deleted(record: SavedRecord) -> bool:
    return record.topic == ENTITLEMENTS.name


def _outgoing(record: SavedRecord, over: bytes | None = None) -> Outgoing:
    """The record as it is written; *over* another, with a sequence that follows that one's."""
    value, kind = record.value, entry_of(record.topic).records[0]
    if over is None and value is not None:
        alone = decode(value, kind)
        if isinstance(alone, Sequenced) and alone.sequence == NO_SEQUENCE:  # of a release that knew none
            value = encode(msgspec.structs.replace(alone, sequence=1))
    elif over is not None:
        held = decode(over, kind)
        saved = msgspec.structs.replace(held, deleted=True) if value is None else decode(value, kind)
        assert isinstance(saved, Sequenced) and isinstance(held, Sequenced)
        value = encode(msgspec.structs.replace(saved, sequence=max(saved.sequence, held.sequence + 1)))
    return Outgoing(topic=record.topic, record_key=record.record_key, value=value)
