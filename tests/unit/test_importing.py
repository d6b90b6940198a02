"""A library of keys as CSV: what is read, what is refused and where, and what is sent of it."""

import base64
import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.core.derive import imported_iv
from keymill.core.envelope import unwrap_imported
from keymill.drm import playready
from keymill.errors import InvalidRecord
from keymill.ops.importing import COLUMNS, Problem, Row, read_rows
from keymill.ops.importing_plan import Intake, Library, Present, events_of
from keymill.secret import Secret
from schemas.codec import encode
from schemas.events import AssetIngested
from schemas.values import Scheme
from tests.builders import INTAKE_KEK, K_FP, NOW
from tests.unit.test_claims import World, chosen

KID, OTHER_KID = bytes(range(16)), bytes(range(16, 32))
KEY, OTHER_KEY = b"\xc1" * 16, b"\xc2" * 16
INTAKE = Intake(organization="demo", k_fp=K_FP, kek=INTAKE_KEK, epoch=1)


def read(*lines: str, header: str = ",".join(COLUMNS)) -> tuple[list[Row], list[Problem]]:
    problems: list[Problem] = []
    return list(read_rows("keys.csv", io.StringIO("\n".join((header, *lines)), newline=""), problems)), problems


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def line(asset="film", track="SD", kid=KID, key=KEY, iv="", scheme="", checksum="") -> str:
    return f"{asset},{track},{kid.hex()},{key.hex()},{iv},{scheme},{checksum}"


def library(*lines: str, sound: bool = True) -> Library:
    rows, problems = read(*lines)
    assert problems == [] or not sound
    gathered = Library(INTAKE)
    gathered.problems += problems
    for row in rows:
        gathered.add(row)
    return gathered


def present(world: World) -> Present:
    found = Present("demo", {(claim.organization, claim.kid): claim for claim in world.known.claims.values()})
    for record in world.known.keys.values():
        found.add(record)
    return found


def imported_into(world: World, gathered: Library) -> list[str]:
    """Send what lacks; the reasons of refusals."""
    reasons = []
    for event in events_of("demo", present(world).missing(gathered), NOW):
        reasons += [letter.reason for letter in world.take(event).dead_letters]
    return reasons


def test_hex_and_base64_are_the_same_key() -> None:
    """A KID is hex or a UUID, key and IV hex or base64, in any column order, a scheme is cbcs if none is named."""
    plain, _ = read(line(iv="09" * 16))
    spelt, _ = read(
        ",".join((b64(KEY), "00010203-0405-0607-0809-0A0B0C0D0E0F", "sd", "film", b64(b"\t" * 16))),
        header="Key,KID,Track,Asset,IV",
    )
    assert [(r.kid, r.cek, r.iv, r.track, r.scheme) for r in plain] == [
        (r.kid, r.cek, r.iv, r.track, r.scheme) for r in spelt
    ]
    assert plain[0].scheme is Scheme.CBCS


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"asset": "a/b"}, "asset"),
        ({"track": "4K"}, "track"),
        ({"kid": b"short"}, "kid"),
        ({"key": b"short"}, "key"),
        ({"iv": "00"}, "iv"),
        ({"scheme": "aes"}, "scheme"),
        ({"checksum": "00" * 7}, "checksum"),
        ({"checksum": "00" * 8}, "checksum"),
    ],
)
def test_a_wrong_field_is_named_with_file_and_line(changed, field: str) -> None:
    """The other rows are read all the same, and no message holds a key."""
    rows, problems = read(line(), line(**changed), line(asset="third"))
    assert [row.asset for row in rows] == ["film", "third"]
    assert [(each.file, each.line, each.field) for each in problems] == [("keys.csv", 3, field)]
    assert KEY.hex() not in problems[0].message


@pytest.mark.parametrize("header", ["asset,track,kid", "asset,track,kid,key,key", "asset,track,kid,key,note", ""])
def test_a_wrong_header_is_refused(header: str) -> None:
    """Columns are found by name, so a name that nobody knows is a mistake."""
    with pytest.raises(InvalidRecord, match="the header"):
        read(header=header)


