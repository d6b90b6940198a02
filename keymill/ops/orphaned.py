"""
Orphaned claims: an event claimed a KID and was refused, so nobody has the KID, and it is refused to everybody else.

Which claims may be released (`keymill.core.claim_log`) is decided while no processor is at work, so that none can make
a key by a claim that ends: all that starts later has read the release before it decides. A claim is orphaned if

1. it stands for its KID in the log,
2. its event was refused for good: it has a dead letter, and the group has committed it,
3. no key record and no asset record ever had the KID, and
4. no event of its asset waits to be decided.

Pure but for `read`.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

from keymill.core.claim_log import folded, winner
from keymill.errors import InvalidRecord, NotReady
from keymill.kafka.admin import group_offsets
from keymill.ops.claimed import claims_in
from keymill.ops.source import Source
from schemas import topics
from schemas.codec import decode
from schemas.ids import asset_key, is_key_set
from schemas.records import AssetRecord, Claim, KeyRecord

Kid = tuple[str, bytes]
"""(organization, KID)"""


class Facts:
    """What the topics say, partition by partition."""

    def __init__(self, generation: int, partitions: int) -> None:
        self.generation = generation
        self.partitions = partitions
        self.claims: dict[Kid, Claim] = {}
        self._had: set[Kid] = set()
        self._refused: set[tuple[int, int]] = set()
        self._waiting: set[bytes] = set()
        self._early: list[tuple[int, int]] = []

    def claim(self, claim: Claim) -> None:
        """Take a record of the claims, in the log's order."""
        kid = claim.organization, claim.kid
        stands = folded(self.claims.get(kid), claim)
        if stands is not None:
            self.claims[kid] = stands

    def made(self, record_key: bytes, value: bytes | None) -> None:
        """Take a record of the key topic, whatever stands under its record key by now."""
        try:
            if is_key_set(record_key):
                key_record = decode(value or b"", KeyRecord)
                self._had |= {(key_record.organization, track.kid) for track in key_record.tracks}
            else:
                asset = decode(value or b"", AssetRecord)
                tracks = [track for version in asset.versions for each in version.key_sets for track in each.tracks]
                self._had |= {(asset.organization, track.kid) for track in tracks if track.kid is not None}
        except InvalidRecord:
            self._waiting.add(record_key.partition(b"/k/")[0])  # nobody knows what the asset has

    def decided(
        self, partition: int, committed: int, refused: Iterable[int], undecided: Iterable[bytes | None]
    ) -> None:
        """
        Take how far a partition of the asset events is decided.

        Args:
            committed: events below are decided for good.
            refused: offsets of events that have a dead letter.
            undecided: record keys of the events from *committed* on.
        """
        for offset in refused:
            self._refused.add((partition, offset))
            if offset >= committed:
                self._early.append((partition, offset))
        self._waiting |= {key for key in undecided if key is not None}

    def orphans(self) -> list[Claim]:
        """The claims that may be released, by organization and KID."""
        standing = [
            claim for kid, each in sorted(self.claims.items()) if (claim := winner(each)) and kid not in self._had
        ]
        return [claim for claim in standing if self._is_refused(claim) and self._record_key(claim) not in self._waiting]

    def require_committed(self) -> None:
        """
        Refuse to release anything while an event that was refused may be decided again.

        Raises:
            NotReady: it has its dead letter, and the group has not committed it.
        """
        if self._early:
            partition, offset = self._early[0]
            message = f"{topics.ASSETS.name} partition {partition} offset {offset} is refused and not committed"
            raise NotReady(
                f"{message}: start the processors, and stop them when `keymill status` says that none is behind"
            )

    def _is_refused(self, claim: Claim) -> bool:
        partition = topics.partition_of(topics.ASSETS, self._record_key(claim), self.partitions)
        return claim.event.generation == self.generation and (partition, claim.event.offset) in self._refused

    def _record_key(self, claim: Claim) -> bytes:
        return asset_key(claim.organization, claim.asset)


class Orphan(NamedTuple):
    """A claim that may be released, as it is told; never a key."""

    organization: str
    kid: str
    asset: str
    key_version: int
    track: str
    event: str

    @classmethod
    def of(cls, claim: Claim, partitions: int) -> Self:
        """Tell a claim."""
        partition = topics.partition_of(topics.ASSETS, asset_key(claim.organization, claim.asset), partitions)
        return cls(
            organization=claim.organization,
            kid=claim.kid.hex(),
            asset=claim.asset,
            key_version=claim.key_version,
            track=f"{claim.label}/{claim.scheme.value}",
            event=f"{topics.ASSETS.name}/{partition}/{claim.event.offset}",
        )


def read(source: Source, bootstrap: str, group: str) -> Facts:
    """Read the topics to the ends that *source* has taken, and the claims to theirs."""
    facts, committed = Facts(source.adopted.generation, source.partitions), group_offsets(bootstrap, group)
    for claim in claims_in(source.scanner, bootstrap):
        facts.claim(claim)
    for partition in range(source.partitions):
        for record_key, value in source.held(partition):
            facts.made(record_key, value)
        done = committed.get((topics.ASSETS.name, partition), 0)
        undecided: Mapping[int, bytes | None] = {
            each.offset: each.key for each in source.events(partition, done) if each.offset >= done
        }
        facts.decided(partition, done, source.refused(partition), undecided.values())
    return facts
