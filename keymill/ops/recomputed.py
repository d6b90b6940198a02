"""What replaying the events of one partition gives, which is also all that its decider may know."""

from collections.abc import Mapping
from typing import Final

from schemas.ids import asset_key
from schemas.records import AssetRecord, Claim, KeyRecord

Winners = Mapping[tuple[str, bytes], Claim]
"""The claim that won, by organization and KID (`keymill.ops.claimed`)."""
NOBODY: Final[Winners] = {}


class Recomputed:
    """A `streams.decide.Lookup`; `unclaimed` are the record keys of assets with an event that lacks a claim."""

    def __init__(self, winners: Winners) -> None:
        self.winners = winners
        self.unclaimed: set[bytes] = set()
        self.assets: dict[bytes, AssetRecord] = {}
        self.key_records: dict[bytes, bytes] = {}

    def asset(self, organization: str, asset: str) -> AssetRecord | None:
        """See `streams.decide.Lookup`."""
        return self.assets.get(asset_key(organization, asset))

    def has(self, record_key: bytes) -> bool:
        """See `streams.decide.Lookup`."""
        return record_key in self.key_records

    def claim(self, organization: str, kid: bytes) -> Claim | None:
        """See `streams.claims.Claimed`."""
        return self.winners.get((organization, kid))

    def owner(self, organization: str, kid: bytes) -> KeyRecord | None:
        """See `streams.claims.Claimed`. Nobody: whose a KID was, was asked when the event was accepted."""
        return None
