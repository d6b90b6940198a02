"""
The policy agent: a run of policy changes becomes acknowledged policy records, or dead letters.

Every accepted change is a record of its own, and none is sent before the one before it is acknowledged. So what is
durable is what the beginning of the log calls for, which is what `applied` relies on
(`keymill.core.policy_changes.fold`); a batch could lose a record and keep a later one. It costs 2 ms a change, of which
there are few.
"""

from collections.abc import Iterator
from typing import Protocol

from keymill.core.folding import DEFAULT_POLICY
from keymill.core.policy_changes import Policies, fold
from keymill.errors import LostKeys, Reject, UnknownKey
from keymill.kms.keyring import Keyring
from keymill.kms.record_keys import RecordKeys
from keymill.snapshot.reader import SnapshotReader
from schemas import topics
from schemas.codec import decode, encode
from schemas.events import PolicyChange
from schemas.ids import scoped_key
from schemas.records import DeadLetter, PolicyRecord
from streams.overlay import Overlay
from streams.owner import Due, Owner
from streams.publish import Agent
from streams.raw import check_authentic, check_key, coordinates_of, dead_letter, request_id_of, value_in_place
from streams.runs import RawRecord, Run


class Lookup(Protocol):
    """What is already written, as far as this processor knows."""

    def folded(self, organization: str) -> Policies:
        """The policy records of an organization, looked up as they are needed."""
        ...


class Decided:
    """What a run calls for: a record for every accepted change, in log order; `policies` as they stand after it."""

    def __init__(self) -> None:
        self.policies: dict[str, Policies] = {}
        self.records: list[Due[PolicyRecord]] = []
        self.dead_letters: list[DeadLetter] = []

    def batches(self) -> Iterator[list[Due[PolicyRecord]]]:
        """One record after the other."""
        return ([due] for due in self.records)


class Decider:
    """
    Decides run by run. A function of the run, of what *lookup* holds and of the organizations that the KMS knows.

    Args:
        partitions: of the topic of policy changes, for the check that a change stands where its key belongs.
        generation: of that topic, counted by `keymill topics adopt`.
        goes_on: where an organization's keys are lost its changes are refused and the others decided; else it stops.
    """

    def __init__(self, keyring: Keyring, *, partitions: int, generation: int, goes_on: bool = False) -> None:
        self._goes_on = goes_on
        self._keyring = keyring
        self.keys = RecordKeys(lambda: keyring)
        self._partitions = partitions
        self._generation = generation

    def begin(self, _run: Run) -> Decided:
        """An empty decision; give it each record in order."""
        return Decided()

    def record(self, record: RawRecord, decided: Decided, lookup: Lookup) -> None:
        """Decide one record. Raises only what is not the record's fault."""
        change: PolicyChange | None = None
        try:
            change = decode(value_in_place(record, self._partitions), PolicyChange)
            check_key(record, change.organization.encode())
            self._change(change, record, decided, lookup)
        except Reject as error:
            decided.dead_letters.append(dead_letter(record, error, change, self._generation))

    def _change(self, change: PolicyChange, record: RawRecord, decided: Decided, lookup: Lookup) -> None:
        organization = change.organization
        held = decided.policies.get(organization)
        if held is None:
            held = decided.policies[organization] = lookup.folded(organization)
        self._require_organization(organization, record, held)
        check_authentic(record, self.keys)
        policy = fold(change, at=coordinates_of(record, self._generation), held=held)
        if policy is not None:
            held.take(policy)
            key = scoped_key(organization, str(policy.policy_id))
            decided.records.append(Due(key, encode(policy), request_id_of(record), policy))

    def _require_organization(self, organization: str, record: RawRecord, held: Policies) -> None:
        try:
            self._keyring.root_version_at(organization, record.timestamp_ms)
        except UnknownKey as error:
            if held.applied is not None:
                message = f"policies of {organization}: {error}; restore the newest backup of the keys"
                if self._goes_on:
                    raise UnknownKey(message, field="organization", code=LostKeys.code) from None
                raise LostKeys(message) from None
            raise UnknownKey(str(error), field="organization", code="unknown_organization") from None


class Known:
    """What is already written: the overlay over the view."""

    def __init__(self, reader: SnapshotReader, overlay: Overlay[PolicyRecord], partitions: int) -> None:
        self._reader = reader
        self._overlay = overlay
        self._partitions = partitions

    def folded(self, organization: str) -> Policies:
        """See `Lookup`; the overlay is what it is now, the view is asked later and knows no less by then."""
        return Policies(self._written(organization), _InView(self._reader, organization))

    def policies(self, organization: str) -> list[PolicyRecord]:
        """Every policy record of an organization: a repair compares them all."""
        held = {record.policy_id: record for record in self._reader.policies(organization)}
        held |= {record.policy_id: record for record in self._written(organization)}
        return list(held.values())

    def _written(self, organization: str) -> list[PolicyRecord]:
        """What was written and not read back."""
        prefix = scoped_key(organization, "")
        partition = topics.partition_of(topics.POLICIES, prefix, self._partitions)
        return [record for key, record in self._overlay.of(partition) if key.startswith(prefix)]


class _InView:
    """A `Stored` over the view: one look-up for what is asked, whatever number of policies there is."""

    def __init__(self, reader: SnapshotReader, organization: str) -> None:
        head = reader.policy_head(organization)
        self.newest = head.newest if head else DEFAULT_POLICY
        self.applied = head.applied if head else None
        self._reader = reader
        self._organization = organization

    def get(self, policy_id: int) -> PolicyRecord | None:
        """See `Stored`."""
        return self._reader.policy(self._organization, policy_id)

    def by_request(self, request_id: str) -> PolicyRecord | None:
        """See `Stored`."""
        return self._reader.policy_of_request(self._organization, request_id)


class PolicyKeeper(Agent[PolicyRecord, Decided, Lookup]):
    """Handles runs of the topic of policy changes."""

    source = topics.POLICY_CHANGES

    def known(self, owner: Owner[PolicyRecord], partitions: int) -> Lookup:
        """See `Agent`."""
        return Known(owner.reader, owner.overlay, partitions)
