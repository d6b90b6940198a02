"""The fingerprint ledger: canonical, sealed, and comparable with one from before."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.errors import Corrupt, InvalidRecord
from keymill.ops import ledger
from keymill.ops.ledger import Entry, Ledger

KID, OTHER, FP = b"k" * 16, b"o" * 16, b"f" * 16
PAIRS = st.lists(st.tuples(st.sampled_from(["demo", "acme"]), st.binary(min_size=16, max_size=16)), unique=True)


def made(*entries: tuple[str, bytes, bytes]) -> Ledger:
    """A ledger of these."""
    found = Ledger()
    for organization, kid, fp in entries:
        found.add(organization, [(kid, fp)])
    return found


@given(PAIRS, st.randoms(use_true_random=False))
def test_the_same_keys_give_the_same_file(tmp_path_factory: pytest.TempPathFactory, pairs, draw) -> None:
    """In whatever order, and however often, they come; and it is read back."""
    folder = tmp_path_factory.mktemp("ledgers")
    entries = [(organization, kid, hashlib.sha256(kid).digest()[:16]) for organization, kid in pairs]
    again = [*entries, *entries[:3]]
    draw.shuffle(again)
    assert len(entries) == ledger.write(made(*entries), folder / "a") == ledger.write(made(*again), folder / "b")
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
    assert list(made(*entries).entries()) == list(ledger.read(folder / "a").entries())


def test_the_file_is_text_with_a_header_and_a_seal(tmp_path: Path) -> None:
    """Sorted by organization and KID; the last line is the SHA-256 of all before it."""
    ledger.write(made(("demo", OTHER, FP), ("demo", KID, FP), ("acme", KID, FP)), tmp_path / "l")
    *body, seal = (tmp_path / "l").read_text().splitlines(keepends=True)
    expected = [f"{name} {kid.hex()} {FP.hex()}\n" for name, kid in (("acme", KID), ("demo", KID), ("demo", OTHER))]
    assert ["keymill fingerprint ledger 1\n", *expected] == body
    assert f"sha256 {hashlib.sha256(''.join(body).encode()).hexdigest()}\n" == seal


@pytest.mark.parametrize("change", [lambda d: d[:-1] + b"0\n", lambda d: d.replace(b"demo", b"dem0"), lambda d: d[:60]])
def test_a_changed_file_is_refused(tmp_path: Path, change) -> None:
    """It would compare with what never was."""
    path = tmp_path / "l"
    ledger.write(made(("demo", KID, FP)), path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(Corrupt, match="SHA-256"):
        ledger.read(path)


@pytest.mark.parametrize("entry", ["demo", "demo 00 11", f"demo {'g' * 32} {'0' * 32}", f"dé {'0' * 32} {'0' * 32}"])
def test_an_entry_that_is_none_is_refused_though_the_seal_fits(tmp_path: Path, entry: str) -> None:
    """Whoever sealed it: it is told by its line."""
    body = f"{ledger.HEADER}{entry}\n".encode()
    (tmp_path / "l").write_bytes(body + f"sha256 {hashlib.sha256(body).hexdigest()}\n".encode())
    with pytest.raises(Corrupt, match="l:2 is no entry"):
        ledger.read(tmp_path / "l")


def test_another_file_is_no_ledger(tmp_path: Path) -> None:
    """A slip of the command line is told."""
    (tmp_path / "l").write_text("organization,kid\n")
    with pytest.raises(InvalidRecord, match="no fingerprint ledger"):
        ledger.read(tmp_path / "l")


def test_what_became_of_a_key_is_told() -> None:
    """Missing, changed, added; only the first two are a loss."""
    before = made(("demo", KID, FP), ("demo", OTHER, FP))
    after = made(("demo", KID, b"x" * 16), ("acme", KID, FP))
    found = ledger.compare(before, after)
    assert [Entry("demo", OTHER, FP)] == found.missing
    assert [Entry("demo", KID, b"x" * 16)] == found.changed
    assert [Entry("acme", KID, FP)] == found.added
    assert not found.kept()
    assert ledger.compare(before, before).kept()
    assert ledger.compare(made(), before).kept()


def test_two_fingerprints_of_one_kid_are_a_contradiction() -> None:
    """Of one organization; two may have the same KID."""
    found = made(("demo", KID, FP), ("demo", KID, b"x" * 16), ("acme", KID, b"y" * 16))
    assert [Entry("demo", KID, b"x" * 16)] == list(found.contradictions())
    assert 3 == len(found)
    assert [Entry("demo", KID, b"x" * 16)] == ledger.compare(made(("demo", KID, FP)), found).changed
