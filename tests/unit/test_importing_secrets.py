"""What an import says of a bad row or header holds no key; and how many keys an asset may have."""

import io
from itertools import combinations, islice

import pytest

from keymill.errors import InvalidRecord
from keymill.ops.importing import read_rows
from schemas.values import CLEAR_LABEL, LABELS, MAX_TRACKS
from tests.unit.test_importing import KEY, KID, b64, library, line, read

LONG = KEY.hex() + "c1"


@pytest.mark.parametrize("secret", [KEY.hex(), b64(KEY), LONG])
@pytest.mark.parametrize(
    "bad",
    [
        "film,SD,{kid},{long},,,",
        "film,SD,{kid},{secret},{long},,",
        "film,SD,{kid},{secret},,,0011223344556677",
        "film,SD,{kid},{secret},,,{long}",
        "film,SD,{kid},{secret},,nonsense,",
        "film,SD,{kid},{secret}",
        "film,SD,{kid},{secret},,,,,{secret}",
        'film,SD,{kid},"{secret}\x00,,,',
    ],
)
def test_no_problem_of_a_row_holds_its_key(bad: str, secret: str) -> None:
    """Too long a key, in the wrong column, beside a wrong checksum or scheme, with too few or too many fields."""
    rows, problems = read(bad.format(kid=KID.hex(), secret=secret, long=secret + "c1"))
    assert [] == rows and problems
    told = repr(problems) + "".join(each.message for each in problems)
    assert KEY.hex() not in told and b64(KEY).rstrip("=") not in told


@pytest.mark.parametrize("header", [f"asset,track,kid,{KEY.hex()}", f"asset,track,kid,key,{b64(KEY)}", KEY.hex()])
def test_no_problem_of_a_header_holds_a_key(header: str) -> None:
    """Lower case or not."""
    with pytest.raises(InvalidRecord) as refused:
        list(read_rows("keys.csv", io.StringIO(header), []))
    assert (
        KEY.hex() not in str(refused.value).lower() and b64(KEY).lower().rstrip("=") not in str(refused.value).lower()
    )


def test_an_asset_has_no_more_keys_than_an_event_can_carry() -> None:
    """Told once, at the first row too many."""
    pairs = combinations(sorted(LABELS - {"ALL", CLEAR_LABEL}), 2)
    tracks = ["+".join(pair) for pair in islice(pairs, MAX_TRACKS + 2)]
    rows = [line(track=track, kid=n.to_bytes(16), key=n.to_bytes(16)) for n, track in enumerate(tracks)]
    assert [] == library(*rows[:MAX_TRACKS]).problems
    gathered = library(*rows)
    assert [("too_many_tracks", MAX_TRACKS + 2)] == [(each.code, each.line) for each in gathered.problems]
    assert {"film"} == gathered.spoilt
