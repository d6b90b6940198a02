"""
What an audit finds: every difference counted by its kind, the first thousand named. Pure over what it is shown.

Events against records is the replay's (`keymill.ops.replaying`); here the records are held against each other. A record
that takes another's place takes its findings away too, so that a second look costs what has changed.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import msgspec

from keymill.core.folding import DEFAULT_POLICY
from keymill.errors import InvalidRecord, KeymillError
from keymill.kafka.batch import Batch
from keymill.kafka.latest import Unreadable
from keymill.ops.auditing_kids import Claims, Kid, Kids
from keymill.ops.findings import Findings, Place
from keymill.ops.ledger import Ledger
from keymill.ops.replaying_policies import HeldPolicies
from keymill.ops.report import Difference, Report
from schemas import topics
from schemas.codec import decode
from schemas.ids import is_key_set
from schemas.records import AssetRecord, Claim, KeyRecord
from schemas.topics import Topic

R = TypeVar("R", AssetRecord, KeyRecord)

Open = Callable[[KeyRecord], object]
"""Unwraps a key record; raises `Corrupt` when it does not hold what it says."""
REPLAYED = ("missing", "different", "unexpected")


class Numbers(NamedTuple):
    """What a replay counted, without the differences."""

    events: int = 0
    identical: int = 0
    refused: int = 0
    pending: int = 0


NONE = Numbers()


class Audit:
    """
    What stands, and what is wrong with it.

    Args:
        partitions: of the key topic.
        open: how key records are unwrapped; None when they are not.
        before: a former ledger to compare with.
    """

    def __init__(self, partitions: int = 1, open: Open | None = None, before: Ledger | None = None) -> None:
        self.findings = Findings()
        self.claims = Claims()
        self.numbers = NONE
        self.assets = self.key_records = 0
        self._partitions = partitions
        self.open = open
        self._kids = Kids(before)
        self._unowned: set[Kid] = set()
        self._unopened: dict[Place, tuple[bytes, KeyRecord]] = {}
        self._naming: dict[tuple[str, int], set[bytes]] = {}
        self._unresolved: set[tuple[str, int]] = set()
        self._policies: dict[int, set[tuple[str, int]]] = {}

    def judged(self, place: Place, report: Report, before: Numbers = NONE) -> Numbers:
        """Take over what a replay found at a place, where it found *before* the last time; returns what it is now."""
        now = Numbers(report.events, report.identical, report.refused, report.pending)
        if now != before:
            self.numbers = Numbers(
                *(total + new - old for total, new, old in zip(self.numbers, now, before, strict=True))
            )
        counts = {kind: count for kind in REPLAYED if (count := getattr(report, kind))}
        self.findings.put(place, report.differences, counts)
        return now

    def note(self, place: Place, kind: str, record_key: bytes | str, detail: str) -> None:
        """Say what is wrong at a place."""
        name = record_key if isinstance(record_key, str) else record_key.decode("utf-8", "replace")
        self.findings.put(place, [Difference(kind=kind, record_key=name, detail=detail)])

    def passed_over(self, records: Iterable[Unreadable]) -> None:
        """Tell what nobody can read on the topics that programs read whole; reports of a later release are none."""
        bad = [each for each in records if not each.newer]
        differences = [Difference(kind="unreadable", record_key=each.record_key, detail=_where(each)) for each in bad]
        self.findings.put(("read whole",), differences)

    def batches_lost(self, batches: Iterable[Batch]) -> None:
        """Tell of batches of records that nobody can unpack, and that no dead letter tells of."""
        detail = "the batch cannot be unpacked, and no dead letter tells of it: what it held is lost"
        differences = [Difference(kind="unreadable", record_key=str(each), detail=detail) for each in batches]
        self.findings.put(("batches",), differences)

    def exchange(self, partition: int, record_key: bytes, old: bytes | None, new: bytes | None) -> None:
        """A record of the key topic has taken the place of another; None for nothing."""
        placed = self._place(topics.KEYS, record_key, partition, there=new is not None)
        if is_key_set(record_key):
            self._key_record(
                ("opened", partition, record_key), record_key, _read(old, KeyRecord), _read(new, KeyRecord)
            )
        else:
            self._asset(record_key, _read(old, AssetRecord), _read(new, AssetRecord), placed=placed)

    def exchange_policies(self, partition: int, before: HeldPolicies, held: HeldPolicies) -> None:
        """See what one partition of the policy topic holds now."""
        self._policies[partition] = {(each.organization, each.policy_id) for each in held.records.values()}
        for record_key in before.records.keys() | held.records.keys():
            self._place(topics.POLICIES, record_key, partition, there=record_key in held.records)

    def open_again(self) -> None:
        """Try the key records again that did not open: the KMS may have learned their KEK meanwhile."""
        for place, (record_key, record) in list(self._unopened.items()):
            self._try(place, record_key, record)

    def _place(self, topic: Topic, record_key: bytes, partition: int, *, there: bool) -> bool:
        """Whether the record key belongs there."""
        place, right = (topic.name, partition, record_key), topics.partition_of(topic, record_key, self._partitions)
        if there and partition != right:
            detail = f"stands on partition {partition} of {topic.name}, belongs on {right}"
            self.note(place, "misplaced", record_key, detail)
        else:
            self.findings.put(place)
        return partition == right

    def _asset(self, record_key: bytes, old: AssetRecord | None, new: AssetRecord | None, *, placed: bool) -> None:
        self.assets += (new is not None) - (old is not None)
        if not placed:
            return  # nobody reads it
        if old is not None:
            self._named(old).discard(record_key)
        if new is not None and new.policy_id != DEFAULT_POLICY:
            self._named(new).add(record_key)

    def _named(self, record: AssetRecord) -> set[bytes]:
        return self._naming.setdefault((record.organization, record.policy_id), set())

    def _key_record(self, place: Place, record_key: bytes, old: KeyRecord | None, new: KeyRecord | None) -> None:
        self.key_records += (new is not None) - (old is not None)
        if old is not None:
            self._kids.remove(old)
        if new is None:
            self._unopened.pop(place, None)
            self.findings.put(place)
        else:
            self._kids.add(new)
            self._try(place, record_key, new)

    def _try(self, place: Place, record_key: bytes, record: KeyRecord) -> None:
        try:
            if self.open is not None:
                self.open(record)
        except KeymillError as error:
            self._unopened[place] = record_key, record
            self.note(place, "unopened", record_key, str(error))
        else:
            self._unopened.pop(place, None)
            self.findings.put(place)

    def check(self, accepted: Callable[[Claim], bool]) -> None:
        """
        Hold what stands on different partitions against each other; at the end of a look.

        Every policy that an asset names must exist. A KID that was not derived is its claim's winner's, and every
        winner whose event was accepted has it. No KID may have two fingerprints, and none another one than before.
        """
        self._check_policies()
        winners = self.claims.winners
        for kid in self._kids.touched | self.claims.new:
            self.findings.put(("kid", kid), self._kids.judge(kid, winners.get(kid)))
            if kid in winners and kid not in self._kids.given:
                self._unowned.add(kid)
            elif kid in self._unowned:
                self._unowned.discard(kid)
                self.findings.put(("winner", kid))
        self._kids.touched.clear()
        self.claims.new.clear()
        for kid in self._unowned:
            claim, place = winners[kid], ("winner", kid)
            if accepted(claim):
                detail = f"asset {claim.asset} claimed this KID and has no key record with it"
                self.note(place, "missing", f"{claim.organization}/{claim.kid.hex()}", detail)
            else:
                self.findings.put(place)

    def _check_policies(self) -> None:
        named = {policy for policy, assets in self._naming.items() if assets}
        unresolved = named.difference(*self._policies.values())
        for policy in self._unresolved - unresolved:
            self.findings.put(("policy", policy))
        for organization, policy_id in sorted(unresolved):
            naming = self._naming[organization, policy_id]
            _, _, asset = min(naming).partition(b"/")
            detail = f"no such policy; {len(naming)} assets name it, {asset.decode('utf-8', 'replace')} among them"
            place = ("policy", (organization, policy_id))
            self.note(place, "unresolved", f"{organization}/{policy_id}", detail)
        self._unresolved = unresolved

    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings.counts

    def ledger(self) -> Ledger:
        """Every fingerprint, as it stands."""
        return self._kids.ledger()

    def result(self) -> dict[str, Any]:
        """For people and programs."""
        return {
            "clean": self.clean(),
            "events": self.numbers.events,
            "assets": self.assets,
            "key_records": self.key_records,
            "policies": self.policies,
            "fingerprints": len(self._kids),
            "identical": self.numbers.identical,
            "refused": self.numbers.refused,
            "pending": self.numbers.pending,
            "counts": dict(sorted(self.findings.counts.items())),
            "differences": msgspec.to_builtins(self.findings.listed()),
        }

    @property
    def policies(self) -> int:
        """How many policies are held."""
        return sum(map(len, self._policies.values()))


def _where(each: Unreadable) -> str:
    return f"{each.topic}-{each.partition} offset {each.offset}: {each.reason}"


def _read(value: bytes | None, kind: type[R]) -> R | None:
    """None too where it cannot be read, which the replay tells."""
    try:
        return None if value is None else decode(value, kind)
    except InvalidRecord:
        return None
