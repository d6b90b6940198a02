"""
The owner's agent: requests of ops become acknowledged key, asset and policy records, or dead letters.

What it decides is in `streams.decide_requests` and `streams.policy_repairs`. It writes where the provisioner and the
policy keeper write, so it shares their `streams.owner.Owner`s; requests, asset events and policy changes have equal
partition counts and the group assigns by range, so equal numbers are one worker's.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

import msgspec

from keymill.core.view import KidOwner
from schemas import topics
from schemas.codec import decode
from schemas.ids import key_set_key
from schemas.records import AssetRecord, DeadLetter, KeyRecord, PolicyRecord
from schemas.values import Record
from streams import decide_requests, policy_repairs, publish
from streams.claimant import Kids
from streams.owner import Owner
from streams.publish import Agent
from streams.registry import NO_SCHEMAS, Schemas
from streams.runs import RawRecord, Run

ReadRecords = Callable[[int, Sequence[int]], dict[int, RawRecord]]
"""Those of the given offsets of the source's partition that exist, by offset. Blocking."""


T = TypeVar("T", bound=Record)


class Restoring(publish.Decided[T], Protocol[T]):
    """What a run of requests calls for; `named` are records of the source, `restored` their dead letters, by offset."""

    named: Mapping[int, RawRecord]
    restored: dict[int, DeadLetter]


R = TypeVar("R", bound=Restoring)  # type: ignore[type-arg]
L = TypeVar("L")
L_contra = TypeVar("L_contra", contravariant=True)

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


class Decides(publish.Decides[R, L_contra], Protocol[R, L_contra]):
    """Decides requests, of which some name records of a source."""

    def wanted(self, run: Run) -> list[int]:
        """The offsets of the source that a run's repairs name, ascending."""
        ...


class Executor(Agent[T, R, L]):
    """
    Executes requests to the owner of one topic's partitions.

    Args:
        read: reads the source's records that a run's repairs name, all in one go.
        schemas: has those ready that these records name.
    """

    source = topics.REQUESTS
    pause_s = 1.0

    def __init__(
        self, *, decider: Decides[R, L], owner: Owner[T], partitions: int, read: ReadRecords,
        schemas: Schemas = NO_SCHEMAS,
    ) -> None:  # fmt: skip
        super().__init__(decider=decider, owner=owner, partitions=partitions)
        self._schemas = schemas
        self._requests = decider
        self._read = read

    async def begin(self, run: Run) -> R:
        """See `Agent`."""
        self.owner.require(run.partition)
        decided = await super().begin(run)
        if offsets := self._requests.wanted(run):
            decided.named = await asyncio.to_thread(self._read, run.partition, offsets)
            await self._schemas.prepare(decided.named.values())
        return decided

    def restored(self, decided: R) -> Sequence[DeadLetter]:
        """See `Agent`."""
        return list(decided.restored.values())

    async def settle(self, partition: int) -> bool:
        """See `Agent`. A view that stands still, as behind a pinned log, must not keep asset events waiting."""
        try:
            async with asyncio.timeout(TURN_S):
                await self.owner.read_all_back(partition)
        except TimeoutError:
            return False
        return True


class PolicyRequester(Executor[PolicyRecord, policy_repairs.Decided, policy_repairs.Lookup]):
    """Executes repairs of policies."""

    def known(self, owner: Owner[PolicyRecord], partitions: int) -> policy_repairs.Lookup:
        """The view alone: `settle` has it read everything back first."""
        return owner.reader


class Requester(Executor[AssetRecord, decide_requests.Decided, decide_requests.Lookup]):
    """Handles runs of the topic of requests; what concerns policies is left to *of_policies*."""

    def __init__(
        self, *, decider: decide_requests.Decider, owner: Owner[AssetRecord], partitions: int, read: ReadRecords,
        of_policies: PolicyRequester, schemas: Schemas = NO_SCHEMAS,
    ) -> None:  # fmt: skip
        super().__init__(decider=decider, owner=owner, partitions=partitions, read=read, schemas=schemas)
        self._of_policies = of_policies

    def known(self, owner: Owner[AssetRecord], partitions: int) -> decide_requests.Lookup:
        """The view alone: `settle` has it read everything back first."""
        return Written(owner.reader)

    async def handle(self, run: Run) -> None:
        """See `Agent`. Who owns a partition of the keys owns the policies' of the same number."""
        theirs = [each for each in run.records if _is_of_policies(each)]
        if len(theirs) < len(run.records):
            own = [each for each in run.records if not _is_of_policies(each)]
            await super().handle(msgspec.structs.replace(run, records=own))
        if theirs:
            await self._of_policies.handle(msgspec.structs.replace(run, records=theirs))


def _is_of_policies(record: RawRecord) -> bool:
    named = topics.source_named(record.key or b"")
    return named is not None and named[0] == topics.POLICY_CHANGES.name
