"""The topics' part of a restore: created where missing, what they lack published, their generations recorded."""

import time
from collections import Counter
from collections.abc import Iterable

import msgspec

from keymill.kafka.admin import create_topics, describe, end_offsets, load_adoptions
from keymill.kafka.adoption import record_adoptions
from keymill.kafka.cluster import TopicState
from keymill.ops.backup_file import Saved
from keymill.ops.changes import Changes, Plan, application
from keymill.ops.progress import Advance
from keymill.ops.restoring import NewestByKey, Renewal, decisions, renewals
from keymill.ops.saving import SAVED, newest_records
from schemas.records import TopicAdopted
from schemas.topics import ADOPTIONS, ASSETS, BY_NAME


class RecordCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many saved records of a topic share a fate."""

    topic: str
    fate: str
    records: int
    written: bool


class TopicChanges(msgspec.Struct, frozen=True, kw_only=True):
    """Topics to create, generations to record, and the fates of the saved records."""

    missing: tuple[str, ...]
    renewals: tuple[Renewal, ...]
    records: tuple[RecordCount, ...]

    @property
    def work(self) -> bool:
        """Whether anything is to be written."""
        return bool(self.missing or self.renewals or any(each.written for each in self.records))


def topic_changes(bootstrap: str, saved: Saved, *, overwrite: bool, least: int) -> TopicChanges:
    """What `apply_topics` would do; nothing is written. Raises `Unavailable` when no broker answers."""
    states = describe(bootstrap, BY_NAME)
    counts = _records(bootstrap, saved, states, Plan(), overwrite=overwrite)
    return TopicChanges(
        missing=tuple(name for name in BY_NAME if name not in states),
        renewals=tuple(_renewals(bootstrap, saved, states, least)),
        records=tuple(counts),
    )


def apply_topics(bootstrap: str, saved: Saved, replicas: int, *, overwrite: bool, least: int) -> list[RecordCount]:
    """
    Do it: create, publish, and when all is there record the generations. Safe to repeat, also after a kill in between.

    In this order since a view that waits for a lost topic's successor takes it over as soon as it is adopted: it must
    be whole by then.
    """
    partitions = {each.topic: each.partitions for each in saved.adoptions}
    create_topics(bootstrap, partitions=partitions[ASSETS.name], replicas=replicas)
    states = describe(bootstrap, BY_NAME)
    with application(bootstrap, {name: state.partitions for name, state in states.items()}) as changes:
        counts = _records(bootstrap, saved, states, changes, overwrite=overwrite)
    now = int(time.time() * 1000)
    adoptions = [_adoption(each, now) for each in _renewals(bootstrap, saved, states, least)]
    if adoptions:
        record_adoptions(bootstrap, states[ADOPTIONS.name].partitions, adoptions)
        create_topics(bootstrap)  # adopts what an older backup does not name
    return counts


def _renewals(bootstrap: str, saved: Saved, states: dict[str, TopicState], least: int) -> Iterable[Renewal]:
    current = load_adoptions(bootstrap) if ADOPTIONS.name in states else {}
    ids = {name: (state.topic_id, state.partitions) for name, state in states.items()}
    return renewals(saved.adoptions, ids, current, least)


def _adoption(renewal: Renewal, now: int) -> TopicAdopted:
    return TopicAdopted(
        topic=renewal.topic, topic_id=renewal.topic_id or "", generation=renewal.generation,
        partitions=renewal.partitions, adopted=now,
    )  # fmt: skip


def _records(
    bootstrap: str, saved: Saved, states: dict[str, TopicState], changes: Changes, *, overwrite: bool
) -> list[RecordCount]:
    ids = {each.topic: each.topic_id for each in saved.adoptions}
    counts: Counter[tuple[str, str, bool]] = Counter()
    for topic in SAVED:
        held = _held(bootstrap, topic.name, states)
        own = [record for record in saved.records if record.topic == topic.name]
        same = topic.name in states and states[topic.name].topic_id == ids.get(topic.name)
        for record, fate in decisions(own, held, same_topic=same, overwrite=overwrite):
            counts[topic.name, fate, record is not None] += 1
            if record is not None:
                changes.make(record, fate)
    changes.finish()
    return [
        RecordCount(topic=topic, fate=fate, records=count, written=written)
        for (topic, fate, written), count in counts.items()
    ]


def _held(bootstrap: str, name: str, states: dict[str, TopicState]) -> NewestByKey:
    if name not in states:
        return {}
    ends = end_offsets(bootstrap, name)
    with Advance(f"reading {name}", len(ends)) as advance:
        found, _ = newest_records(bootstrap, BY_NAME[name], states[name].partitions, ends, advance)
    return {record_key: record.value for record_key, record in found.items()}
