"""What is already written, in memory: a `Lookup` that takes what was decided, as a view would read it back."""

from dataclasses import dataclass, field

from schemas.codec import decode
from schemas.ids import asset_key, claim_key
from schemas.records import AssetRecord, Claim, KeyRecord
from streams.decide import Decided, Decider
from streams.runs import RawRecord, Run


@dataclass
class MemoryKnown:
    """A `Lookup`."""

    assets: dict[bytes, AssetRecord] = field(default_factory=dict)
    keys: dict[bytes, KeyRecord] = field(default_factory=dict)
    claims: dict[bytes, Claim] = field(default_factory=dict)

    def asset(self, organization: str, asset: str) -> AssetRecord | None:
        return self.assets.get(asset_key(organization, asset))

    def has(self, record_key: bytes) -> bool:
        return record_key in self.keys

    def claim(self, organization: str, kid: bytes) -> Claim | None:
        return self.claims.get(claim_key(organization, kid))

    def owner(self, organization: str, kid: bytes) -> KeyRecord | None:
        return next((key for key in self.keys.values() if kid in [track.kid for track in key.tracks]), None)

    def take(self, decided: Decided) -> None:
        """What was published of a decision that counts."""
        self.assets |= decided.assets
        self.keys |= {key: decode(value, KeyRecord) for key, value in decided.key_records.items()}

    def claim_all(self, decided: Decided) -> None:
        """Its claims; who claimed before has won."""
        self.claims = decided.claims | self.claims


def decide(decider: Decider, known: MemoryKnown, *records: RawRecord) -> Decided:
    """Decide a run as an agent does, claims first, and take what it calls for."""
    first, last = records[0], records[-1]
    run = Run(first.topic, first.partition, 1, 1, first.offset, last.offset + 1, list(records), 0)
    while True:
        decided = decider.begin(run)
        for record in records:
            decider.record(record, decided, known)
        if not decided.claims:
            known.take(decided)
            return decided
        known.claim_all(decided)
