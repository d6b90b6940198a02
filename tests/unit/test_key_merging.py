"""Merging a saved key file into the one in use adds what is missing, and never loses or changes a key."""

import base64
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.errors import Misconfigured
from keymill.kms.keyfile import KeyFile, add_organization, create_key_file
from keymill.kms.keyfile_format import FORMAT, Content, Group, Kek, Root, check_content, read_file
from keymill.kms.merging import merge
from keymill.kms.provider import KekState
from keymill.ops.backup_file import Saved
from keymill.ops.restoring_keys import key_changes

HOUR = 3_600_000


def key(number: int, size: int) -> str:
    return base64.b64encode(random.Random(number).randbytes(size)).decode()


@st.composite
def contents(draw: st.DrawFn, seeds: st.SearchStrategy[int] = st.just(0)) -> Content:
    """A key file; two with equal seeds hold the same key under the same name."""
    versions = st.integers(1, 4)

    def keks() -> tuple[Kek, ...]:
        count = draw(versions)
        retired = draw(st.integers(0, count - 1))
        announced = draw(st.integers(0, count - 1 - retired))
        states = [KekState.RETIRED] * retired + [KekState.ACTIVE] * (count - retired - announced)
        states += [KekState.ANNOUNCED] * announced
        seed = 10 * draw(seeds)
        return tuple(Kek(epoch=at, key=key(at + seed, 64), state=state) for at, state in enumerate(states, 1))

    def group() -> Group:
        roots = range(1, draw(versions) + 1)
        return Group(
            roots=tuple(
                Root(version=each, activates=(each - 1) * HOUR, key=key(each + 100 * draw(seeds), 32)) for each in roots
            ),
            keks=keks(),
        )

    names = draw(st.sets(st.sampled_from(("acme", "globex", "umbrella"))))
    return Content(format=FORMAT, intake=keks(), organizations={name: group() for name in sorted(names)})


def keys_of(content: Content) -> dict[tuple[str, str, int], tuple[str, int]]:
    """Every key by its name."""
    found = {("intake", "kek", kek.epoch): (kek.key, 0) for kek in content.intake}
    for name, group in content.organizations.items():
        found |= {(name, "kek", kek.epoch): (kek.key, 0) for kek in group.keks}
        found |= {(name, "root", root.version): (root.key, root.activates) for root in group.roots}
    return found


@given(held=contents(), saved=contents())
def test_a_merge_has_the_keys_of_both(held: Content, saved: Content) -> None:
    """Of two files of one history, in any state each: a file that a program reads, and a second merge adds nothing."""
    merged = merge(held, saved)
    assert () == merged.contradictions
    assert keys_of(held) | keys_of(saved) == keys_of(merged.content)
    check_content(merged.content, "merged")
    again = merge(merged.content, saved)
    assert (merged.content, ()) == (again.content, again.added)
    assert bool(merged.added) == (states_of(held) != states_of(merged.content))
    assert states_of(merged.content) == states_of(merge(saved, held).content)


def states_of(content: Content) -> dict[tuple[str, int], object]:
    """The state of every epoch, and of every root that it is there."""
    found: dict[tuple[str, int], object] = {("intake", kek.epoch): kek.state for kek in content.intake}
    for name, group in content.organizations.items():
        found |= {(f"{name} KEK", kek.epoch): kek.state for kek in group.keks}
        found |= {(f"{name} root", root.version): root.key for root in group.roots}
    return found


def test_a_rotation_is_never_undone() -> None:
    """An older backup leaves a retired epoch retired; an older file learns from a newer backup what wraps now."""
    states = [(KekState.ACTIVE,), (KekState.ACTIVE, KekState.ANNOUNCED), (KekState.RETIRED, KekState.ACTIVE)]
    steps = [tuple(Kek(epoch=at, key=key(at, 64), state=state) for at, state in enumerate(each, 1)) for each in states]
    pairs = zip((1, 2, 2), steps, strict=True)
    files = [Content(format=number, intake=keks, organizations={}) for number, keks in pairs]
    for older in range(3):
        for newer in range(older, 3):
            assert files[newer] == merge(files[newer], files[older]).content
            assert files[newer] == merge(files[older], files[newer]).content
    assert ("intake KEK 1 is retired", "intake KEK 2 is active") == merge(files[1], files[2]).added


