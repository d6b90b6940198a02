"""Alembic's entry: runs the migrations on the connection that `keymill.archive.migrate` hands over."""

from alembic import context

from keymill.archive.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transactional_ddl=False,  # the caller's transaction holds the lock and everything else
)
context.run_migrations()
