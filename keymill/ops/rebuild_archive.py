"""`keymill rebuild archive`: an archive that was dropped, or lags, is filled from what the topics hold."""

import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import typer
from sqlalchemy import URL

from connectors.main import run
from keymill.archive.reading import ArchiveReader, is_archive
from keymill.archive.tables import ARCHIVED
from keymill.archive.writing import archive_url
from keymill.config import ConnectSettings
from keymill.kafka.admin import end_offsets, require_topics
from keymill.ops.listing import print_json


def rebuild_archive(settings: ConnectSettings, *, apply: bool) -> dict[str, Any]:
    """
    Run the archive's connector until it has everything; nothing that is archived is ever taken out.

    Records of a former generation of a topic are in the archive alone: to begin anew, drop its database. `left` are
    offsets that are still lacking, since nothing was applied, or a signal stopped it.
    """
    began, adopted = time.monotonic(), require_topics(settings.bootstrap, ARCHIVED)
    url = archive_url(settings.archive_url.get_secret_value(), settings.data)
    generations = {name: each.generation for name, each in adopted.items()}
    ends = {name: end_offsets(settings.bootstrap, name) for name in ARCHIVED}
    behind = left = _lacking(ends, url, generations)
    if apply and behind:
        run("sql-archive", settings, once=True)
        left = _lacking(ends, url, generations)
    seconds = round(time.monotonic() - began, 2)
    return {"topics": list(ARCHIVED), "offsets": behind, "left": left, "applied": apply, "seconds": seconds}


def _lacking(ends: Mapping[str, Mapping[int, int]], url: URL, generations: Mapping[str, int]) -> int:
    """Offsets below *ends* that are not archived."""
    reached: dict[str, dict[int, int]] = {}
    if is_archive(url):
        with closing(ArchiveReader(url)) as archive:
            current = [each for each in archive.topics() if generations.get(each.topic) == each.generation]
            reached = {each.topic: each.positions for each in current}
    return sum(
        max(0, end - reached.get(name, {}).get(number, 0))
        for name, places in ends.items()
        for number, end in places.items()
    )


def show_archive(told: dict[str, Any], as_json: bool) -> None:
    """Print what was done, or will be."""
    if as_json:
        print_json(told)
        return
    done = "archived" if told["applied"] else "to archive"
    count = told["offsets"] - (told["left"] if told["applied"] else 0)
    typer.echo(f"{count} offsets of {len(told['topics'])} topics {done}, {told['seconds']} s")
    if told["left"]:
        before = f"{told['left']} are left" if told["applied"] else "nothing is written yet"
        typer.echo(f"{before}: repeat with --apply")