@given(held=contents(st.integers(0, 2)), saved=contents(st.integers(0, 2)))
def test_a_contradiction_changes_nothing(held: Content, saved: Content) -> None:
    """Whatever the two hold, no key in use is lost or becomes another; each contradiction is named, never shown."""
    merged = merge(held, saved)
    own, other = keys_of(held), keys_of(saved)
    assert own.items() <= keys_of(merged.content).items()
    clash = {name for name in own.keys() & other.keys() if own[name] != other[name]}
    assert bool(clash) == bool(merged.contradictions)
    if clash:
        assert (held, ()) == (merged.content, merged.added)
    assert not [
        text for value, _ in (*own.values(), *other.values()) for text in merged.contradictions if value in text
    ]


def test_an_activation_time_is_part_of_a_root() -> None:
    """The same key from another time on is a contradiction: assets of between would pin another root."""
    roots = [Root(version=1, activates=0, key=key(1, 32)), Root(version=2, activates=HOUR, key=key(2, 32))]
    keks = (Kek(epoch=1, key=key(1, 64)),)
    held = Content(format=FORMAT, intake=keks, organizations={"acme": Group(roots=tuple(roots), keks=keks)})
    later = msgspec.structs.replace(roots[1], activates=HOUR + 1)
    group = Group(roots=(roots[0], later), keks=keks)
    merged = merge(held, msgspec.structs.replace(held, organizations={"acme": group}))
    assert ("root of acme 2 is another in the backup",) == merged.contradictions


def test_roots_that_cannot_stand_beside_each_other_are_a_contradiction() -> None:
    """A version that is missing in use, but activates after a higher one that is not."""
    keks = (Kek(epoch=1, key=key(1, 64)),)
    first = Root(version=1, activates=0, key=key(1, 32))
    in_use = Group(roots=(first, Root(version=3, activates=HOUR, key=key(3, 32))), keks=keks)
    saved = Group(roots=(first, Root(version=2, activates=2 * HOUR, key=key(2, 32))), keks=keks)
    held = Content(format=FORMAT, intake=keks, organizations={"acme": in_use})
    merged = merge(held, msgspec.structs.replace(held, organizations={"acme": saved}))
    assert held == merged.content
    assert "roots of acme must ascend" in merged.contradictions[0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A key file with one organization."""
    path = tmp_path / "keys.json"
    create_key_file(path)
    add_organization(path, "acme")
    return path


def saved_of(path: Path) -> Saved:
    return Saved(key_file=path.read_bytes(), adoptions=(), records=())


def test_a_lost_key_file_comes_back_byte_for_byte(path: Path) -> None:
    """The plan says so and writes nothing; the application does, mode 0600."""
    before, saved = path.read_bytes(), saved_of(path)
    path.unlink()
    planned = key_changes(path, saved, apply=False)
    assert (False, ("the whole file", "organization acme")) == (planned.present, planned.added)
    assert not path.exists()
    assert planned == key_changes(path, saved, apply=True)
    assert (before, 0o600) == (path.read_bytes(), path.stat().st_mode & 0o777)


def test_an_older_backup_never_replaces_a_newer_file(path: Path) -> None:
    """What was added since stays; nothing is rewritten when nothing is missing."""
    saved = saved_of(path)
    add_organization(path, "globex")
    before = path.read_bytes()
    assert () == key_changes(path, saved, apply=True).added
    assert before == path.read_bytes()


def test_an_older_file_gets_what_it_lacks(path: Path) -> None:
    """As after a copy of last week was put back by hand."""
    older = path.read_bytes()
    add_organization(path, "globex")
    saved, newer = saved_of(path), read_file(path)[0]
    path.write_bytes(older)
    assert ("organization globex",) == key_changes(path, saved, apply=False).added
    assert older == path.read_bytes()
    assert ("organization globex",) == key_changes(path, saved, apply=True).added
    assert newer == read_file(path)[0]
    assert ("acme", "globex") == KeyFile(path).organizations()


def test_new_roots_under_an_old_name_are_not_overwritten(path: Path, tmp_path: Path) -> None:
    """As when somebody made the organization again after the loss: listed, left alone, in the application too."""
    other = tmp_path / "other.json"
    create_key_file(other)
    add_organization(other, "acme")
    saved, before = saved_of(other), path.read_bytes()
    found = key_changes(path, saved, apply=True)
    expected = [f"{what} 1 is another in the backup" for what in ("intake KEK", "root of acme", "KEK of acme")]
    assert (expected, ()) == (list(found.contradictions), found.added)
    assert before == path.read_bytes()


def test_a_damaged_key_file_is_left_alone(path: Path) -> None:
    """Moving it away is an operator's decision."""
    saved = saved_of(path)
    path.write_bytes(b"{")
    with pytest.raises(Misconfigured, match="is damaged"):
        key_changes(path, saved, apply=True)
    assert b"{" == path.read_bytes()
