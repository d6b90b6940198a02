"""`keymill claims`: KIDs that were claimed by events which were refused, and their release."""

from contextlib import nullcontext
from typing import Annotated, Final

import typer

from keymill.config import ProcessorSettings, load
from keymill.core.claim_log import release_of
from keymill.errors import InvalidRecord, NotReady
from keymill.kafka.admin import group_state, require_topics
from keymill.kafka.outgoing import Outgoing
from keymill.kafka.scan import Scanner
from keymill.ops import orphaned, source
from keymill.ops.address import bootstrap_of
from keymill.ops.changes import Plan, application
from keymill.ops.groups import require_empty
from keymill.ops.listing import print_json, print_listing
from keymill.ops.options import Bootstrap, Data, File, Json
from keymill.ops.orphaned import Orphan
from keymill.ops.source import Source
from schemas import ids, topics
from schemas.codec import encode
from schemas.ids import claim_key
from schemas.records import Claim

DIFFERENT: Final = 1
WAIT_S: Final = 60
"""Longer than the session timeout, which a static member stays in the group after its process has ended."""
WHY: Final = "claims to release"

Wait = Annotated[int, typer.Option("--wait", min=0, help="seconds to wait for the processor group to become empty")]

app = typer.Typer(no_args_is_help=True, help="Claims of KIDs that callers chose or brought.")


@app.callback()
def claims() -> None:
    """Claims of KIDs that callers chose or brought."""


@app.command("release")
def release(
    kid: Annotated[list[str] | None, typer.Option("--kid", help="only this KID; may be given several times")] = None,
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    apply: Annotated[bool, typer.Option("--apply", help="do it; without it the plan is shown")] = False,
    wait_s: Wait = WAIT_S,
    as_json: Json = False,
) -> int:
    """
    Release KIDs that an event claimed before it was refused: nobody has them, and everybody else is refused them.

    A KID that a key record or an asset ever had is never released. The processors must be stopped; whoever claims the
    KID first after that has it.
    """
    wanted = {ids.kid_of(each, "kid") for each in kid or ()}
    loaded = load(ProcessorSettings, file=settings, data=data, bootstrap=bootstrap)
    brokers = bootstrap_of(loaded)
    if apply:
        require_empty(brokers, loaded.group, wait_s)
    adopted = require_topics(brokers, [topics.CLAIMS.name])[topics.CLAIMS.name]
    with Scanner(brokers) as scanner:
        read = Source.open(scanner, brokers, source.ASSETS)
        facts = orphaned.read(read, brokers, loaded.group)
        found = [each for each in facts.orphans() if not wanted or each.kid in wanted]
        if lacking := wanted - {each.kid for each in found}:
            message = f"KID {min(lacking).hex()} is no orphan: `keymill explain` says whose it is"
            raise InvalidRecord(message, field="kid")
        if apply:
            facts.require_committed()
        with (
            application(brokers, {topics.CLAIMS.name: adopted.partitions}) if apply else nullcontext(Plan()) as changes
        ):
            for claim in found:
                changes.make(_outgoing(claim, adopted.partitions), WHY)
            changes.finish()
    if apply and found:
        _require_still_empty(brokers, loaded.group)
    _show([Orphan.of(claim, read.partitions) for claim in found], apply, as_json)
    return DIFFERENT if found and not apply else 0


def _require_still_empty(brokers: str, group: str) -> None:
    """A processor that started meanwhile may decide before it has read the releases."""
    if not group_state(brokers, group).empty:
        message = (
            f"claims are released, but a processor joined {group} meanwhile: restart it now, and repeat the command"
        )
        raise NotReady(message)


def _outgoing(claim: Claim, partitions: int) -> Outgoing:
    record_key = claim_key(claim.organization, claim.kid)
    return Outgoing(
        topic=topics.CLAIMS.name,
        record_key=record_key,
        value=encode(release_of(claim)),
        partition=topics.partition_of(topics.CLAIMS, record_key, partitions),
    )


def _show(found: list[Orphan], applied: bool, as_json: bool) -> None:
    rows = [each._asdict() for each in found]
    if as_json:
        print_json({"orphans": rows, "applied": applied})
        return
    print_listing(Orphan._fields, rows, as_json=False)
    if not found:
        typer.echo("no claim is orphaned")
    elif applied:
        typer.echo(f"{len(found)} KIDs are released: start the processors")
    else:
        typer.echo("nothing is written yet: stop the processors, and repeat with --apply")
