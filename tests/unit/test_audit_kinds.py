"""What an audit counts, names and compares with a ledger, each kind by itself."""

import hashlib
from pathlib import Path

import pytest

from keymill.errors import Corrupt
from keymill.kafka.latest import Unreadable
from keymill.ops import ledger
from keymill.ops.report import MAX_LISTED, Report
from schemas.records import KeyOrigin
from schemas.topics import STATUS
from schemas.values import Scheme
from tests.unit.test_auditing import audit, check, claim, given, kinds, look, named
from tests.unit.test_ledger import FP, KID, OTHER, made


def test_a_claim_for_another_scheme_is_a_contradiction() -> None:
    """The same label of another scheme is another track."""
    found, keyed = audit(), given(KeyOrigin.IMPORTED)
    other = next(each for each in Scheme if each is not keyed[1].tracks[0].scheme)
    look(found, keyed)
    assert {"contradiction": 1} == check(found, claim(keyed[1], scheme=other))


def test_all_are_counted_and_the_first_thousand_named() -> None:
    """A report stays one that can be read; what a replay named comes before."""
    found, report = audit(), Report()
    for number in range(MAX_LISTED - 1):
        report.note("missing", b"k%d" % number, "why")
    found.judged(("one",), report)
    for number in range(3):
        found.note(("place", number), "misplaced", b"m%d" % number, "why")
    found.judged(("other",), report)
    assert 1000 == MAX_LISTED == len(named(found))
    assert {"missing": 2 * (MAX_LISTED - 1), "misplaced": 3} == kinds(found)
    assert ("k0", "m0") == (named(found)[0], named(found)[-1])


def test_records_that_nobody_can_read_are_named_until_they_are_gone() -> None:
    """A report of a later release is none of them."""
    found = audit()
    bad, newer = (Unreadable(STATUS.name, 1, 7, f"proxy/{each}", "no report", bool(each)) for each in range(2))
    found.passed_over([bad, newer])
    assert {"unreadable": 1} == kinds(found) and ["proxy/0"] == named(found) and not found.clean()
    found.passed_over([newer])
    assert found.clean()


@pytest.mark.parametrize(
    ("after", "kept"),
    [
        ([("demo", KID, FP), ("demo", OTHER, FP)], True),
        ([("demo", KID, FP), ("demo", OTHER, b"x" * 16)], False),
        ([("demo", KID, FP)], False),
    ],
    ids=["the same", "only changed", "only missing"],
)
def test_one_kind_of_loss_is_enough(after, kept: bool) -> None:
    """A changed key alone, and a missing one alone."""
    assert kept is ledger.compare(made(("demo", KID, FP), ("demo", OTHER, FP)), made(*after)).kept()


@pytest.mark.parametrize("entry", [f"demo {KID.hex()}00 {FP.hex()}", f"demo {KID.hex()} {FP.hex()[:-2]}"])
def test_a_sealed_entry_of_another_size_is_refused(tmp_path: Path, entry: str) -> None:
    """Whoever wrote it: it would be split at another place."""
    body = f"{ledger.HEADER}{entry}\n".encode()
    (tmp_path / "l").write_bytes(body + f"sha256 {hashlib.sha256(body).hexdigest()}\n".encode())
    with pytest.raises(Corrupt, match="is no entry"):
        ledger.read(tmp_path / "l")
