"""What commands print: JSON on one line, or text for people."""

import json
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from keymill.ops.listing import print_listing, print_result

words = st.text(st.characters(codec="utf-8"), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
results = st.dictionaries(st.from_regex(r"[a-z_]{1,12}", fullmatch=True), values, min_size=1, max_size=5)


def printed(call: Any, *arguments: Any, **options: Any) -> str:
    """What a function prints on stdout."""
    with redirect_stdout(StringIO()) as out:
        call(*arguments, **options)
    return out.getvalue()


@given(results)
def test_a_result_is_one_line_of_json(result: dict[str, Any]) -> None:
    """Whatever stands in it; it reads back as it was, and the text for people is not there."""
    text = printed(print_result, result, text="for people", as_json=True)
    assert (1, True, result) == (text.count("\n"), text.endswith("\n"), json.loads(text))


@given(st.lists(results, max_size=3))
def test_a_listing_is_one_line_of_json(rows: list[dict[str, Any]]) -> None:
    """An array, of no rows too."""
    text = printed(print_listing, (), rows, as_json=True)
    assert (1, rows) == (text.count("\n"), json.loads(text))


def test_a_result_is_text_for_people() -> None:
    """A line per member, in order; or the one line that says it all."""
    result = {"organization": "demo", "created": True, "limits": {"can_play": True}, "provider": None, "version": 1}
    shown = ["demo", "yes", '{"can_play":true}', "-", "1"]
    lines = [line.split() for line in printed(print_result, result, as_json=False).splitlines()]
    assert [list(each) for each in zip(result, shown, strict=True)] == lines
    assert "made\n" == printed(print_result, result, text="made", as_json=False)
