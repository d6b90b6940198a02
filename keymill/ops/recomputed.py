"""What replaying the events of one partition gives, which is also all that its decider may know."""

from collections.abc import Mapping, Sequence
from typing import Final

from keymill.errors import Reject
from schemas.codec import decode
from schemas.events import AssetEvent
from schemas.ids import asset_key
from schemas.records import AssetRecord, Claim, DeadLetter, KeyRecord
from streams.decide import Decided, Decider
from streams.runs import RawRecord

Winners = Mapping[tuple[str, bytes], Claim]
"""The claim that won, by organization and KID (`keymill.ops.claimed`)."""
NOBODY: Final[Winners] = {}


class Recomputed:
    """
    One decision that every event of a partition is added to, and the `streams.decide.Lookup` over it.

    `made` are the record keys of the key records that were called for, which are handed over event by event: no more
    than their names is kept. `unclaimed` are the record keys of assets with an event that lacks a claim,
    `lacking_claims` those of the last one.

    Args:
        before: the records that the first event finds, by record key.
    """

    def __init__(self, decided: Decided, winners: Winners, before: Mapping[bytes, bytes]) -> None:
        self.decided = decided
        self.winners = winners
        self.met: set[bytes] = set()
        self.made: set[bytes] = set()
        self._before = before
        self.unclaimed: set[bytes] = set()
        self.lacking_claims: tuple[bytes, ...] = ()
        self._letters = 0

    def take(self, event: RawRecord, read: AssetEvent | Reject, decider: Decider) -> bool:
        """
        Decide the next event; False, and no trace but `lacking_claims`, when a claim of it was never made.

        Args:
            read: what `Decider.read` gave for it.
        """
        record_key, decided = event.key or b"", self.decided
        asset, keys = decided.assets.get(record_key), len(decided.key_records)
        decider.decide(event, read, decided, self)
        if not decided.claims:
            return True
        self.lacking_claims = tuple(decided.claims)
        self.unclaimed.add(record_key)
        decided.claims.clear()
        while len(decided.key_records) > keys:
            decided.key_records.popitem()
        if asset is None:
            decided.assets.pop(record_key, None)
        else:
            decided.assets[record_key] = asset
        return False

    def new_key_records(self) -> Mapping[bytes, bytes]:
        """The key records since the last call."""
        new = self.decided.key_records
        if new:
            self.decided.key_records = {}
            self.made.update(new)
        return new

    def new_letters(self) -> Sequence[DeadLetter]:
        """The dead letters since the last call."""
        new = self.decided.dead_letters[self._letters :]
        self._letters = len(self.decided.dead_letters)
        return new

    def asset(self, organization: str, asset: str) -> AssetRecord | None:
        """See `streams.decide.Lookup`. What was decided is asked first."""
        value = self._before.get(asset_key(organization, asset)) if self._before else None
        return None if value is None else decode(value, AssetRecord)

    def has(self, record_key: bytes) -> bool:
        """See `streams.decide.Lookup`."""
        return record_key in self.made

    def claim(self, organization: str, kid: bytes) -> Claim | None:
        """See `streams.claims.Claimed`."""
        return self.winners.get((organization, kid))

    def owner(self, organization: str, kid: bytes) -> KeyRecord | None:
        """See `streams.claims.Claimed`. Nobody: whose a KID was, was asked when the event was accepted."""
        return None
