"""What an audit finds: every difference counted by its kind, the first thousand named. Pure over what it is shown."""

from collections import Counter
from typing import Any

import msgspec

from keymill.errors import InvalidRecord
from keymill.ops import ledger as ledgers
from keymill.ops.ledger import Ledger
from keymill.ops.replaying import MAX_LISTED, Difference, Held, Report
from schemas.codec import decode
from schemas.ids import is_key_set
from schemas.records import KeyRecord


class Audit:
    """One pass."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.differences: list[Difference] = []
        self.ledger = Ledger()
        self.events = self.assets = self.key_records = self.identical = self.refused = self.pending = 0

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
            if not is_key_set(record_key):
                self.assets += 1
                continue
            self.key_records += 1
            try:
                record = decode(value, KeyRecord)
            except InvalidRecord:
                continue  # the replay tells it
            self.ledger.add(record.organization, [(track.kid, track.fp) for track in record.tracks])

    def check_fingerprints(self, before: Ledger | None) -> None:
        """No KID may have two fingerprints, and none another one than *before*."""
        for entry in self.ledger.contradictions():
            self.note("contradiction", f"{entry.organization}/{entry.kid.hex()}", "this KID has two fingerprints")
        if before is None:
            return
        found = ledgers.compare(before, self.ledger)
        for entry in found.missing:
            self.note("key_lost", f"{entry.organization}/{entry.kid.hex()}", "the former ledger has it")
        for entry in found.changed:
            self.note("key_changed", f"{entry.organization}/{entry.kid.hex()}", "the former ledger has another")

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
            "fingerprints": len(self.ledger),
            "identical": self.identical,
            "refused": self.refused,
            "pending": self.pending,
            "counts": dict(sorted(self.counts.items())),
            "differences": msgspec.to_builtins(self.differences),
        }