def test_a_file_without_a_header_tells_no_key() -> None:
    """Its first row stands where the names should be."""
    with pytest.raises(InvalidRecord) as refused:
        read(header=f"asset,track,kid,key,{KEY.hex()}")
    with pytest.raises(InvalidRecord) as second:
        read(header=line())
    assert KEY.hex() not in str(refused.value) + str(second.value)


def test_the_checksum_is_playreadys_in_either_order_of_the_kid() -> None:
    """8 bytes of AES-ECB of the KID under the key, as PlayReady stores it or as everybody else writes it."""
    little = playready.checksum(Secret(KEY), playready.little_endian(KID))
    assert playready.little_endian(KID).hex() == "03020100050407060809" + "0a0b0c0d0e0f"
    for checksum in (little, playready.checksum(Secret(KEY), KID)):
        assert read(line(checksum=checksum.hex()))[1] == read(line(checksum=b64(checksum)))[1] == []
    assert read(line(key=OTHER_KEY, checksum=little.hex()))[1][0].code == "checksum"


def test_short_and_absent_ivs() -> None:
    """CENC's 8 bytes are filled with zeros; without any the IV follows from the key, so a second import is the same."""
    short = library(line(iv="0102030405060708")).assets["film"][0]
    absent = library(line()).assets["film"][0]
    opened = [
        unwrap_imported(INTAKE_KEK, K_FP, organization="demo", kid=KID, imported=each.imported)
        for each in (short, absent)
    ]
    assert opened[0].iv.reveal() == bytes.fromhex("0102030405060708") + bytes(8)
    assert opened[1].iv == imported_iv(Secret(KEY), "demo", KID)


@pytest.mark.parametrize(
    ("second", "code"),
    [
        (line(), None),
        (line(track="HD"), None),
        (line(key=OTHER_KEY), "duplicate"),
        (line(kid=OTHER_KID), "duplicate"),
        (line(track="HD", key=OTHER_KEY), "kid_taken"),
        (line(track="HD", iv="01" * 16), "kid_taken"),
        (line(asset="other"), "kid_taken"),
        (line(track="HLS_AES128"), "clear_key_shared"),
    ],
)
def test_rows_that_contradict_each_other_are_problems(second: str, code: str | None) -> None:
    """A repeat is no harm, one KID may serve several tracks of an asset; anything else names both lines."""
    gathered = library(line(), second)
    assert [each.code for each in gathered.problems] == ([code] if code else [])
    if code:
        assert "keys.csv:2" in gathered.problems[0].message
    assert gathered.repeated == (second == line())


def test_an_asset_with_a_row_that_cannot_be_used_is_left_out() -> None:
    """Whatever is wrong with the row: half an asset is never sent."""
    for bad in (line(track="HD", key=b"short"), line(track="4K"), line(track="HD", checksum="00" * 8)):
        gathered = library(line(), bad, line(asset="whole", kid=OTHER_KID), sound=False)
        assert {"film"} == gathered.spoilt
        assert ["whole"] == list(Present("demo", {}).missing(gathered))
        assert (True, False) == (gathered.may_be_sent(True), gathered.may_be_sent(False))


@pytest.mark.parametrize("torn", ['"film,SD', "film,SD,x", "film,SD," + "9" * 200_000])
def test_a_row_that_does_not_say_whose_it_is_lets_nothing_be_sent(torn: str) -> None:
    """It may be of any asset, and a quote that is not closed swallows what follows."""
    gathered = library(line(), torn, sound=False)
    assert [None] == [each.asset for each in gathered.problems]
    assert not gathered.may_be_sent(True)
    assert library(line(), line(asset="a/b"), sound=False).may_be_sent(True)


