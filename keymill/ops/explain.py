"""
`keymill explain WHAT`: where a key, an asset or a license comes from, and who asked for it.

    X-Request-Id of an answer → policy version → key record → claim → asset event → the request that sent it
"""

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from keymill.config import ProcessorSettings, load
from keymill.errors import InvalidRecord, UnknownKey
from keymill.ops.explaining import complete, with_audit, with_claims, with_events, with_policies
from keymill.ops.lineage import Answered, AssetLineage, EventTold, KeyLineage, RequestLineage
from keymill.ops.lineage_log import Log
from keymill.ops.lineage_view import asset_lineages, key_lineages, kid_of, organizations_of, view_of
from keymill.ops.listing import print_json
from keymill.ops.moment import Since, epoch_ms_of, shown
from keymill.ops.options import Bootstrap, File, Json
from keymill.ops.show_lineage import show
from keymill.snapshot.reader import SnapshotReader
from keymill.snapshot.reads import Reads

SINCE: Final = "24h"
LAST: Final = 10
MOST_KEYS: Final = 64
"""Keys of one answer whose lineage is told."""


class As(StrEnum):
    """What the argument is."""

    KID = "kid"
    ASSET = "asset"
    REQUEST = "request"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The command line, read. *organization* None: all that the view knows."""

    what: str
    kind: As | None
    organization: str | None
    since_ms: int
    last: int


def explain(
    what: Annotated[str, typer.Argument(help="KID in any UUID spelling, asset or org/asset, or an X-Request-Id")],
    settings: File = None,
    data: Annotated[Path | None, typer.Option("--data", help="data folder with a view")] = None,
    bootstrap: Bootstrap = None,
    organization: Annotated[str | None, typer.Option("--organization", help="all organizations if absent")] = None,
    kind: Annotated[As | None, typer.Option("--as", help="what WHAT is; found out if absent")] = None,
    since: Since = SINCE,
    last: Annotated[int, typer.Option("--last", min=0, help="licenses and key reads that are listed")] = LAST,
    as_json: Json = False,
) -> int:
    """
    Print where a key, an asset or a license comes from and who asked, with coordinates and times. Never the key.

    What the local view holds is printed in any case; when the log cannot be asked for the rest, the exit code says so.
    """
    loaded = load(ProcessorSettings, file=settings, data=data, bootstrap=bootstrap)
    now_ms = time.time_ns() // 1_000_000
    if what.count("/") == 1 and organization is None:
        organization, what, kind = (*what.split("/"), kind or As.ASSET)
    asked = Asked(
        what=what, kind=kind, organization=organization, since_ms=epoch_ms_of(since or SINCE, now_ms), last=last
    )
    lineage, code = _explained(asked, loaded)
    if as_json:
        print_json(lineage)
    else:
        show(lineage)
    return code


def _explained(asked: Asked, settings: ProcessorSettings) -> tuple[KeyLineage | AssetLineage | RequestLineage, int]:
    audit = (asked.since_ms, asked.last)
    with SnapshotReader(view_of(settings.data)).open(wait_s=0) as reader:
        with reader.at_once() as view:
            found = _in_view(view, asked)
        if isinstance(found, KeyLineage):
            return complete(found, settings, [with_events, with_claims, with_audit(*audit)])
        if isinstance(found, AssetLineage):
            return complete(found, settings, [with_events, with_claims, with_audit(*audit)])
        with Log(settings) as log:
            _tell_claims(log, asked, found)
            wanted = asked.what
            answers = log.audit(asked.since_ms, [wanted.encode()], lambda event: event.request_id == wanted)
        if not answers:
            raise UnknownKey(_nowhere(asked, found))
        with reader.at_once() as view:
            request = _request(view, wanted, answers)
        return complete(request, settings, [with_policies, with_events, with_claims, with_audit(*audit)])


def _in_view(view: Reads, asked: Asked) -> KeyLineage | AssetLineage | list[str]:
    """What the view knows by that name; the organizations that were looked at when it knows nothing."""
    organizations = [asked.organization] if asked.organization else organizations_of(view)
    kid = kid_of(asked.what)
    if asked.kind is As.KID and kid is None:
        raise InvalidRecord(f"{asked.what[:64]!r} is no KID: give 32 hex digits, dashes or not", field="kid")
    keys = key_lineages(view, kid, organizations) if kid and asked.kind in (None, As.KID) else []
    assets = asset_lineages(view, asked.what, organizations) if asked.kind in (None, As.ASSET) else []
    found = keys or assets
    if len(found) > 1:
        names = ", ".join(each.organization for each in found)
        raise InvalidRecord(f"{names} each have one: name one with --organization", field="organization")
    if not found and asked.kind is As.ASSET:
        raise UnknownKey(_nowhere(asked, organizations))
    return found[0] if found else organizations


def _tell_claims(log: Log, asked: Asked, organizations: list[str]) -> None:
    """
    A KID without a key may be spoken for: by an event that was refused for something else, or waits.

    Raises:
        UnknownKey: it is, or it was asked for as a KID and no log knows it.
    """
    kid = kid_of(asked.what)
    claims = log.claims(organizations, kid) if kid else {}
    for organization, claim in claims.items():
        place = f"{claim.place.topic}/{claim.place.partition}/{claim.place.offset}"
        raise UnknownKey(
            f"KID {asked.what} has no key. It was claimed for asset {organization}/{claim.asset}, key version "
            f"{claim.key_version}, at {claim.recorded} ({place}); the event that names it was refused for something "
            "else, or waits (`keymill dlq list`). No other asset or version can have it: docs/import.md"
        )
    if asked.kind is As.KID:
        raise UnknownKey(_nowhere(asked, organizations))


def _nowhere(asked: Asked, organizations: list[str]) -> str:
    looked = f"{asked.what[:128]} is not in the view; organizations looked at: {', '.join(organizations)}"
    if asked.kind in (As.KID, As.ASSET):
        return looked
    return f"{looked}; and no request of that id is in the audit topic since {shown(asked.since_ms)}: give --since"


def _request(view: Reads, request_id: str, answers: list[Answered]) -> RequestLineage:
    named = dict.fromkeys((each.organization, kid) for each in answers for kid in each.kids)
    keys = [key for name, kid in [*named][:MOST_KEYS] for key in key_lineages(view, kid_of(kid) or b"", [name])]
    named_assets = dict.fromkeys((each.organization, each.asset) for each in answers if each.asset and not each.kids)
    assets = [found for name, asset in named_assets for found in asset_lineages(view, asset, [name])]
    events = dict.fromkeys(each.event for each in answers if each.event)
    return RequestLineage(
        request_id=request_id,
        answers=tuple(answers),
        keys=tuple(keys),
        assets=tuple(msgspec.structs.replace(asset, events=()) for asset in assets),
        events=tuple(
            EventTold(topic=at.topic, generation=at.generation, partition=at.partition, offset=at.offset)
            for at in events
        ),
    )
