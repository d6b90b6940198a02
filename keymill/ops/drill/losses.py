"""What the drill loses, and by which command of the runbook it comes back."""

import time
from collections.abc import Callable
from typing import Final

import jwt
import msgspec
from kafka import KafkaAdminClient

from keymill.drm.clearkey import base64url
from keymill.ops.demo.run import Story
from keymill.ops.demo_organization import ORGANIZATION
from keymill.ops.drill import library
from keymill.ops.drill.library import Title
from keymill.ops.drill.site import Site
from keymill.ops.token_keys import algorithm_of, key_id_of, signing_key
from schemas import topics

SAMPLE: Final = 500
"""Titles that players ask for, spread over the library."""
TOKEN_S: Final = 7200


def lose_key_topic(here: Site, story: Story) -> None:
    """The key topic is deleted; `keymill rebuild keys` makes it again from events, claims and roots."""
    here.stop("processor", "gateway", "archive")
    client = KafkaAdminClient(bootstrap_servers=here.bootstrap)
    client.delete_topics([topics.KEYS.name])
    client.close()
    story.tell("lost", f"{topics.KEYS.name} is deleted; the processor stands still")
    began = time.monotonic()
    here.run("rebuild", "keys", "--apply")
    story.tell("rebuilt", f"keymill rebuild keys: {time.monotonic() - began:.1f} s")
    here.start("processor", "gateway")
    here.await_caught_up("survivor")


def lose_disk(here: Site, story: Story) -> None:
    """The second proxy's disk is wiped; `keymill rebuild snapshot` fills it from the topics."""
    here.stop("second")
    here.wipe(here.second)
    story.tell("lost", "the second proxy's disk")
    began = time.monotonic()
    here.run("rebuild", "snapshot", str(here.second / "views" / "proxy"), "--apply")
    here.start("second")
    story.tell("rebuilt", f"keymill rebuild snapshot: ready after {time.monotonic() - began:.1f} s")


def lose_archive(here: Site, story: Story) -> None:
    """The archive is dropped; `keymill rebuild archive` fills it from the topics."""
    for file in here.data.glob("archive.sqlite*"):
        file.unlink()
    story.tell("lost", "the SQL archive")
    began = time.monotonic()
    here.run("rebuild", "archive", "--apply")
    here.start("archive")
    story.tell("rebuilt", f"keymill rebuild archive: {time.monotonic() - began:.1f} s")


def rotate_kek(here: Site, story: Story) -> None:
    """The KEK is replaced: every key record is wrapped again, and proxies forget the old one."""
    began = time.monotonic()
    epoch = here.run("rotate-kek", "--organization", ORGANIZATION, "--json", good=(1,))["epoch"]
    here.run("rotate-kek", "--organization", ORGANIZATION, "--to", str(epoch), "--apply")
    story.tell("rotated", f"keymill rotate-kek: {time.monotonic() - began:.1f} s")


LOSSES: Final[tuple[Callable[[Site, Story], None], ...]] = (lose_key_topic, lose_disk, lose_archive, rotate_kek)


def wishes(here: Site, titles: list[Title]) -> list[tuple[str, bytes, dict[str, str]]]:
    """A license of each of some titles, with what is known of its keys: all of an imported one."""
    step = max(1, len(titles) // SAMPLE)
    _, key = signing_key(here.data, ORGANIZATION)
    assert key is not None
    headers, expires = {"kid": key_id_of(key.public_key())}, int(time.time()) + TOKEN_S
    found = []
    for title in titles[::step] + [title for title in titles if title.imported][: SAMPLE // 10]:
        claims = {"organization": ORGANIZATION, "asset": title.asset, "exp": expires}
        token = jwt.encode(claims, key, algorithm=algorithm_of(key.public_key()), headers=headers)
        kids = here.kids_of(title.asset)
        known = dict.fromkeys(kids, "")
        if title.imported:
            known[base64url(title.imported.bytes).decode()] = library.imported_key(title.imported)
        url = f"{here.programs['survivor'].url}/clearkey/{ORGANIZATION}/{title.asset}?token={token}"
        found.append((url, msgspec.json.encode({"kids": list(known), "type": "temporary"}), known))
    return found
