"""The first schema: eight kinds of rows, the positions, and the views that people ask."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

PLACE: Final = ("generation", "partition", "record_offset")
TEXTS: Final = {
    "asset_events": ("organization", "asset", "event_id", "event_type"),
    "asset_records": ("organization", "asset", "state", "product_id"),
    "claims": ("organization", "kid", "asset", "label", "scheme", "fp"),
    "key_records": ("organization", "asset"),
    "policies": ("organization", "name", "state"),
    "policy_changes": ("organization", "request_id", "change_type", "name"),
    "dead_letters": (
        "source_topic", "reason", "field", "message", "organization", "asset", "event_id", "request_id",
    ),
}  # fmt: skip
NUMBERS: Final = {
    "asset_events": ("event_time", "key_version", "policy_id"),
    "asset_records": (
        "policy_id", "key_version", "available_from", "available_until", "applied_generation", "applied_offset",
    ),
    "claims": ("key_version", "root_version", "event_generation", "event_offset"),
    "key_records": (
        "key_version", "root_version", "kek_epoch", "period_index", "event_generation", "event_offset",
    ),
    "policies": ("policy_id", "version", "created", "changed", "applied_generation", "applied_offset"),
    "policy_changes": ("policy_id", "event_time"),
    "dead_letters": ("source_partition", "source_generation", "source_offset", "source_time"),
}  # fmt: skip
BY_ASSET: Final = ("asset_events", "asset_records", "claims", "key_records", "dead_letters")

ASSETS_CURRENT: Final = """
SELECT a.organization, a.asset, a.state, a.key_version, a.policy_id, p.name AS policy_name, p.version AS policy_version,
       p.state AS policy_state, a.product_id, a.available_from, a.available_until, a.record_time, {a.at} AS at,
       a.generation, a.partition, a.record_offset
FROM (SELECT asset_records.*, row_number() OVER (PARTITION BY organization, asset
          ORDER BY applied_generation DESC, applied_offset DESC, generation DESC, record_offset DESC) AS place
      FROM asset_records WHERE organization IS NOT NULL) a
LEFT JOIN policies_current p ON p.organization = a.organization AND p.policy_id = a.policy_id
WHERE a.place = 1
"""
POLICIES_CURRENT: Final = """
SELECT p.organization, p.policy_id, p.version, p.state, p.name, p.record_time, {p.at} AS at, p.generation, p.partition,
       p.record_offset
FROM (SELECT policies.*, row_number() OVER (PARTITION BY organization, policy_id
          ORDER BY applied_generation DESC, applied_offset DESC, generation DESC, record_offset DESC) AS place
      FROM policies WHERE organization IS NOT NULL) p
WHERE p.place = 1
"""
KEYS_BY_KID: Final = """
SELECT k.kid, k.organization, k.asset, k.key_version, k.period_index, k.label, k.scheme, k.origin, k.fp, k.kek_epoch,
       r.root_version, r.event_generation, r.event_offset, r.record_time, {r.at} AS at, k.generation, k.partition,
       k.record_offset
FROM (SELECT key_tracks.*, row_number() OVER (PARTITION BY kid, organization
          ORDER BY kek_epoch DESC, generation DESC, record_offset DESC, track) AS place FROM key_tracks) k
JOIN key_records r ON r.topic = k.topic AND r.generation = k.generation AND r.partition = k.partition
     AND r.record_offset = k.record_offset
WHERE k.place = 1
"""
CHANGE: Final = """
SELECT record_time, {at} AS at, organization, {subject} AS subject, {what} AS what, topic, generation, partition,
       record_offset
FROM {table}
"""
CHANGES: Final = (
    ("asset_events", "asset", "event_type"),
    ("asset_records", "asset", "'AssetRecord ' || state"),
    ("claims", "asset", "'Claim ' || kid"),
    ("key_records", "asset", "'KeyRecord'"),
    ("policy_changes", "name", "change_type"),
    ("policies", "name", "'PolicyRecord ' || version"),
    ("dead_letters", "asset", "'DeadLetter ' || reason"),
)
REFUSALS: Final = """
SELECT record_time, {at} AS at, organization, asset, event_id, request_id, reason, field, message, source_topic,
       source_generation, source_partition, source_offset
FROM dead_letters
"""


def upgrade() -> None:
    """Make everything."""
    for name in TEXTS:
        _record_table(name)
    _key_tracks()
    _positions()
    for name in BY_ASSET:
        op.create_index(f"ix_{name}_asset", name, ["organization", "asset"])
    op.create_index("ix_key_tracks_kid", "key_tracks", ["kid"])
    op.create_index("ix_claims_kid", "claims", ["kid"])
    op.create_index("ix_policies_policy", "policies", ["organization", "policy_id"])
    _views()


def _place() -> list[sa.Column[object]]:
    places: list[sa.Column[object]] = [sa.Column("topic", sa.Text, primary_key=True)]
    return places + [sa.Column(name, sa.BigInteger, primary_key=True, autoincrement=False) for name in PLACE]


def _record_table(name: str) -> None:
    op.create_table(
        name,
        *_place(),
        sa.Column("record_time", sa.BigInteger, nullable=False),
        sa.Column("record_key", sa.LargeBinary),
        sa.Column("value", sa.LargeBinary),
        sa.Column("headers", sa.Text),
        sa.Column("problem", sa.Text),
        *(sa.Column(column, sa.Text) for column in TEXTS[name]),
        *(sa.Column(column, sa.BigInteger) for column in NUMBERS[name]),
    )
    op.create_index(f"ix_{name}_record_time", name, ["record_time"])


def _key_tracks() -> None:
    texts = ("organization", "kid", "asset", "label", "scheme", "origin", "fp")
    op.create_table(
        "key_tracks",
        *_place(),
        sa.Column("track", sa.BigInteger, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.Text) for name in texts),
        *(sa.Column(name, sa.BigInteger) for name in ("key_version", "kek_epoch", "period_index")),
    )


def _positions() -> None:
    op.create_table(
        "positions",
        sa.Column("topic", sa.Text, primary_key=True),
        sa.Column("generation", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("partition", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("topic_id", sa.Text, nullable=False),
        sa.Column("next_offset", sa.BigInteger, nullable=False),
        sa.Column("leader_epoch", sa.BigInteger, nullable=False),
        sa.Column("moved", sa.BigInteger, nullable=False),
    )


class _At:
    """The record's time as text, in UTC with milliseconds: `{r.at}` of a table that a view calls r."""

    def __init__(self, dialect: str, prefix: str = "") -> None:
        time = f"{prefix}record_time"
        self.at = (
            f"to_char(to_timestamp({time} / 1000.0) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
            if dialect == "postgresql"
            else f"strftime('%Y-%m-%dT%H:%M:%fZ', {time} / 1000.0, 'unixepoch')"
        )


def _views() -> None:
    dialect = op.get_context().dialect.name
    at = _At(dialect).at
    named = {name: _At(dialect, f"{name}.") for name in ("a", "p", "r")}
    changes = " UNION ALL ".join(
        CHANGE.format(at=at, table=table, subject=subject, what=what) for table, subject, what in CHANGES
    )
    views = {
        "policies_current": POLICIES_CURRENT.format(**named),
        "assets_current": ASSETS_CURRENT.format(**named),
        "keys_by_kid": KEYS_BY_KID.format(**named),
        "changes": changes,
        "refusals": REFUSALS.format(at=at),
    }
    for name, query in views.items():
        op.execute(f"CREATE VIEW {name} AS {query}")
