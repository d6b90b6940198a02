"""`keymill rebuild snapshot`: a view's folder is wiped and read anew."""

import time
from pathlib import Path
from typing import Any, Final

import msgspec
import typer

from keymill.errors import InvalidRecord, Misconfigured, NotReady
from keymill.kafka.admin import require_topics
from keymill.ops.listing import print_json
from keymill.ops.progress import Advance
from keymill.snapshot import store
from keymill.snapshot.follower import Follower
from keymill.snapshot.reader import SnapshotReader

LOOK_EVERY_S: Final = 0.1
LOCK_S: Final = 1.0
UNTRUSTED: Final = 0
"""A format that no release has."""


def rebuild_snapshot(
    folder: Path, bootstrap: str, key_file: Path, map_size: int, *, apply: bool, wait_s: int
) -> dict[str, Any]:
    """
    Wipe and fill. The topics are those that the view followed, or where a disk was lost with it, those that a view of
    the folder's name follows; they must be as adopted.

    Raises:
        InvalidRecord: the folder holds no view, and is neither gone nor empty under a name that says whose it was.
        Misconfigured: a follower writes it, or a topic is not what it must be.
        NotReady: it has not caught up in time; its program goes on where this ended.
    """
    manifest = store.read_manifest(folder)
    began = time.monotonic()
    if manifest is None:
        followed = _usual(folder)
        require_topics(bootstrap, followed)
    else:
        with store.hold(folder, LOCK_S):
            followed = _followed(folder)
            require_topics(bootstrap, followed)  # before anything is lost
            if apply:  # what no follower trusts is thrown away by the next one, and open readers move over
                store.write_manifest(folder, msgspec.structs.replace(manifest, format=UNTRUSTED))
    records = _fill(folder, followed, bootstrap, key_file, map_size, wait_s) if apply else 0
    seconds = round(time.monotonic() - began, 2)
    return {"folder": str(folder), "topics": followed, "applied": apply, "records": records, "seconds": seconds}


def _usual(folder: Path) -> list[str]:
    """What the program of that name follows, for a folder that went with its disk."""
    from keymill.gateway import app as gateway
    from keymill.proxy import main as proxy
    from streams import main as processor

    names = {"proxy": proxy.TOPICS, "gateway": gateway.VIEW, "processor": processor.VIEW}
    followed = names.get(folder.name.partition("-")[0])
    if followed is None or (folder.exists() and any(folder.iterdir())):
        raise InvalidRecord(f"{folder} holds no view: name DATA/views/NAME", field="folder")
    return sorted(followed)


def _followed(folder: Path) -> list[str]:
    with SnapshotReader(folder).open(wait_s=0) as reader, reader.at_once() as view:
        return sorted(view.positions())


def _fill(folder: Path, followed: list[str], bootstrap: str, key_file: Path, map_size: int, wait_s: int) -> int:
    until, client = time.monotonic() + wait_s, {"bootstrap.servers": bootstrap}
    with (
        Follower(folder, followed, client, key_file=key_file, map_size=map_size, log_level="warning") as child,
        SnapshotReader(folder) as reader,
        Advance("reading the view anew, records", None) as progress,
    ):
        done = 0
        while not (state := reader.state()).live:
            child.tend()
            if reason := child.failure or state.error:
                raise Misconfigured(reason)
            if time.monotonic() > until:
                raise NotReady(f"the view {folder} is {state.behind} records behind after {wait_s} s")
            time.sleep(LOOK_EVERY_S)
            reached = sum(sum(each.values()) for each in state.positions.values())
            progress.step(reached - done)
            done = reached
        return sum(sum(each.values()) for each in reader.state().positions.values())


def show_snapshot(told: dict[str, Any], as_json: bool) -> None:
    """Print what was done, or will be."""
    if as_json:
        print_json(told)
    elif told["applied"]:
        typer.echo(f"{told['folder']}: {told['records']} records of {len(told['topics'])} topics, {told['seconds']} s")
    else:
        typer.echo(f"{told['folder']} will be wiped and read anew from {', '.join(told['topics'])}")
        typer.echo("nothing is done yet: repeat with --apply")
