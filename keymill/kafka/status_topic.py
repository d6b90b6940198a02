"""
The status topic: the last report of every program, the last audit.

It is compacted within minutes (schemas.topics), since commands read it whole. Every program may write to it, so nothing
that must be trusted stands there: the adoptions of topics have one of their own (`keymill.kafka.adoption`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from keymill.errors import InvalidRecord
from keymill.kafka.latest import Read, Unreadable, Whole, misplaced, read_whole, unreadable
from schemas.codec import decode
from schemas.operations import AuditSummary, ProgramReport
from schemas.topics import STATUS

ADOPTED: Final = b"topic/"
"""Begins the record keys of adoptions, which stood here before they had a topic of their own."""
AUDITED: Final = b"audit/last"


@dataclass(frozen=True, slots=True)
class Status:
    """
    What the status topic says.

    Args:
        reports: the last of every program, by record key (`program/instance`).
        unreadable: the last record of a record key, where nobody can read it.
    """

    reports: Mapping[str, ProgramReport]
    audit: AuditSummary | None
    unreadable: tuple[Unreadable, ...]


def read_status(bootstrap: str) -> Status:
    """
    Read the topic from its beginning to its end; only the last record of each record key counts.

    Raises:
        Unavailable: no broker answers, or reading makes no progress for 10 s.
        Misconfigured: there is no status topic.
    """
    return status_of(read_whole(bootstrap, STATUS))


def status_of(found: Whole) -> Status:
    """What these records say; what stood under a record key before, or was taken away, says nothing."""
    last: dict[tuple[int, bytes], Read] = {(read.partition, read.record_key): read for read in found.records}
    audit: AuditSummary | None = None
    reports: dict[str, ProgramReport] = {}
    bad: list[Unreadable] = []
    for (_, record_key), read in sorted(last.items(), key=lambda entry: entry[0][1]):
        if read.value is None or record_key.startswith(ADOPTED):
            continue
        if wrong := misplaced(STATUS, read, found.partitions):
            bad.append(unreadable(STATUS, read, wrong))
            continue
        try:
            if record_key == AUDITED:
                audit = decode(read.value, AuditSummary)
            else:
                reports[record_key.decode("ascii")] = decode(read.value, ProgramReport)
        except (InvalidRecord, UnicodeDecodeError) as error:
            bad.append(unreadable(STATUS, read, str(error)))
    return Status(reports, audit, tuple(bad))
