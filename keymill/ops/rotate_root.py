"""`keymill rotate-root`: a new root for an organization, announced ahead; what exists keeps its own."""

import re
import time
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from keymill.config import Settings, load
from keymill.errors import InvalidRecord
from keymill.kms.keyfile import KeyFile
from keymill.kms.rotation import MIN_AHEAD_MS, add_root
from keymill.ops.listing import print_json
from keymill.ops.options import Data, File, Json, KeyFileOption

AHEAD: Final = re.compile(r"\+(\d{1,6})([mhd])")
UNIT_MS: Final = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}
DIFFERENT: Final = 1


def rotate_root(
    organization: Annotated[str, typer.Option("--organization", help="whose root")],
    activates: Annotated[str, typer.Option("--activates", help="RFC 3339 time, or +24h, +90m, +2d from now")],
    apply: Annotated[bool, typer.Option("--apply", help="do it; without it the plan is shown")] = False,
    settings: File = None,
    data: Data = None,
    key_file: KeyFileOption = None,
    as_json: Json = False,
) -> int:
    """
    Announce a root version, from which the key versions that begin after its time derive; existing ones never change.

    At least one hour ahead: every processor must know it when the first event comes.
    """
    path = load(Settings, file=settings, data=data, key_file=key_file).keys_path
    now = time.time_ns() // 1_000_000
    at = time_of(activates, now)
    schedule = KeyFile(path).schedule(organization)
    if at < now + MIN_AHEAD_MS:
        raise InvalidRecord("--activates: a root is announced at least one hour ahead", field="activates")
    version = add_root(path, organization, at, now_ms=now) if apply else schedule[-1].root_version + 1
    told = {"organization": organization, "root_version": version, "activates": rfc3339_of(at), "applied": apply}
    if as_json:
        print_json(told)
    else:
        typer.echo(f"root version {version} of {organization}: key versions that begin from {rfc3339_of(at)} on pin it")
        typer.echo("back the key file up now" if apply else "nothing is written yet: repeat with --apply")
    return 0 if apply else DIFFERENT


def time_of(text: str, now_ms: int) -> int:
    """Epoch ms of an RFC 3339 time, or of a span from now, up to the next whole second: +1h is an hour at least."""
    if ahead := AHEAD.fullmatch(text):
        return -(-(now_ms + int(ahead[1]) * UNIT_MS[ahead[2]]) // 1000) * 1000
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        message = f"--activates {text!r} is no RFC 3339 time with a zone (2026-01-31T12:00:00Z) and no span like +24h"
        raise InvalidRecord(message, field="activates")
    return int(at.timestamp()) * 1000


def rfc3339_of(time_ms: int) -> str:
    """A time as it is shown."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
