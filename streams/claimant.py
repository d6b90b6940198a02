"""How a processor asks for KIDs: claims on their log, acknowledged, and read back behind all that came before them."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from keymill.errors import NotReady
from keymill.kafka.producer import Outgoing, Publisher
from keymill.snapshot.reader import SnapshotReader
from keymill.telemetry import PUBLISHED
from schemas import topics
from schemas.codec import encode
from schemas.records import Claim, KeyRecord
from streams.faults import crash_point
from streams.owner import POLL_S

Ends = Callable[[], Mapping[tuple[str, int], int]]
"""The ends of every partition of the key topic as the brokers have them now (read_uncommitted). Blocking."""
CLAIMS: Final = topics.CLAIMS.name


class Kids:
    """A `streams.claims.Claimed` over a view that follows claims and keys."""

    def __init__(self, reader: SnapshotReader) -> None:
        self._reader = reader

    def claim(self, organization: str, kid: bytes) -> Claim | None:
        """See `streams.claims.Claimed`. Only what was read back: there the lowest offset has won."""
        return self._reader.claim(organization, kid)

    def owner(self, organization: str, kid: bytes) -> KeyRecord | None:
        """See `streams.claims.Claimed`."""
        owner = self._reader.owner(organization, kid)
        return self._reader.key_record(owner.record_key) if owner else None


class Claimant:
    """
    Makes claims, over a view that follows claims and keys.

    Args:
        partitions: of the claims topic.
    """

    def __init__(self, reader: SnapshotReader, publisher: Publisher, *, key_ends: Ends, partitions: int) -> None:
        self._reader = reader
        self._publisher = publisher
        self._key_ends = key_ends
        self._partitions = partitions

    async def make(self, claims: Mapping[bytes, Claim]) -> None:
        """
        Publish claims by record key; returns when the view knows the winner of each, and every KID derived before.

        Raises:
            NotReady: the view has stopped.
        """
        records = [self._outgoing(record_key, claim) for record_key, claim in claims.items()]
        offsets = await self._publisher.publish(records)
        PUBLISHED.labels(CLAIMS).inc(len(offsets))
        crash_point("after_claims")
        await self._pass(dict(await asyncio.to_thread(self._key_ends)) | _ends_of(records, offsets))

    def _outgoing(self, record_key: bytes, claim: Claim) -> Outgoing:
        partition = topics.partition_of(topics.CLAIMS, record_key, self._partitions)
        return Outgoing(topic=CLAIMS, record_key=record_key, value=encode(claim), partition=partition)

    async def _pass(self, ends: Mapping[tuple[str, int], int]) -> None:
        while not self._has_passed(ends):
            if error := self._reader.state().error:
                raise NotReady(f"the view of {CLAIMS} has stopped: {error}")
            await asyncio.sleep(POLL_S)

    def _has_passed(self, ends: Mapping[tuple[str, int], int]) -> bool:
        positions = self._reader.state().positions
        return all(positions.get(topic, {}).get(partition, 0) >= end for (topic, partition), end in ends.items())


def _ends_of(records: Sequence[Outgoing], offsets: Sequence[int]) -> dict[tuple[str, int], int]:
    """Behind the last claim on each partition."""
    ends: dict[tuple[str, int], int] = {}
    for record, offset in zip(records, offsets, strict=True):
        assert record.partition is not None
        place = (CLAIMS, record.partition)
        ends[place] = max(ends.get(place, 0), offset + 1)
    return ends
