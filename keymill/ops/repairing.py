"""
Repair: what a replay found missing is asked for, asset by asset, of the owners of its partitions.

A request names every accepted event of the asset; the owner decides them again from nothing, so it cannot change a key.
"""

import time
import uuid
from collections.abc import Iterator, Mapping, Set
from typing import Final

from keymill.kafka.outgoing import Outgoing
from keymill.ops.changes import Changes
from keymill.ops.source import Source
from schemas import topics
from schemas.codec import encode
from schemas.operations import OwnerRequest, RequestKind

WHY: Final = "assets to repair"
Lacking = Mapping[int, Set[bytes]]
"""Record keys of the assets that lack a record, by partition."""


def ask(changes: Changes, assets: Source, lacking: Lacking) -> int:
    """Hand over a request for every asset; returns how many."""
    count = 0
    for record_key, request in _requests(assets, lacking):
        changes.make(Outgoing(topic=topics.REQUESTS.name, record_key=record_key, value=encode(request)), WHY)
        count += 1
    return count


def _requests(assets: Source, lacking: Lacking) -> Iterator[tuple[bytes, OwnerRequest]]:
    now = int(time.time() * 1000)
    for partition, record_keys in lacking.items():
        for record_key, offsets in _accepted(assets, partition, record_keys).items():
            organization, _, asset = record_key.decode("ascii").partition("/")
            yield (
                record_key,
                OwnerRequest(
                    organization=organization,
                    asset=asset,
                    kind=RequestKind.REPAIR,
                    generation=assets.adopted.generation,
                    offsets=tuple(offsets),
                    request_id=uuid.uuid4().hex,
                    requested=now,
                ),
            )


def _accepted(assets: Source, partition: int, record_keys: Set[bytes]) -> dict[bytes, list[int]]:
    """The offsets of every event of these assets that has no dead letter."""
    refused = assets.refused(partition)
    found: dict[bytes, list[int]] = {}
    for event in assets.events(partition):
        if event.key in record_keys and event.offset not in refused:
            found.setdefault(event.key or b"", []).append(event.offset)
    return found
