"""Every program may write to the status topic: whatever stands there, `keymill status` shows the rest."""

import io
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from keymill.core.record_authentication import FORGED, NO_RECORD_KEY, UNAUTHENTICATED
from keymill.kafka.latest import Read, Whole
from keymill.kafka.status_topic import AUDITED, status_of
from keymill.ops.standing import Limits, judge
from keymill.ops.status_table import line_of, shown
from schemas.codec import encode, encode_as
from schemas.operations import AuditSummary, KekEpochs, ProgramReport
from schemas.topics import STATUS, partition_of
from schemas.values import Record
from tests.property.strategies import RECORDS
from tests.unit.test_standing import NOW, overview, report

WILD = st.sampled_from([-(2**63), -1, 0, 1, NOW, 253_402_300_800_000, 2**63 - 1])


def forged(kind: type[Record], name: str, *fields: str) -> st.SearchStrategy[bytes]:
    """Bytes of that schema with any numbers in these fields, also such as no program of ours writes."""

    def build(record: Record, numbers: list[int]) -> bytes:
        return encode_as(
            kind, SimpleNamespace(**msgspec.structs.asdict(record) | dict(zip(fields, numbers, strict=True)))
        )

    return st.builds(build, RECORDS[name], st.lists(WILD, min_size=len(fields), max_size=len(fields)))


REPORTS = forged(ProgramReport, "ProgramReport", "started", "at", "behind", "staleness_ms")
AUDITS = forged(AuditSummary, "AuditSummary", "at", "took_ms", "differences", "events")


def look(*values: tuple[bytes, bytes | None]) -> str:
    """What `keymill status` prints of these records, beside a proxy that is well."""
    records = [(b"proxy/one", encode(report())), *values]
    places = [partition_of(STATUS, record_key, 3) for record_key, _ in records]
    whole = Whole(3, tuple(Read(place, n, *each) for n, (place, each) in enumerate(zip(places, records, strict=True))))
    status = status_of(whole)
    standing = judge(overview(), (), status, status.unreadable, at=NOW, limits=Limits())
    console = Console(file=io.StringIO(), width=200, markup=False, highlight=False)
    console.print(shown(standing))
    return console.file.getvalue() + line_of(standing)  # type: ignore[attr-defined]


@given(record_key=st.binary(max_size=40), value=st.none() | st.binary(max_size=80))
def test_any_bytes_are_shown_or_named(record_key: bytes, value: bytes | None) -> None:
    """And nothing of them steers the terminal."""
    assert "\x1b" not in look((record_key, value)) and "one" in look((record_key, value))


@given(claimed=WILD, appended=st.integers(1, 2**53))
def test_only_the_broker_says_when_a_report_came(claimed: int, appended: int) -> None:
    """A program whose clock is wrong, or a forger's report, is neither alive for ever nor gone."""
    value = encode_as(ProgramReport, SimpleNamespace(**msgspec.structs.asdict(report()) | {"at": claimed}))
    read = Read(partition_of(STATUS, b"proxy/one", 3), 0, b"proxy/one", value, "", appended)
    status = status_of(Whole(3, (read,)))
    assert [appended] == [each.at for each in status.reports.values()] or status.unreadable


@pytest.mark.parametrize("record_key", [b"proxy/one", b"gateway/one", b"processor/one", b"connect-sql/one", AUDITED])
@pytest.mark.parametrize("refusal", ["", UNAUTHENTICATED, FORGED, NO_RECORD_KEY])
def test_what_is_believed_of_whom(record_key: bytes, refusal: str) -> None:
    """Of a program that has keys, and of an audit, only what verifies; a connector may have no keys."""
    audited = AuditSummary(
        at=NOW, took_ms=1, clean=True, differences=0, events=1, assets=1, key_records=1, policies=1
    )  # fmt: skip
    value = encode(audited if record_key == AUDITED else report())
    read = Read(partition_of(STATUS, record_key, 3), 0, record_key, value, refusal)
    status = status_of(Whole(3, (read,)))
    keyless = record_key.startswith(b"connect") and refusal != FORGED
    believed = not refusal or keyless
    assert believed == bool(status.reports or status.audit)
    assert ([] if believed else [refusal]) == [each.reason for each in status.unreadable]


@given(value=REPORTS, audit=AUDITS)
def test_any_report_and_any_audit_are_shown_or_named(value: bytes, audit: bytes) -> None:
    """Whatever numbers and texts they hold."""
    assert "\x1b" not in look((b"x/y", value), (AUDITED, audit))


def test_a_report_without_epochs_is_shown() -> None:
    """An organization that a program names and holds no KEK of."""
    assert "empty" in look((b"x/y", encode(report("empty", keks=(KekEpochs(organization="demo", epochs=()),)))))
