"""The outbox's table as the relay knows it; its definition for people is in docs/outbox.md."""

from sqlalchemy import BigInteger, Column, DateTime, Integer, MetaData, Table, Text


def outbox_table(metadata: MetaData, name: str) -> Table:
    """
    The table of that name, `SCHEMA.TABLE` where it has a schema.

    It waits while `relayed` and `error_code` are null.
    """
    schema, _, table = name.rpartition(".")
    return Table(
        table,
        metadata,
        Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
        Column("organization", Text, nullable=False),
        Column("asset_id", Text, nullable=False),
        Column("event", Text, nullable=False),
        Column("body", Text, nullable=False),
        Column("created", DateTime(timezone=True)),
        Column("relayed", DateTime(timezone=True)),
        Column("partition", Integer),
        Column("log_offset", BigInteger),
        Column("error_code", Text),
        Column("error_field", Text),
        Column("error_message", Text),
        schema=schema or None,
    )
