"""
Repairs: what a request names of its source, and what deciding that again from nothing must lead to.

Whoever asks names every record of one record key and says how each was decided. Where that is not what is decided now,
something is lacking, here or in the request, and nothing is written.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Self

from keymill.errors import Conflict, InvalidRecord, Reject
from keymill.kafka.authentication import RecordKeys
from schemas import topics
from schemas.codec import decode
from schemas.operations import OwnerRequest, RepairRequest
from schemas.records import DeadLetter
from streams.raw import check_authentic
from streams.runs import RawRecord, Run


class Named(NamedTuple):
    """
    What a repair names, checked: ascending offsets.

    Args:
        record_key: of all that is named; None where the first record says it.
    """

    accepted: tuple[int, ...]
    refused: tuple[int, ...] = ()
    record_key: bytes | None = None

    @classmethod
    def of(cls, request: OwnerRequest | RepairRequest, generation: int, record_key: bytes | None = None) -> Self:
        """
        Check what a request names of a source that has that *generation*.

        Raises:
            Reject: it names nothing, not in order, or of another generation.
        """
        refused = request.refused if isinstance(request, RepairRequest) else ()
        named = cls(request.offsets, refused, record_key)
        for offsets in (request.offsets, refused, named.offsets()):
            if list(offsets) != sorted(set(offsets)) or min(offsets, default=0) < 0:
                raise InvalidRecord("a repair names offsets of its source, ascending and once each", field="offsets")
        if not named.offsets():
            raise InvalidRecord("a repair names the offsets of its source's records", field="offsets")
        if request.generation != generation:
            message = f"the offsets are of generation {request.generation}, the topic has {generation}"
            raise Conflict(message, field="generation", code="wrong_generation")
        return named

    def offsets(self) -> list[int]:
        """All of them."""
        return sorted((*self.accepted, *self.refused))

    def among(self, found: Mapping[int, RawRecord]) -> list[RawRecord]:
        """
        The records named, in their order.

        Raises:
            Reject: one is not there, or is of another record key.
        """
        offsets = self.offsets()
        if lacking := [offset for offset in offsets if offset not in found]:
            message = f"there is no record at offset {lacking[0]} of this partition of the source"
            raise InvalidRecord(message, field="offsets", code="event_missing")
        records = [found[offset] for offset in offsets]
        own = records[0].key if self.record_key is None else self.record_key
        for record in records:
            if record.key != own:
                message = f"the record at offset {record.offset} is of another asset or organization"
                raise InvalidRecord(message, field="offsets", code="event_of_another_asset")
        return records

    def check(self, record: RawRecord, letters: Sequence[DeadLetter]) -> None:
        """
        Hold *letters*, which deciding a record again gave, against what was said of it.

        Raises:
            Conflict: it was accepted and is refused now, or the reverse.
        """
        if letters and record.offset not in self.refused:
            raise contradicted(f"the record at offset {record.offset} is refused: {letters[0].message}")
        if not letters and record.offset in self.refused:
            raise contradicted(f"the record at offset {record.offset} is not refused")


def offsets_named(run: Run, named: Callable[[RawRecord], Named | None]) -> list[int]:
    """All offsets of the source that the repairs of a run name, ascending; *named* gives None for what is no repair."""
    found: set[int] = set()
    for record in run.records:
        try:
            repair = named(record)
        except Reject:
            continue  # it becomes a dead letter when its turn comes
        found.update(repair.offsets() if repair else ())
    return sorted(found)


def request_in_place(record: RawRecord, keys: RecordKeys) -> RepairRequest:
    """
    The request in a record whose key names a source.

    Raises:
        InvalidRecord: it is none, stands where its value does not belong, or was written by nobody with the keys.
    """
    request = decode(record.value or b"", RepairRequest)
    place = (request.topic, request.partition)
    if topics.source_named(record.key or b"") != place or record.partition != request.partition:
        message = f"a repair of {request.topic} partition {request.partition} has that as its record key and partition"
        raise InvalidRecord(message, field="partition", code="wrong_partition")
    check_authentic(record, keys)
    return request


def run_over(records: Sequence[RawRecord]) -> Run:
    """A run of records that were named; nobody commits it."""
    first, last = records[0], records[-1]
    return Run(
        topic=first.topic, partition=first.partition, generation=0, epoch=0,
        start=first.offset, end=last.offset + 1, records=records, size=0,
    )  # fmt: skip


def contradicted(message: str) -> Conflict:
    """The refusal of a repair as a whole."""
    return Conflict(f"{message}; nothing was written, ask `keymill audit`", code="repair_contradicted")
