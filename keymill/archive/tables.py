"""
The archive's tables: a row for every record that was ever seen, as it was, with the columns that people ask by.

A record's place is (topic, generation, partition, offset), the primary key everywhere. `value` and `headers` are the
record's own; the decoded columns are null, and `problem` says why, where no released schema can read it. Numbers are
64 bits, times epoch milliseconds, KIDs lower-case and dashed. The schema changes by migrations alone; a test holds
these definitions to them.
"""

from typing import Final

from sqlalchemy import BigInteger, Column, Index, LargeBinary, MetaData, Table, Text

from schemas import topics

METADATA: Final = MetaData()
PLACE: Final = ("topic", "generation", "partition", "record_offset")


def _place() -> list[Column[object]]:
    places: list[Column[object]] = [Column("topic", Text, primary_key=True)]
    return places + [Column(name, BigInteger, primary_key=True, autoincrement=False) for name in PLACE[1:]]


def _records(name: str, *columns: Column[object]) -> Table:
    own: list[Column[object]] = [
        Column("record_time", BigInteger, nullable=False, index=True),
        Column("record_key", LargeBinary),
        Column("value", LargeBinary),
        Column("headers", Text),
        Column("problem", Text),
    ]
    return Table(name, METADATA, *_place(), *own, *columns)


def _texts(*names: str) -> list[Column[object]]:
    return [Column(name, Text) for name in names]


def _numbers(*names: str) -> list[Column[object]]:
    return [Column(name, BigInteger) for name in names]


ASSET_EVENTS: Final = _records(
    "asset_events",
    *_texts("organization", "asset", "event_id", "event_type"),
    *_numbers("event_time", "key_version", "policy_id"),
)
ASSET_RECORDS: Final = _records(
    "asset_records",
    *_texts("organization", "asset", "state", "product_id"),
    *_numbers("policy_id", "key_version", "available_from", "available_until", "applied_generation", "applied_offset"),
)
CLAIMS: Final = _records(
    "claims",
    *_texts("organization", "kid", "asset", "label", "scheme", "fp"),
    *_numbers("key_version", "root_version", "event_generation", "event_offset"),
)
KEY_RECORDS: Final = _records(
    "key_records",
    *_texts("organization", "asset"),
    *_numbers("key_version", "root_version", "kek_epoch", "period_index", "event_generation", "event_offset"),
)
KEY_TRACKS: Final = Table(
    "key_tracks",
    METADATA,
    *_place(),
    Column("track", BigInteger, primary_key=True, autoincrement=False),
    *_texts("organization", "kid", "asset", "label", "scheme", "origin", "fp"),
    *_numbers("key_version", "kek_epoch", "period_index"),
)
POLICIES: Final = _records(
    "policies",
    *_texts("organization", "name", "state"),
    *_numbers("policy_id", "version", "created", "changed", "applied_generation", "applied_offset"),
)
POLICY_CHANGES: Final = _records(
    "policy_changes",
    *_texts("organization", "request_id", "change_type", "name"),
    *_numbers("policy_id", "event_time"),
)
DEAD_LETTERS: Final = _records(
    "dead_letters",
    *_texts("source_topic", "reason", "field", "message", "organization", "asset", "event_id", "request_id"),
    *_numbers("source_partition", "source_generation", "source_offset", "source_time"),
)
for _table in (ASSET_EVENTS, ASSET_RECORDS, CLAIMS, KEY_RECORDS, DEAD_LETTERS):
    Index(f"ix_{_table.name}_asset", _table.c.organization, _table.c.asset)
Index("ix_key_tracks_kid", KEY_TRACKS.c.kid)
Index("ix_claims_kid", CLAIMS.c.kid)
Index("ix_policies_policy", POLICIES.c.organization, POLICIES.c.policy_id)

POSITIONS: Final = Table(
    "positions",
    METADATA,
    Column("topic", Text, primary_key=True),
    Column("generation", BigInteger, primary_key=True, autoincrement=False),
    Column("partition", BigInteger, primary_key=True, autoincrement=False),
    Column("topic_id", Text, nullable=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("leader_epoch", BigInteger, nullable=False),
    Column("moved", BigInteger, nullable=False),
)
"""How far each partition is archived: everything below `next_offset`, as of `moved` (epoch ms)."""

TABLES_OF: Final[dict[str, tuple[Table, ...]]] = {
    topics.ASSETS.name: (ASSET_EVENTS,),
    topics.KEYS.name: (ASSET_RECORDS, KEY_RECORDS),
    topics.CLAIMS.name: (CLAIMS,),
    topics.POLICY_CHANGES.name: (POLICY_CHANGES,),
    topics.POLICIES.name: (POLICIES,),
    topics.DEAD_LETTERS.name: (DEAD_LETTERS,),
}
ARCHIVED: Final = tuple(TABLES_OF)
"""The topics that the archive keeps."""
