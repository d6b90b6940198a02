"""What commands print: JSON on one line, or text for people."""

import json
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.config import Settings
from keymill.kafka import authentication
from keymill.ops.address import bootstrap_of
from keymill.ops.listing import json_of, print_listing, print_result
from schemas import topics
from schemas.topics import Authentication
from tests.authentic import installation

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


def read_from(topic: topics.Topic) -> str:
    """Read a record that nobody authenticated, as every scan does; what is said on stderr meanwhile."""
    record = SimpleNamespace(headers=list, key=lambda: b"demo/self", value=lambda: b"", partition=int, offset=int)
    with redirect_stderr(StringIO()) as said:
        authentication.refusal_of(record, topic.name)  # type: ignore[arg-type]
    return said.getvalue()


@pytest.mark.parametrize("topic", topics.CATALOGUE, ids=lambda topic: topic.name)
def test_what_was_read_without_keys_is_said_to_be_unverified(topic: topics.Topic, tmp_path: Path) -> None:
    """Once on stderr, with the file that is missing, and in every object of JSON; never of topics without proofs."""
    settings = Settings(data=tmp_path, bootstrap="127.0.0.1:1")
    bare = topic.authentication is Authentication.NONE
    try:
        bootstrap_of(settings)
        assert '{"a":1}' == json_of({"a": 1})
        assert ("" if bare else str(settings.keys_path)) in (said := read_from(topic)) and bool(said) is not bare
        assert "" == read_from(topic)
        mark = {} if bare else {"verified": False}
        assert {"a": 1} | mark == json.loads(json_of({"a": 1}))
        assert [{"a": 1} | mark, "b"] == json.loads(json_of([{"a": 1}, "b"]))
        installation(tmp_path, "demo")
        authentication.install(None)
        bootstrap_of(settings)
        assert ("", '{"a":1}') == (read_from(topic), json_of({"a": 1}))
    finally:
        authentication.install(None)
