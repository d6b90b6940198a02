"""
Repairs of policies: records, and dead letters of changes, that are gone.

An organization's changes are folded again from nothing. What is held must be what that leads to, or have been on the
way; what is missing is published as it stands after the last change that is named, in the order of those changes, so
that what is durable stays what the beginning of the log calls for (`streams.policies`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from keymill.core.policy_changes import Policies
from keymill.errors import Reject
from schemas.codec import encode
from schemas.ids import scoped_key
from schemas.operations import RepairRequest
from schemas.records import DeadLetter, PolicyRecord
from streams import policies
from streams.owner import Due
from streams.raw import dead_letter, request_id_of
from streams.repairs import Named, contradicted, offsets_named, request_in_place, run_over
from streams.runs import RawRecord, Run


class Decided:
    """
    What a run of repairs calls for.

    `named` are the changes that they name, and `restored` dead letters of changes, by offset; `dead_letters` are the
    requests' own.
    """

    def __init__(self) -> None:
        self.named: Mapping[int, RawRecord] = {}
        self.records: dict[bytes, Due[PolicyRecord]] = {}
        self.dead_letters: list[DeadLetter] = []
        self.restored: dict[int, DeadLetter] = {}

    def batches(self) -> Iterator[list[Due[PolicyRecord]]]:
        """One record after the other, in the order of their changes."""
        return ([due] for due in sorted(self.records.values(), key=lambda due: _policy(due).applied))


class Lookup(Protocol):
    """What is already written, as far as this processor knows."""

    def policies(self, organization: str) -> list[PolicyRecord]:
        """Every policy record of an organization."""
        ...


class _Nothing:
    """A lookup that knows of no policy: the fold begins with the first change."""

    def folded(self, _organization: str) -> Policies:
        """None."""
        return Policies()


class Decider:
    """
    Decides run by run.

    Args:
        changes: what decides policy changes.
        generation: of the topic of requests.
        change_generation: of the topic of policy changes, which repairs name.
    """

    def __init__(self, changes: policies.Decider, *, generation: int, change_generation: int) -> None:
        self._changes = changes
        self._generation = generation
        self._change_generation = change_generation

    def wanted(self, run: Run) -> list[int]:
        """The offsets of the policy changes that the run's repairs name, ascending."""
        return offsets_named(run, lambda record: self._named(request_in_place(record, self._changes.keys)))

    def begin(self, _run: Run) -> Decided:
        """An empty decision, which is given what the run's repairs name."""
        return Decided()

    def record(self, record: RawRecord, decided: Decided, lookup: Lookup) -> None:
        """Decide one request. Raises only what is not the request's fault."""
        request: RepairRequest | None = None
        try:
            request = request_in_place(record, self._changes.keys)
            self._repair(request, request_id_of(record) or request.request_id, decided, lookup)
        except Reject as error:
            decided.dead_letters.append(dead_letter(record, error, request, self._generation))

    def _named(self, request: RepairRequest) -> Named:
        return Named.of(request, self._change_generation)

    def _repair(self, request: RepairRequest, request_id: str, decided: Decided, lookup: Lookup) -> None:
        named = self._named(request)
        changes = named.among(decided.named)
        states, letters = self._fold(named, changes)
        missing: dict[bytes, Due[PolicyRecord]] = {}
        for organization in _subjects(changes[0].key, states, letters):
            held = {scoped_key(organization, str(each.policy_id)): each for each in lookup.policies(organization)}
            _require_met(states, held, named.offsets()[-1], final=bool(letters))
            for key, passed in states.items():
                if key not in held or held[key].applied < passed[-1].applied:
                    missing[key] = Due(key, encode(passed[-1]), request_id, passed[-1])
        decided.records |= missing
        decided.restored |= letters

    def _fold(
        self, named: Named, changes: Sequence[RawRecord]
    ) -> tuple[dict[bytes, list[PolicyRecord]], dict[int, DeadLetter]]:
        """Every state of every policy that the changes lead to, and the dead letters of those that were refused."""
        made, nothing = self._changes.begin(run_over(changes)), _Nothing()
        for change in changes:
            letters = len(made.dead_letters)
            self._changes.record(change, made, nothing)
            named.check(change, made.dead_letters[letters:])
        states: dict[bytes, list[PolicyRecord]] = {}
        for due in made.records:
            states.setdefault(due.record_key, []).append(_policy(due))
        return states, {letter.offset: letter for letter in made.dead_letters}


def _subjects(record_key: bytes | None, states: Mapping[bytes, object], letters: Mapping[int, DeadLetter]) -> set[str]:
    """The one organization that a fold is about; none where no change could be read in its place."""
    of_letters = {each.organization for each in letters.values() if each.organization}
    named = {name for name in of_letters if name.encode() == record_key}
    return named | {key.partition(b"/")[0].decode() for key in states}


def _require_met(
    states: Mapping[bytes, list[PolicyRecord]], held: Mapping[bytes, PolicyRecord], last: int, *, final: bool
) -> None:
    """
    Refuse a repair whose changes do not pass what is held.

    Args:
        last: the offset of the last change that was named; a policy may have been changed since.
        final: none may: a dead letter belongs to a fold that leads to all that is held.
    """
    for key, record in held.items():
        if record not in states.get(key, ()) and (final or record.applied.offset <= last):
            raise contradicted(f"{key.decode()}: the policy that is held is no fold of the changes named")


def _policy(due: Due[PolicyRecord]) -> PolicyRecord:
    assert due.record is not None
    return due.record
