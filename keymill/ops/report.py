"""What a replay found: counted by kind, the first thousand differences by name."""

from typing import Final

import msgspec

from schemas.values import Record

MAX_LISTED: Final = 1000
"""Differences that are listed by name; all are counted."""


class Difference(Record, frozen=True, kw_only=True):
    """One record that is not what the log says it must be. `kind`: missing, different or unexpected."""

    kind: str
    record_key: str
    detail: str


class Report(msgspec.Struct, kw_only=True):
    """
    What a replay found.

    Args:
        identical: records with the same KIDs, fingerprints and fields; the wrapping epoch is not compared.
        missing: records, or dead letters, that an event calls for and that are not there.
        different: records that contradict their events.
        unexpected: records that no event calls for.
        refused: events with a dead letter.
        pending: events newer than anything the processors have applied.
        events: asset events and policy changes.
    """

    identical: int = 0
    missing: int = 0
    different: int = 0
    unexpected: int = 0
    refused: int = 0
    pending: int = 0
    events: int = 0
    differences: list[Difference] = []

    def note(self, kind: str, record_key: bytes, detail: str) -> None:
        """Count a difference, and list it while there is room."""
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.differences) < MAX_LISTED:
            self.differences.append(
                Difference(kind=kind, record_key=record_key.decode("utf-8", "replace"), detail=detail)
            )

    def take_back(self, record_key: bytes) -> None:
        """Forget that a record was different: another one has been written over it."""
        name = record_key.decode("utf-8", "replace")
        self.different = max(0, self.different - 1)
        self.differences = [each for each in self.differences if (each.kind, each.record_key) != ("different", name)]

    def clean(self) -> bool:
        """Whether the topic holds exactly what the log calls for."""
        return not (self.missing or self.different or self.unexpected)
