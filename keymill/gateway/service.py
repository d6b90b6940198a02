"""What the gateway's endpoints share: the view, the way into the log, the waits, and their limits."""

import time
from dataclasses import dataclass
from typing import Final

from keymill.config import GatewaySettings
from keymill.errors import NotReady, Reject, UnknownKey
from keymill.gateway.deadletters import DeadLetters
from keymill.gateway.intake import Intake
from keymill.gateway.waiting import Published, Settled, Waiter, settled
from keymill.http.health import Readiness
from keymill.kafka.producer import Publisher
from keymill.kms.keyring import Keyring
from keymill.snapshot.confirmation import Confirmation
from keymill.snapshot.reader import SnapshotReader
from keymill.trail.recorder import Recorder
from schemas.records import AssetRecord, DeadLetter, TopicAdopted

APPEAR_S: Final = 0.5
"""What an asset may take to appear before it is unknown: another gateway may have accepted it."""


@dataclass(frozen=True, slots=True)
class Service:
    """
    One gateway, as its endpoints see it: `intake` leads into the asset log, `changes` into the policies';
    `entitlements` is the topic that entitlements go to.
    """

    settings: GatewaySettings
    reader: SnapshotReader
    intake: Intake
    changes: Intake
    publisher: Publisher
    letters: DeadLetters
    waiter: Waiter
    keyring: Keyring
    readiness: Readiness
    audit: Recorder
    entitlements: TopicAdopted
    confirmation: Confirmation

    async def outcome(self, event: Published, wait_s: float) -> Settled | DeadLetter | None:
        """What became of an event within *wait_s*."""
        return await self.waiter.outcome(
            event,
            self.letters,
            time.monotonic() + wait_s,
            lambda: settled(event, self.reader.asset(event.organization, event.asset)),
        )

    async def known(self, organization: str, asset: str) -> AssetRecord | None:
        """
        The asset's record; None when it is not in the view yet but an event of it is on the way.

        Raises:
            UnknownKey: the view is caught up and no event of the asset is on the way.
            NotReady: the view is not caught up.
        """
        if self.intake.last(organization, asset) is not None:
            return self.reader.asset(organization, asset)
        deadline = time.monotonic() + APPEAR_S
        found = await self.waiter.until(lambda: self.reader.asset(organization, asset), deadline)
        if found is None:
            raise await self.missing(organization, asset)
        return found

    async def next_version(self, organization: str, asset: str) -> int:
        """
        The key version that a rotation without a number begins: after all events that this gateway published.

        Raises:
            NotReady: an earlier event of the asset is not processed yet.
        """
        last = self.intake.last(organization, asset)
        if last is not None and await self.outcome(last, self.settings.wait_s) is None:
            raise NotReady(f"an earlier event of asset {asset} is not processed yet, or name to_version")
        held = self.reader.asset(organization, asset)
        if held is None:
            raise await self.missing(organization, asset)
        return len(held.versions) + 1

    async def missing(self, organization: str, asset: str) -> Reject | NotReady:
        """Return why the view lacks an asset: it does not exist, or the view is behind."""
        message = f"organization {organization} has no asset {asset}"
        return await self.absent(UnknownKey(message, field="asset_id", code="unknown_asset"), "an asset")

    async def absent(self, refusal: Reject, what: str) -> Reject | NotReady:
        """Return the refusal of what the view lacks, or, while nobody can know that there is no such thing, why."""
        if await self.confirmation.since(time.monotonic()):
            return refusal
        return NotReady(f"the view is behind the log, so {what} that it lacks may exist")
