"""
The status topic: the last report of every program, the last audit.

It is compacted within minutes (schemas.topics), since commands read it whole. Every program may write to it: connectors
without keys too, of which nothing depends. What a rotation waits for, and whether an audit was clean, is believed of a
record alone that a program with the installation's keys wrote.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from keymill.core.record_authentication import FORGED
from keymill.errors import InvalidRecord
from keymill.kafka.latest import Read, Unreadable, Whole, misplaced, read_whole, unreadable
from schemas.codec import decode
from schemas.operations import AuditSummary, ProgramReport
from schemas.topics import STATUS

ADOPTED: Final = b"topic/"
"""Begins the record keys of adoptions, which stood here before they had a topic of their own."""
AUDITED: Final = b"audit/last"
HOLDERS: Final = ("processor", "gateway", "proxy")
"""Programs that open records or secrets, so that they have keys."""


@dataclass(frozen=True, slots=True)
class Status:
    """
    What the status topic says.

    Args:
        reports: the last of every program, by record key (`program/instance`). Its time is the broker's: neither a
            clock that goes wrong nor a forged time makes a program look alive, or gone.
        unreadable: the last record of a record key, where nobody can read it, or believe it.
    """

    reports: Mapping[str, ProgramReport]
    audit: AuditSummary | None
    unreadable: tuple[Unreadable, ...]


def must_verify(record_key: bytes) -> bool:
    """Tell whether a record is of a program that has keys; an audit is too."""
    return record_key == AUDITED or record_key.partition(b"/")[0].decode("ascii", "replace") in HOLDERS


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
        if read.refusal and (read.refusal == FORGED or must_verify(record_key)):
            bad.append(unreadable(STATUS, read, read.refusal))
            continue
        try:
            if record_key == AUDITED:
                audit = decode(read.value, AuditSummary)
                audit = msgspec.structs.replace(audit, at=read.appended or audit.at)
            else:
                report = decode(read.value, ProgramReport)
                reports[record_key.decode("ascii")] = msgspec.structs.replace(report, at=read.appended or report.at)
        except (InvalidRecord, UnicodeDecodeError) as error:
            bad.append(unreadable(STATUS, read, str(error)))
    return Status(reports, audit, tuple(bad))
