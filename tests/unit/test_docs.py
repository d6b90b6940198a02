"""The pages of docs/ say what the code does: codes, settings, topics, decisions."""

import re
from importlib.metadata import distributions
from pathlib import Path

import pytest

from keymill.ops.docs import PAGES
from keymill.proxy.request import Reason

ROOT = Path(__file__).parents[2]
SOURCES = [path for name in ("keymill", "schemas", "streams", "connectors") for path in (ROOT / name).rglob("*.py")]
CODE = re.compile(
    r'code="([a-z_]+)"|^    code = "([a-z_]+)"|HttpReject\(\s*\d+, "([a-z_]+)"|(?:quarantined|stale)\("([a-z_]+)"\)'
    r'|problem\(\s*\d+, "([a-z_]+)"',
    re.MULTILINE,
)


def codes() -> set[str]:
    found = {next(filter(None, each)) for path in SOURCES for each in CODE.findall(path.read_text())}
    return found | {reason.value for reason in Reason}


def test_every_code_is_documented() -> None:
    """docs/errors.md names every code that the source can give."""
    page = (ROOT / "docs" / "errors.md").read_text()
    assert codes()
    assert set() == {code for code in codes() if f"`{code}`" not in page}


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_current(name: str) -> None:
    """`make docs` was run after the last change of settings or topics."""
    assert PAGES[name]() == (ROOT / "docs" / name).read_text()


def test_the_steps_of_a_key_s_life_and_the_code_name_each_other() -> None:
    """Every step of ARCHITECTURE.md is named by a module that it names, and no module names another step."""
    page = (ROOT / "ARCHITECTURE.md").read_text()
    life = page[page.index("## The life of a key") : page.index("## ", page.index("## The life of a key") + 4)]
    steps = {
        int(number): text for number, text in re.findall(r"^(\d)\. (.*?)(?=^\d\. |\Z)", life, re.DOTALL | re.MULTILINE)
    }
    named: dict[int, set[str]] = {number: set() for number in steps}
    for path in SOURCES:
        for first, joint, last in re.findall(r"ARCHITECTURE\.md, steps? (\d)(?: (to|and) (\d))?", path.read_text()):
            for number in range(int(first), int(last) + 1) if joint == "to" else {int(first), int(last or first)}:
                named[number].add(str(path.relative_to(ROOT)))
    assert list(steps) == list(range(1, 10))
    assert [] == [number for number, text in steps.items() if not any(f"`{path}`" in text for path in named[number])]


def test_links_lead_somewhere() -> None:
    """Every relative link, and every path in backticks that names a file of ours, exists."""
    missing = set()
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        text = page.read_text()
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            if not (page.parent / target).exists():
                missing.add((page.name, target))
        for target in re.findall(r"`((?:keymill|schemas|streams|connectors|tests|docs)/[\w./-]+\.\w+)`", text):
            if not (ROOT / target).exists():
                missing.add((page.name, target))
    assert set() == missing


def test_no_other_distribution_has_our_package_names() -> None:
    """ADR 0006: plain top-level names clash with nothing that is installed."""
    ours = {"schemas", "streams", "connectors", "keymill"}
    for distribution in distributions():
        if distribution.metadata["Name"] == "keymill":
            continue
        tops = {str(path).split("/")[0] for path in distribution.files or () if "/" in str(path)}
        assert set() == tops & ours, distribution.metadata["Name"]


def test_reveal_is_called_only_where_it_may_be() -> None:
    """Clear key bytes leave their `Secret` in the listed modules alone."""
    allowed = re.compile(
        r"keymill/(core/(derive|envelope|credentials)|drm/(clearkey|cpix|playready)|secret|proxy/(auth|upstream/.*)"
        r"|gateway/dialects/.*)\.py"
    )  # proxy/auth reveals an organization's HS256 token secret to PyJWT, never a content key
    calls = {str(path.relative_to(ROOT)) for path in SOURCES if ".reveal()" in path.read_text()}
    assert set() == {path for path in calls if not allowed.fullmatch(path)}
