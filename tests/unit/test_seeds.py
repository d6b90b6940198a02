"""docs/seeds.md: every sentence of the five documents names tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = {
    "TPStreams": "T",
    "DRM proxy flow": "P",
    "Firstlight": "F",
    "Azure Media Services": "A",
    "NAVER Cloud Platform": "N",
}
"""How a document's heading begins, and the letter of its rows."""
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)(\[[^`|]+\])?`")


class Row(NamedTuple):
    """A line of a table: its id, the sentence, and what stands in the last cell."""

    name: str
    sentence: str
    shown_by: str


def rows_by_document(page: str) -> dict[str, list[Row]]:
    """The rows under each heading; lines of a table that are no head are rows, whatever they hold."""
    found: dict[str, list[Row]] = {}
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        heading, *lines = section.splitlines()
        table = [line for line in lines if line.startswith("|")]
        found[heading] = [Row(*[cell.strip() for cell in line[1:-1].split("|")]) for line in table[2:]]
    return found


@cache
def found_in(path: str) -> dict[str, bool]:
    """The test functions of a file, parsed and not imported: whether each is parametrised."""
    file = ROOT / path
    tree = ast.parse(file.read_text()) if file.is_file() else ast.Module(body=[], type_ignores=[])
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {
        node.name: any("parametrize" in ast.unparse(decorator) for decorator in node.decorator_list)
        for node in functions
        if node.name.startswith("test_")
    }


def faults(page: str) -> list[str]:
    """What is wrong with a page, in its own order."""
    found = []
    for heading, rows in rows_by_document(page).items():
        letter = next((letter for name, letter in DOCUMENTS.items() if heading.startswith(name)), None)
        if letter is None:
            found.append(f"{heading}: no document of ours")
            continue
        expected = [f"{letter}{number}" for number in range(1, len(rows) + 1)]
        found += [f"{row.name}: should be {name}" for row, name in zip(rows, expected, strict=True) if row.name != name]
        found += [f"{row.name}: no sentence" for row in rows if not row.sentence]
        found += [f"{row.name}: {fault}" for row in rows for fault in faults_of(row.shown_by)]
    filled = tuple(heading for heading, rows in rows_by_document(page).items() if rows)
    return found + [f"{name}: no row" for name in DOCUMENTS if not any(each.startswith(name) for each in filled)]


def faults_of(shown_by: str) -> list[str]:
    """What is wrong with the last cell of a row."""
    named = TEST.findall(shown_by)
    rest = TEST.sub("", shown_by).replace(",", "").strip()
    found = [] if named else ["no test"]
    found += [f"{rest} is no test id"] if rest else []
    for path, name, case in named:
        if name not in found_in(path):
            found.append(f"{path}::{name} does not exist")
        elif case and not found_in(path)[name]:
            found.append(f"{path}::{name} has no cases")
    return found


def test_every_sentence_names_tests_that_exist() -> None:
    """No row is without one, no document without rows, and no number is left out."""
    assert [] == faults((ROOT / "docs" / "seeds.md").read_text())


def test_every_sentence_stands_once() -> None:
    """A row that says the same as another one of its document would count twice."""
    for heading, rows in rows_by_document((ROOT / "docs" / "seeds.md").read_text()).items():
        sentences = [row.sentence for row in rows]
        assert len(sentences) == len(set(sentences)), heading


GOOD = "".join(
    f"## {name}\n\n| Row | Says | Shown by |\n| --- | --- | --- |\n"
    f"| {letter}1 | It | `tests/unit/test_seeds.py::test_every_sentence_stands_once` |\n\n"
    for name, letter in DOCUMENTS.items()
)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("::test_every_sentence_stands_once", "::test_nothing", "does not exist"),
        ("tests/unit/test_seeds.py", "tests/unit/test_nothing.py", "does not exist"),
        ("::test_every_sentence_stands_once", "::rows_by_document", "does not exist"),
        ("::test_every_sentence_stands_once", "::test_every_sentence_stands_once[x]", "has no cases"),
        ("`tests/unit/test_seeds.py::test_every_sentence_stands_once`", "", "no test"),
        ("`tests/unit/test_seeds.py::test_every_sentence_stands_once`", "by hand", "no test"),
        ("stands_once`", "stands_once`, and by hand", "is no test id"),
        ("| It |", "| |", "no sentence"),
        ("| N1 |", "| N2 |", "should be N1"),
        ("## Azure", "## Amazon", "Azure Media Services: no row"),
        ("| F1 | It | `tests/unit/test_seeds.py::test_every_sentence_stands_once` |\n", "", "Firstlight: no row"),
    ],
)
def test_a_wrong_page_is_told(old: str, new: str, fault: str) -> None:
    """Each fault by its row, or by its document; the page without it has none."""
    assert [] == faults(GOOD)
    assert any(fault in told for told in faults(GOOD.replace(old, new)))
