"""How the drill's library comes in: outbox rows, a CSV of existing keys, policies that change meanwhile."""

import json
from datetime import UTC, datetime

from sqlalchemy import MetaData, create_engine, func, insert, select

from connectors.outbox_table import outbox_table
from keymill.errors import Corrupt
from keymill.ops.demo.run import Story
from keymill.ops.demo_organization import ORGANIZATION
from keymill.ops.drill import library
from keymill.ops.drill.library import Title
from keymill.ops.drill.site import Site, wait_for

TABLE = "keymill_outbox"
PREPARED_ROWS = 1000


def prepare(here: Site) -> None:
    """The outbox's database, which the ingest system owns."""
    engine = create_engine(here.outbox)
    metadata = MetaData()
    outbox_table(metadata, TABLE)
    metadata.create_all(engine)
    engine.dispose()


def ingest(here: Site, titles: list[Title], story: Story) -> None:
    """Everything comes in; returns when the processor has decided all of it, and none was refused."""
    for number in range(1, library.POLICIES + 1):
        _put_policy(here, number, None, duration_s=3600 * number)
    _write_rows(here, titles)
    wait_for("the outbox is relayed", lambda: not _waiting(here))
    story.tell("outbox", f"{len(titles)} assets relayed")
    keys = here.data / "existing-keys.csv"
    count = library.write_keys(keys, titles)
    here.run("import", "csv", str(keys), "--organization", ORGANIZATION, "--apply")
    story.tell("import", f"{count} existing keys")
    for number in range(1, library.POLICIES + 1):
        _put_policy(here, number, number, duration_s=7200 * number)
    story.tell("policies", f"{library.POLICIES} made and changed")
    _refuse_none(here)


def _write_rows(here: Site, titles: list[Title]) -> None:
    """As an ingest system does it: in transactions of its own."""
    engine = create_engine(here.outbox)
    table = outbox_table(MetaData(), TABLE)
    for start in range(0, len(titles), PREPARED_ROWS):
        rows = [
            {
                "organization": ORGANIZATION,
                "asset_id": title.asset,
                "event": "ingest",
                "body": json.dumps(title.body()),
                "created": datetime.now(UTC),
            }
            for title in titles[start : start + PREPARED_ROWS]
        ]
        with engine.begin() as transaction:
            transaction.execute(insert(table), rows)
    engine.dispose()


def _waiting(here: Site) -> int:
    table = outbox_table(MetaData(), TABLE)
    open_rows = select(func.count()).where(table.c.relayed.is_(None), table.c.error_code.is_(None))
    engine = create_engine(here.outbox)
    with engine.connect() as connection:
        count = int(connection.execute(open_rows).scalar_one())
    engine.dispose()
    return count


def _put_policy(here: Site, number: int, policy_id: int | None, *, duration_s: int) -> None:
    document = here.data / f"policy-{number}.json"
    document.write_text(json.dumps({"can_play": True, "license_duration_s": duration_s}))
    replaced = ("--policy-id", str(policy_id)) if policy_id is not None else ()
    here.run("policy", "import", str(document), "--organization", ORGANIZATION, "--name", f"tier {number}", *replaced)


def _refuse_none(here: Site) -> None:
    if letters := here.run("dlq", "list", "--json"):
        raise Corrupt(f"{len(letters)} events were refused, such as {letters[0]}")
