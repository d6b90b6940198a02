"""
What an audit finds: every difference counted by its kind, the first thousand named. Pure over what it is shown.

Events against records is the replay's (`keymill.ops.replaying`); here the records are held against each other.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from keymill.core.folding import DEFAULT_POLICY
from keymill.errors import InvalidRecord, KeymillError
from keymill.ops import ledger as ledgers
from keymill.ops.ledger import Ledger
from keymill.ops.replaying import Held
from keymill.ops.replaying_policies import HeldPolicies
from keymill.ops.report import MAX_LISTED, Difference, Report
from schemas import topics
from schemas.codec import decode
from schemas.ids import is_key_set
from schemas.records import AssetRecord, Claim, KeyOrigin, KeyRecord, TrackKey
from schemas.topics import Topic

Open = Callable[[KeyRecord], object]
"""Unwraps a key record; raises `Corrupt` when it does not hold what it says."""
Kid = tuple[str, bytes]
"""(organization, KID)"""


class Holder(NamedTuple):
    """The key record that a chosen or imported KID stands in."""

    record: KeyRecord
    track: TrackKey


class Claims:
    """The winners of the claims topic, by (organization, KID); what stands on a wrong partition wins nothing."""

    def __init__(self) -> None:
        self.winners: dict[Kid, Claim] = {}

    def add(self, claim: Claim) -> None:
        """Take a claim, in topic order: the first one wins for ever."""
        self.winners.setdefault((claim.organization, claim.kid), claim)


class Audit:
    """
    One pass.

    Args:
        partitions: of the key topic.
        open: how key records are unwrapped; None when they are not.
    """

    def __init__(self, partitions: int = 1, open: Open | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.differences: list[Difference] = []
        self.ledger = Ledger()
        self.events = self.assets = self.key_records = self.policies = self.identical = self.refused = self.pending = 0
        self._partitions = partitions
        self._open = open
        self._named: dict[tuple[str, int], str] = {}
        self._naming: Counter[tuple[str, int]] = Counter()
        self._policies: set[tuple[str, int]] = set()
        self._given: dict[Kid, Holder] = {}
        self._applied: dict[tuple[str, str], tuple[int, int]] = {}

    def note(self, kind: str, record_key: bytes | str, detail: str) -> None:
        """Count a difference, and list it while there is room."""
        name = record_key if isinstance(record_key, str) else record_key.decode("utf-8", "replace")
        self.counts[kind] += 1
        if len(self.differences) < MAX_LISTED:
            self.differences.append(Difference(kind=kind, record_key=name, detail=detail))

    def take(self, report: Report) -> None:
        """Take over what a replay found."""
        self.events, self.identical = report.events, report.identical
        self.refused, self.pending = report.refused, report.pending
        for kind in ("missing", "different", "unexpected"):
            if count := getattr(report, kind):
                self.counts[kind] += count
        self.differences.extend(report.differences[: MAX_LISTED - len(self.differences)])

    def look(self, held: Held) -> None:
        """See what one partition of the key topic holds."""
        for record_key, value in held.values.items():
            self._placed(topics.KEYS, record_key, held.partition)
            try:
                if is_key_set(record_key):
                    self._key_record(record_key, decode(value, KeyRecord))
                else:
                    self._asset(decode(value, AssetRecord))
            except InvalidRecord:
                continue  # the replay tells it
            except KeymillError as error:
                self.note("unopened", record_key, str(error))

    def look_at_policies(self, held: HeldPolicies, partition: int) -> None:
        """See what one partition of the policy topic holds."""
        for record_key, record in held.records.items():
            self.policies += 1
            self._policies.add((record.organization, record.policy_id))
            self._placed(topics.POLICIES, record_key, partition)

    def _placed(self, topic: Topic, record_key: bytes, partition: int) -> None:
        if (right := topics.partition_of(topic, record_key, self._partitions)) != partition:
            self.note("misplaced", record_key, f"stands on partition {partition} of {topic.name}, belongs on {right}")

    def _asset(self, record: AssetRecord) -> None:
        self.assets += 1
        self._applied[record.organization, record.asset] = (record.applied.generation, record.applied.offset)
        policy = (record.organization, record.policy_id)
        if record.policy_id != DEFAULT_POLICY:
            self._named.setdefault(policy, record.asset)
            self._naming[policy] += 1

    def _key_record(self, record_key: bytes, record: KeyRecord) -> None:
        self.key_records += 1
        self.ledger.add(record.organization, [(track.kid, track.fp) for track in record.tracks])
        for track in record.tracks:
            if track.origin is not KeyOrigin.DERIVED:
                self._given[record.organization, track.kid] = Holder(record, track)
        if self._open is not None:
            self._open(record)

    def check_policies(self) -> None:
        """Every policy that an asset names must exist."""
        for policy in sorted(self._named.keys() - self._policies):
            organization, policy_id = policy
            detail = f"no such policy; {self._naming[policy]} assets name it, {self._named[policy]} among them"
            self.note("unresolved", f"{organization}/{policy_id}", detail)

    def check_claims(self, claims: Claims, was_refused: Callable[[Claim], bool]) -> None:
        """A KID that was not derived is its claim's winner's, and every winner whose event was accepted has it."""
        for kid, holder in self._given.items():
            claim = claims.winners.get(kid)
            if claim is None:
                self.note("unclaimed", _named(kid), f"asset {holder.record.asset} has it without a claim")
            elif reason := _contradiction(claim, holder):
                self.note("contradiction", _named(kid), reason)
        for kid, claim in claims.winners.items():
            at = (claim.event.generation, claim.event.offset)
            applied = self._applied.get((claim.organization, claim.asset), (0, -1))
            if kid not in self._given and applied >= at and not was_refused(claim):
                self.note("missing", _named(kid), f"asset {claim.asset} claimed this KID and has no key record with it")

    def check_fingerprints(self, before: Ledger | None) -> None:
        """No KID may have two fingerprints, and none another one than *before*."""
        for entry in self.ledger.contradictions():
            self.note("contradiction", _named(entry[:2]), "this KID has two fingerprints")
        if before is None:
            return
        found = ledgers.compare(before, self.ledger)
        for entry in found.missing:
            self.note("key_lost", _named(entry[:2]), "the former ledger has it")
        for entry in found.changed:
            self.note("key_changed", _named(entry[:2]), "the former ledger has another fingerprint")

    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.counts

    def result(self) -> dict[str, Any]:
        """For people and programs."""
        return {
            "clean": self.clean(),
            "events": self.events,
            "assets": self.assets,
            "key_records": self.key_records,
            "policies": self.policies,
            "fingerprints": len(self.ledger),
            "identical": self.identical,
            "refused": self.refused,
            "pending": self.pending,
            "counts": dict(sorted(self.counts.items())),
            "differences": msgspec.to_builtins(self.differences),
        }


def _named(kid: Kid) -> str:
    return f"{kid[0]}/{kid[1].hex()}"


def _contradiction(claim: Claim, holder: Holder) -> str:
    """Why the key record that a KID stands in is not the one that its claim calls for; empty if it is."""
    record, track = holder
    if claim.asset != record.asset:
        return f"asset {record.asset} has it, asset {claim.asset} claimed it first"
    if (claim.key_version, claim.label, claim.scheme) != (record.key_version, track.label, track.scheme):
        return f"it was claimed for {claim.label}/{claim.scheme} of version {claim.key_version}"
    if (claim.fp is None) != (track.origin is KeyOrigin.CHOSEN):
        return f"it is {track.origin.value}, which its claim is not"
    if claim.fp is not None and claim.fp != track.fp:
        return "its fingerprint is not the claimed one"
    return ""