def test_an_asset_is_one_event_with_all_its_tracks() -> None:
    """Its id follows from the content: a second run has no second effect."""
    gathered = library(line(), line(track="HD", kid=OTHER_KID), line(asset="b", kid=b"b" * 16))
    lacking = Present("demo", {}).missing(gathered)
    first, again = [list(events_of("demo", lacking, now)) for now in (NOW, NOW + 5)]
    assert [event.asset for event in first] == ["film", "b"]
    assert [event.event_id for event in first] == [event.event_id for event in again]
    body = first[0].body
    assert isinstance(body, AssetIngested) and body.tracks is not None
    assert [(wish.label, wish.kid) for wish in body.tracks] == [("SD", KID), ("HD", OTHER_KID)]
    assert KEY not in encode(first[0])


def test_what_is_there_is_passed_over_and_what_differs_is_told() -> None:
    """After an import the same file has nothing to send; a changed one names every difference."""
    world = World()
    assert imported_into(world, library(line(), line(track="HD", kid=OTHER_KID))) == []
    assert world.keys("film") == {KID: (KEY, "IMPORTED"), OTHER_KID: (KEY, "IMPORTED")}
    again = library(line(), line(track="HD", kid=OTHER_KID))
    assert present(world).missing(again) == {} and again.problems == []
    more = library(line(), line(track="AUDIO"))
    assert [row.row.track for row in present(world).missing(more)["film"]] == ["AUDIO"]
    for wrong, code in ((line(key=OTHER_KEY), "different"), (line(asset="other"), "kid_taken")):
        changed = library(wrong)
        assert present(world).missing(changed) == {}
        assert [each.code for each in changed.problems] == [code]


def test_a_kid_that_was_chosen_or_derived_is_taken() -> None:
    """The plan says what the processor would say."""
    world = World()
    world.take(chosen(("SD", KID), asset="chosen"))
    world.take(chosen(("SD", None), asset="derived"))
    (derived,) = world.keys("derived")
    for kid in (KID, derived):
        gathered = library(line(kid=kid))
        (event,) = events_of("demo", Present("demo", {}).missing(gathered), NOW)
        present(world).missing(gathered)
        assert [each.code for each in gathered.problems] == ["kid_taken"]
        assert [letter.reason for letter in world.take(event).dead_letters] == ["kid_taken"]


ROWS = st.lists(
    st.tuples(
        st.sampled_from(("a", "b", "c")), st.sampled_from(("SD", "HD", "AUDIO")),
        st.integers(0, 5), st.integers(0, 2),
    ),
    max_size=20,
)  # fmt: skip


@given(ROWS, ROWS)
def test_whatever_a_library_holds_what_the_plan_sends_is_accepted(first, second) -> None:
    """The plan's checks are the processor's: no event that it lets through is refused, and each key is the file's."""
    world = World()
    for rows in (first, second):
        gathered = library(*(line(asset, track, bytes([n]) * 16, bytes([80 + k]) * 16) for asset, track, n, k in rows))
        assert imported_into(world, gathered) == []
        for asset, sealed in gathered.assets.items():
            if asset not in gathered.spoilt:
                assert {each.row.kid: each.row.cek.reveal() for each in sealed}.items() <= {
                    kid: cek for kid, (cek, _) in world.keys(asset).items()
                }.items()


def test_csv_quotes_and_blank_lines_are_taken() -> None:
    """The dialect that spreadsheets write."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([["asset", "track", "kid", "key"], [], ["film", " SD ", KID.hex(), KEY.hex()], ["", "", "", ""]])
    rows = list(read_rows("keys.csv", io.StringIO("\ufeff" + text.getvalue(), newline=""), []))
    assert [(row.asset, row.track, row.line) for row in rows] == [("film", "SD", 3)]


def test_the_example_of_the_page_is_read() -> None:
    """docs/import.md shows a file as it must be."""
    page = (Path(__file__).parents[2] / "docs" / "import.md").read_text()
    example = page.split("```\n")[1]
    problems: list[Problem] = []
    rows = list(read_rows("page", io.StringIO(example, newline=""), problems))
    assert problems == []
    assert [(row.track, row.scheme, row.iv is None) for row in rows] == [("SD", "cbcs", True), ("AUDIO", "cenc", False)]
