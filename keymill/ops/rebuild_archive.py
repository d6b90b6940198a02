"""`keymill rebuild archive`: an archive that was dropped, or lags, is filled from what the topics hold."""

import time
from contextlib import closing
from typing import Any

import typer

from connectors.main import run
from keymill.archive.reading import ArchiveReader
from keymill.archive.tables import ARCHIVED
from keymill.archive.writing import archive_url
from keymill.config import ConnectSettings
from keymill.errors import Misconfigured
from keymill.kafka.admin import end_offsets, require_topics
from keymill.ops.listing import print_json


def rebuild_archive(settings: ConnectSettings, *, apply: bool) -> dict[str, Any]:
    """
    Run the archive's connector until it has everything; nothing that is archived is ever taken out.

    Records of a former generation of a topic are in the archive alone: to begin anew, drop its database.
    """
    began, adopted = time.monotonic(), require_topics(settings.bootstrap, ARCHIVED)
    generations = {name: each.generation for name, each in adopted.items()}
    behind = _ends(settings.bootstrap) - _archived(settings, generations)
    if apply and behind:
        run("sql-archive", settings, once=True)
    seconds = round(time.monotonic() - began, 2)
    return {"topics": list(ARCHIVED), "offsets": behind, "applied": apply, "seconds": seconds}


def _ends(bootstrap: str) -> int:
    return sum(sum(end_offsets(bootstrap, name).values()) for name in ARCHIVED)


def _archived(settings: ConnectSettings, generations: dict[str, int]) -> int:
    try:
        reader = ArchiveReader(archive_url(settings.archive_url.get_secret_value(), settings.data))
    except Misconfigured:  # there is none
        return 0
    with closing(reader) as archive:
        current = [each for each in archive.topics() if generations.get(each.topic) == each.generation]
        return sum(sum(each.positions.values()) for each in current)


def show_archive(told: dict[str, Any], as_json: bool) -> None:
    """Print what was done, or will be."""
    if as_json:
        print_json(told)
        return
    done = "archived" if told["applied"] else "to archive"
    typer.echo(f"{told['offsets']} offsets of {len(told['topics'])} topics {done}, {told['seconds']} s")
    if not told["applied"]:
        typer.echo("nothing is written yet: repeat with --apply")
