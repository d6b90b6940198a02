"""
The owner's agent: requests of ops become acknowledged key and asset records, or dead letters.

What it decides is in `streams.decide_requests`. It writes where the provisioner writes, so both share one
`streams.owner.Owner`; requests and asset events have equal partition counts and the group assigns by range, so equal
numbers are one worker's.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from keymill.core.view import KidOwner
from schemas import topics
from schemas.codec import decode
from schemas.ids import key_set_key
from schemas.records import AssetRecord, KeyRecord
from streams.claimant import Kids
from streams.decide_requests import Decided, Decider, Lookup
from streams.owner import Owner
from streams.publish import Agent
from streams.runs import RawRecord, Run

ReadEvents = Callable[[int, Sequence[int]], dict[int, RawRecord]]
"""Those of the given offsets of the asset topic's partition that exist, by offset. Blocking."""


TURN_S: Final = 0.1
"""How long the provisioner is kept from writing while the view reads back what was written; it takes milliseconds."""


class Written(Kids):
    """What the view holds."""

    def asset(self, organization: str, asset: str) -> AssetRecord | None:
        """See `streams.decide.Lookup`."""
        return self._reader.asset(organization, asset)

    def has(self, record_key: bytes) -> bool:
        """See `streams.decide.Lookup`."""
        return self._reader.has(topics.KEYS.name, record_key)

    def key_records(self, organization: str, asset: str) -> Mapping[bytes, KeyRecord]:
        """See `streams.decide_requests.Lookup`."""
        with self._reader.at_once() as view:
            found = view.scan(topics.KEYS.name, key_set_key(organization, asset, b""))
            return {record_key: decode(value, KeyRecord) for record_key, _, value in found}

    def owners(self, organization: str, kids: Iterable[bytes]) -> Mapping[bytes, KidOwner]:
        """See `streams.decide_requests.Lookup`."""
        with self._reader.at_once() as view:
            found = {kid: view.owner(organization, kid) for kid in kids}
        return {kid: KidOwner(asset=each.asset, fp=each.fp) for kid, each in found.items() if each is not None}


class Requester(Agent[AssetRecord, Decided, Lookup]):
    """
    Handles runs of the topic of requests.

    Args:
        read: reads the asset events that a run's repairs name, all in one go.
    """

    source = topics.REQUESTS
    pause_s = 1.0

    def __init__(self, *, decider: Decider, owner: Owner[AssetRecord], partitions: int, read: ReadEvents) -> None:
        super().__init__(decider=decider, owner=owner, partitions=partitions)
        self._requests = decider
        self._read = read

    def known(self, owner: Owner[AssetRecord], partitions: int) -> Lookup:
        """The view alone: `settle` has it read everything back first."""
        return Written(owner.reader)

    async def begin(self, run: Run) -> Decided:
        """See `Agent`."""
        self.owner.require(run.partition)
        offsets = self._requests.wanted(run)
        return Decided(await asyncio.to_thread(self._read, run.partition, offsets) if offsets else {})

    async def settle(self, partition: int) -> bool:
        """See `Agent`. A view that stands still, as behind a pinned log, must not keep asset events waiting."""
        try:
            async with asyncio.timeout(TURN_S):
                await self.owner.read_all_back(partition)
        except TimeoutError:
            return False
        return True
