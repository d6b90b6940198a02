"""What is said of a record that a view does not take, and when that is forgotten."""

from collections.abc import Collection
from typing import Any, Final

import lmdb

from keymill import telemetry
from keymill.core.view import Verdict
from keymill.kafka.positions import Incoming
from keymill.snapshot.incoming import Candidate, Examined
from keymill.snapshot.layout import unpack_rejection
from schemas.values import KID_SIZE

_SHOWN: Final = 256
"""Bytes of a record key that are logged."""
log = telemetry.logger("snapshot")


def report(message: Incoming, found: Examined, verdict: Verdict) -> None:
    """Log a record that the view did not take: where it stands, why, and its KIDs; never its value."""
    kids = found.kids if isinstance(found, Candidate) and found.kids else []
    log.warning(
        "record refused",
        fate=verdict.fate.value,
        reason=verdict.reason,
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        record_key=(message.key or b"").decode("ascii", "replace")[:_SHOWN],
        kids=[kid[-KID_SIZE:].hex() for kid in kids],
    )


def forget(txn: "lmdb.Transaction[bytes]", handle: Any, topics: Collection[str]) -> None:
    """Drop what was refused of *topics*: their successors' offsets say nothing about it."""
    if not topics:
        return
    with txn.cursor(handle) as cursor:
        gone = [number for number, value in cursor if unpack_rejection(value).topic in topics]
    for number in gone:
        txn.delete(number, db=handle)
