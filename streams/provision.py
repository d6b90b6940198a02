"""
The provision agent: a run of asset events becomes acknowledged key and asset records, or dead letters.

What it decides is in `streams.decide` and below, how it publishes in `streams.publish`.
"""

from keymill.snapshot.reader import SnapshotReader
from schemas import topics
from schemas.ids import asset_key
from schemas.records import AssetRecord
from streams.claimant import Claimant, Kids
from streams.decide import Decided, Decider, Lookup
from streams.overlay import Overlay
from streams.owner import Owner
from streams.publish import Agent
from streams.registry import NO_SCHEMAS, Schemas
from streams.runs import Run


class Known(Kids):
    """What is already written: the overlay over the view."""

    def __init__(self, reader: SnapshotReader, overlay: Overlay[AssetRecord], partitions: int) -> None:
        super().__init__(reader)
        self._overlay = overlay
        self._partitions = partitions

    def asset(self, organization: str, asset: str) -> AssetRecord | None:
        """See `streams.decide.Lookup`."""
        return self._overlay.get(asset_key(organization, asset)) or self._reader.asset(organization, asset)

    def has(self, record_key: bytes) -> bool:
        """See `streams.decide.Lookup`."""
        partition = topics.partition_of(topics.KEYS, record_key, self._partitions)
        return self._overlay.holds(partition, record_key) or self._reader.has(topics.KEYS.name, record_key)


class Provisioner(Agent[AssetRecord, Decided, Lookup]):
    """
    Handles runs of the asset topic.

    Args:
        claimant: asks for the KIDs that callers chose or brought.
        schemas: has those ready that events in the Confluent frame name.
    """

    source = topics.ASSETS

    def __init__(
        self, *, decider: Decider, owner: Owner[AssetRecord], partitions: int, claimant: Claimant,
        schemas: Schemas = NO_SCHEMAS,
    ) -> None:  # fmt: skip
        super().__init__(decider=decider, owner=owner, partitions=partitions)
        self._claimant = claimant
        self._schemas = schemas

    async def begin(self, run: Run) -> Decided:
        """See `Agent`."""
        await self._schemas.prepare(run.records)
        return await super().begin(run)

    def known(self, owner: Owner[AssetRecord], partitions: int) -> Lookup:
        """See `Agent`."""
        return Known(owner.reader, owner.overlay, partitions)

    def is_provisional(self, decided: Decided) -> bool:
        """See `Agent`."""
        return bool(decided.claims)

    async def prepare(self, decided: Decided) -> None:
        """See `Agent`."""
        await self._claimant.make(decided.claims)
