"""Requests to the owners of partitions, and what tells that they were executed."""

import time
import uuid
from collections.abc import Iterator
from itertools import count
from typing import Final

from keymill.kafka.admin import end_offsets, group_offsets
from keymill.kafka.producer import Outgoing
from keymill.ops.changes import Changes
from schemas import topics
from schemas.codec import encode
from schemas.ids import asset_key
from schemas.operations import OwnerRequest, RequestKind

WHY_REWRAP: Final = "wrap an asset's keys again"
WHY_BARRIER: Final = "have every owner pass the activation"


def rewrap_request(organization: str, asset: str, epoch: int) -> Outgoing:
    """Ask the owner to wrap the asset's key records below *epoch* under it."""
    request = OwnerRequest(
        organization=organization,
        asset=asset,
        kind=RequestKind.REWRAP,
        kek_epoch=epoch,
        request_id=f"rewrap-{uuid.uuid4().hex}",
        requested=time.time_ns() // 1_000_000,
    )
    return Outgoing(topic=topics.REQUESTS.name, record_key=asset_key(organization, asset), value=encode(request))


def barriers(organization: str, epoch: int, partitions: int) -> Iterator[Outgoing]:
    """
    A request for every partition that calls for nothing: it names an asset that there is not.

    An owner executes it in turn with its runs, so whatever it decided before is written when this is committed.
    """
    open_ = set(range(partitions))
    for number in count():
        request = rewrap_request(organization, f"barrier-of-rotate-kek-{number}", epoch)
        place = topics.partition_of(topics.REQUESTS, request.record_key, partitions)
        if place in open_:
            open_.remove(place)
            yield request
        if not open_:
            return


def send_barriers(changes: Changes, organization: str, epoch: int, partitions: int) -> None:
    """Publish a barrier on every partition."""
    for request in barriers(organization, epoch, partitions):
        changes.make(request, WHY_BARRIER)
    changes.finish()


def unexecuted(bootstrap: str, group: str, ends: dict[int, int]) -> list[int]:
    """Partitions of which the owners have not executed every request below *ends*."""
    done = group_offsets(bootstrap, group)
    return [number for number, end in ends.items() if done.get((topics.REQUESTS.name, number), 0) < end]


def request_ends(bootstrap: str) -> dict[int, int]:
    """Where the partitions of the requests end now."""
    return end_offsets(bootstrap, topics.REQUESTS.name)
