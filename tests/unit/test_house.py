"""The house: sizes, docstrings, names, and what must not stand in any committed file."""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("keymill", "schemas", "streams", "connectors")
MODULE_LINES = 400
FUNCTION_LINES = 40
TEST_MODULE_LINES = 600
"""Tests are lists: long is fine, endless is not."""

LONGER = {
    "keymill/proxy/procedure.py:decide",  # the eleven numbered steps, which must be read as one
}
"""Functions above the limit, each with its reason; never above twice the limit."""

VAGUE = re.compile(r"(^|_)(utils?|helpers?|common|managers?|base|misc|stuff|lib)(_|$)")
Function = ast.FunctionDef | ast.AsyncFunctionDef

# Spelt in parts, so that this file does not hold what it forbids.
FORBIDDEN = {
    "a registry's address": ["https://" + "pypi", "pythonhosted" + ".org", "repo1" + ".maven", "repo.maven" + ".apache",
                             "registry" + ".npmjs", "registry.yarn" + "pkg", "proxy.golang" + ".org"],
    "a machine's path": ["/" + "work/", "/" + "root/", "/" + "home/", "C:" + "\\Users"],
    "a private key": ["BEGIN " + "PRIVATE KEY", "BEGIN RSA " + "PRIVATE KEY", "BEGIN EC " + "PRIVATE KEY"],
}  # fmt: skip


@cache
def committed() -> dict[str, str]:
    """Every text file that is or will be committed, by path."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    texts = {}
    for name in filter(None, names):
        try:
            texts[name] = (ROOT / name).read_text()
        except (UnicodeDecodeError, FileNotFoundError):
            continue  # a picture, or a file that is about to leave
    return texts


@cache
def modules() -> dict[str, ast.Module]:
    """Our own modules, parsed."""
    return {
        name: ast.parse(text)
        for name, text in committed().items()
        if name.endswith(".py") and name.split("/")[0] in PACKAGES
    }


def functions() -> Iterator[tuple[str, Function]]:
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield name, node


def lines_of(function: Function) -> int:
    """Lines of code from the first to the last, without signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]


def test_there_is_something_to_look_at() -> None:
    """Else everything below would pass for nothing."""
    assert len(modules()) > 100
    assert {name.split("/")[0] for name in modules()} == set(PACKAGES)
    assert "pyproject.toml" in committed()


def test_modules_are_short() -> None:
    """At most 400 lines; tests may be longer."""
    sizes = {name: len(text.splitlines()) for name, text in committed().items() if name.endswith(".py")}
    limits = {name: MODULE_LINES if name.split("/")[0] in PACKAGES else TEST_MODULE_LINES for name in sizes}
    assert {} == {name: size for name, size in sizes.items() if size > limits[name]}


def test_functions_are_short() -> None:
    """At most 40 lines of code, but for those that are listed with a reason; a listed one that is short leaves."""
    long = {f"{name}:{node.name}": lines_of(node) for name, node in functions() if lines_of(node) > FUNCTION_LINES}
    assert LONGER == set(long)
    assert {} == {name: size for name, size in long.items() if size > 2 * FUNCTION_LINES}


def public(body: list[ast.stmt], path: str) -> Iterator[tuple[str, ast.ClassDef | Function]]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield f"{path}:{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{path}:{node.name}")


def test_everything_public_has_a_docstring() -> None:
    """Modules with code, classes, functions and methods."""
    found = {name: tree for name, tree in modules().items() if tree.body}
    docs = {name: ast.get_docstring(tree) for name, tree in found.items()}
    docs |= {path: ast.get_docstring(node) for name, tree in found.items() for path, node in public(tree.body, name)}
    assert [] == [name for name, text in docs.items() if not text]


def test_every_test_says_what_it_shows() -> None:
    """One sentence under each test function's name."""
    silent = []
    for name, text in committed().items():
        if name.startswith("tests/") and "/test_" in name:
            nodes = ast.walk(ast.parse(text))
            tests = [node for node in nodes if isinstance(node, Function) and node.name.startswith("test_")]
            silent += [f"{name}:{node.name}" for node in tests if not ast.get_docstring(node)]
    assert [] == silent


def test_names_say_what_is_in_them() -> None:
    """No utils, helpers, common, manager or base; neither as a module nor as a class."""
    parts = {(name, part.removesuffix(".py")) for name in modules() for part in name.split("/")}
    for name, tree in modules().items():
        parts |= {(name, node.name) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    snake = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
    assert set() == {(name, part) for name, part in parts if VAGUE.search(snake.sub("_", part).lower())}


def test_words_of_the_field_are_used() -> None:
    """A Kafka message key is a record key; a license has its US spelling; no keystream."""
    wrong = re.compile(r"\b(licence\w*|keystreams?|message_key|content_key_id)\b", re.IGNORECASE)
    texts = {name: text for name, text in committed().items() if name in modules() or name.startswith("docs/")}
    assert {} == {name: found for name, text in texts.items() if (found := wrong.findall(text))}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_committed_file_holds(what: str) -> None:
    """Indexes come from the environment, and nothing of the machine it was written on stays behind."""
    patterns = FORBIDDEN[what]
    assert {} == {name: found for name, text in committed().items() if (found := [p for p in patterns if p in text])}


def test_no_lock_names_where_it_came_from() -> None:
    """npm and uv are told to leave addresses out; git dependencies would bring one."""
    for name in ("requirements.lock", "requirements-run.lock", "keymill/ops/demo/player/package-lock.json"):
        assert [] == re.findall(
            r"https?://\S+\.(?:whl|tgz|gz)|--(?:extra-)?index-url|git\+|\"resolved\"", committed()[name]
        )


def test_every_locked_package_has_hashes() -> None:
    """Whatever index serves it, it is the same file."""
    for name in ("requirements.lock", "requirements-run.lock"):
        entries = re.split(r"\n(?=\S)", re.sub(r"(?m)^#.*\n", "", committed()[name]).strip())
        assert len(entries) > 40
        assert [] == [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry]


def test_how_many_examples_a_property_is_given_is_a_profiles_matter() -> None:
    """A number in a test would hold in `make soak` too, and a slow one in `make test`."""
    counts = {"max_" + "examples", "stateful_" + "step_count"}
    naming = {name for name, text in committed().items() if any(count in text for count in counts)}
    assert naming == {"tests/conftest.py", "tests/examples.py"}
