"""A backup gives back what was saved, to its recipients alone, and nothing at all once a bit of it is changed."""

import base64
import itertools
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.errors import Corrupt, InvalidRecord, KeymillError, Misconfigured
from keymill.ops import sealing
from keymill.ops.backup_file import (
    Header,
    OrganizationKeys,
    Saved,
    SavedRecord,
    SavedTopic,
    open_backup,
    read_backup,
    write_backup,
)
from keymill.ops.recipients import (
    PRIVATE,
    Identity,
    find_recipient,
    make_identity,
    public_key,
    public_word,
    read_identity,
)
from schemas.records import TopicAdopted
from tests.golden import backup as golden

records = st.builds(
    SavedRecord,
    st.sampled_from(("drm.credentials.v1", "drm.entitlements.v1")),
    st.integers(0, 23),
    st.integers(0, 2**40),
    st.integers(0, 2**41),
    st.binary(min_size=1, max_size=40),
    st.none() | st.binary(max_size=200),
)
saveds = st.builds(
    Saved,
    key_file=st.binary(max_size=500),
    adoptions=st.lists(
        st.builds(
            TopicAdopted, topic=st.sampled_from(("drm.assets.v1", "drm.keys.v1")), topic_id=st.just("id"),
            generation=st.integers(0, 9), partitions=st.integers(1, 24), adopted=st.integers(0, 2**41),
        ),
        max_size=3,
    ).map(tuple),
    records=st.lists(records, max_size=5).map(tuple),
)  # fmt: skip
SECRET = b'{"roots": "very secret"}'
SAVED = Saved(key_file=SECRET, adoptions=(), records=(SavedRecord("drm.services.v1", 1, 2, 3, b"acme/tv/1", b"v"),))


def header_for(recipients: tuple[str, ...], quorum: int = 1) -> Header:
    return Header(
        created=1, keymill="0.1.0", recipients=recipients, quorum=quorum, intake_epochs=(1,),
        organizations=(OrganizationKeys(organization="acme", root_versions=(1, 2), kek_epochs=(1,)),),
        topics=(SavedTopic(topic="drm.services.v1", topic_id="x", generation=3, partitions=2, ends=(4, 5), records=1),),
    )  # fmt: skip


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> list[Identity]:
    """Five people, each with an identity."""
    folder = tmp_path_factory.mktemp("identities")
    return [make_identity(folder / f"{number}.key") for number in range(5)]


def made(path: Path, people: list[Identity], quorum: int = 1, saved: Saved = SAVED) -> Header:
    header = header_for(tuple(each.recipient for each in people), quorum)
    write_backup(path, header, saved)
    return header


@given(saved=saveds)
def test_what_was_saved_comes_back(
    tmp_path_factory: pytest.TempPathFactory, people: list[Identity], saved: Saved
) -> None:
    """Header and content, byte for byte, to any one recipient."""
    path = tmp_path_factory.mktemp("backup") / "keys.backup"
    header = made(path, people[:2], saved=saved)
    sealed = read_backup(path)
    assert header == sealed.header
    assert [saved, saved] == [open_backup(sealed, [each]) for each in people[:2]]


def test_a_change_of_any_bit_is_refused(tmp_path: Path, people: list[Identity]) -> None:
    """Header, envelopes (those of other people too) and content alike."""
    path = tmp_path / "keys.backup"
    made(path, people[:3], quorum=2)
    data = path.read_bytes()
    assert SAVED == open_backup(read_backup(path), people[:2])
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ (1 << position % 8)]) + data[position + 1 :])
        with pytest.raises((Corrupt, Misconfigured)):
            open_backup(read_backup(path), people[:2])


def test_what_is_cut_short_or_goes_on_is_refused(tmp_path: Path, people: list[Identity]) -> None:
    """At every length, and with more behind."""
    path = tmp_path / "keys.backup"
    made(path, people[:1])
    data = path.read_bytes()
    for changed in (*(data[:size] for size in range(len(data))), data + b"\0", data + data):
        path.write_bytes(changed)
        with pytest.raises(Corrupt):
            open_backup(read_backup(path), people[:1])


@pytest.mark.parametrize("size", [0, 1, sealing.CHUNK - 1, sealing.CHUNK, sealing.CHUNK + 1, 3 * sealing.CHUNK])
def test_chunks_cannot_be_left_out_moved_or_taken_for_the_end(size: int) -> None:
    """A content of any size opens as it was; every other arrangement of its chunks does not."""
    key, content = sealing.draw_file_key(), os.urandom(size)
    chunks = list(sealing.seal(key, content, b"context"))
    assert content == sealing.unseal(key, b"".join(chunks), b"context")
    others = [list(order) for order in itertools.permutations(chunks) if list(order) != chunks]
    others += [chunks[:count] for count in range(len(chunks))] + [[*chunks, chunks[-1]]]
    for arrangement in others:
        with pytest.raises(Corrupt):
            sealing.unseal(key, b"".join(arrangement), b"context")
    with pytest.raises(Corrupt):
        sealing.unseal(key, b"".join(chunks), b"another")


@pytest.mark.parametrize(("people_count", "quorum"), [(1, 1), (3, 1), (3, 2), (3, 3), (5, 3), (5, 4)])
def test_a_quorum_opens_and_fewer_do_not(
    tmp_path: Path, people: list[Identity], people_count: int, quorum: int
) -> None:
    """Every group of the quorum's size, in any order; every smaller one is told whom it takes."""
    path = tmp_path / "keys.backup"
    made(path, people[:people_count], quorum)
    sealed = read_backup(path)
    for size in range(people_count + 1):
        for group in itertools.combinations(reversed(people[:people_count]), size):
            if size >= quorum:
                assert SAVED == open_backup(sealed, group)
            else:
                with pytest.raises(Misconfigured, match=f"it takes the identities of {quorum} of kmpub1.*{size} of"):
                    open_backup(sealed, group)


def test_nobody_else_opens_it(tmp_path: Path, people: list[Identity]) -> None:
    """One identity twice counts once, a stranger's not at all."""
    path = tmp_path / "keys.backup"
    made(path, people[:2], quorum=2)
    for group in ([people[0], people[0]], [people[0], people[4]], [people[3], people[4]]):
        with pytest.raises(Misconfigured, match="it takes the identities of 2 of"):
            open_backup(read_backup(path), group)


def test_fewer_than_the_quorum_lack_a_layer(people: list[Identity]) -> None:
    """Whoever pretends to be the others with a key of their own opens no envelope."""
    words, context = [each.recipient for each in people[:2]], b"context"
    envelopes = sealing.envelopes(bytes(32), words, 2, context)
    pretender = Identity(people[4].private)
    pretender.recipient = words[1]
    with pytest.raises(Corrupt):
        sealing.open_envelopes(envelopes, words, 2, [people[0], pretender], context)
    with pytest.raises(Corrupt):
        sealing.open_envelopes(envelopes, words, 2, people[:2], b"another")


@pytest.mark.parametrize(
    ("count", "quorum"), [(0, 1), (2, 0), (2, 3), (11, 1)], ids=["nobody", "none needed", "too few", "too many"]
)
def test_a_group_that_cannot_be_is_refused(count: int, quorum: int) -> None:
    """Before anything is read; so is a recipient named twice."""
    words = tuple(map(str, range(count)))
    with pytest.raises(InvalidRecord):
        sealing.check_group(words, quorum)
    with pytest.raises(InvalidRecord, match="each once"):
        sealing.check_group((*words[:1], *words[:1], "x", "x"), 1)


def test_a_backup_is_private_whole_and_never_overwritten(tmp_path: Path, people: list[Identity]) -> None:
    """0600 whatever the umask; an existing file stays, and nothing is left beside it."""
    path, before = tmp_path / "keys.backup", os.umask(0)
    try:
        made(path, people[:1])
    finally:
        os.umask(before)
    first = path.read_bytes()
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    with pytest.raises(Misconfigured, match="never overwritten"):
        made(path, people[:1])
    assert (first, [path]) == (path.read_bytes(), list(tmp_path.iterdir()))
    assert SECRET not in first and base64.b64encode(SECRET) not in first


def test_another_file_than_the_noted_one_is_refused(tmp_path: Path, people: list[Identity]) -> None:
    """Anybody can seal to a recipient: the hash says that it is the file that was made."""
    path = tmp_path / "keys.backup"
    sha256 = write_backup(path, header_for((people[0].recipient,)), SAVED)
    assert sha256 == read_backup(path, sha256.upper()).sha256
    with pytest.raises(Corrupt, match="another file"):
        read_backup(path, "0" * 64)


def test_a_newer_format_is_told_apart_from_damage(tmp_path: Path) -> None:
    """What a later keymill wrote needs a later keymill."""
    path = tmp_path / "keys.backup"
    path.write_bytes(b"keymill backup 2\n")
    with pytest.raises(Misconfigured, match="has format 2, this program reads 1"):
        read_backup(path)
    path.write_bytes(b"another file")
    with pytest.raises(Corrupt, match="is no backup of keymill"):
        read_backup(path)


def test_an_identity_is_private_and_found_again(tmp_path: Path) -> None:
    """0600, never overwritten, read back from its file, which names the recipient too; no repr shows it."""
    path, before = tmp_path / "me.key", os.umask(0)
    try:
        identity = make_identity(path)
    finally:
        os.umask(before)
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert identity.recipient == read_identity(path).recipient == find_recipient(str(path))
    assert identity.recipient == find_recipient(identity.recipient) == public_word(public_key(identity.recipient))
    private = next(word for word in path.read_text().split() if word.startswith(PRIVATE))
    assert private not in repr(identity) + str(identity)
    content = path.read_bytes()
    with pytest.raises(Misconfigured, match="never overwritten"):
        make_identity(path)
    assert content == path.read_bytes()


def test_what_cannot_be_made_again_survives_the_machine(
    tmp_path: Path, people: list[Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An identity and a backup, with their names, before anybody is told of them."""
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda place: synced.append(stat.S_ISDIR(os.fstat(place).st_mode)))
    make_identity(tmp_path / "ada.key")
    made(tmp_path / "b", people)
    assert [False, True] * 2 == synced


def test_a_mistyped_word_is_refused(tmp_path: Path) -> None:
    """Each letter of either half is covered by the checksum; no message repeats the private one."""
    path = tmp_path / "me.key"
    identity = make_identity(path)
    private = next(word for word in path.read_text().split() if word.startswith(PRIVATE))
    for place in range(len("kmpub1"), len(private)):
        for word in (private, identity.recipient):
            wrong = word[:place] + ("b" if word[place] == "a" else "a") + word[place + 1 :]
            path.write_text(wrong)
            with pytest.raises(KeymillError) as caught:
                read_identity(path) if word is private else find_recipient(wrong)
            assert wrong not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"kmkey1", b"kmkey1a kmkey1b", b"kmkey1\xc3\xa4"])
def test_a_file_without_an_identity_is_the_caller_s_mistake(tmp_path: Path, content: bytes) -> None:
    """Nothing of it is repeated; a missing file is named."""
    path = tmp_path / "me.key"
    path.write_bytes(content)
    for read in (read_identity, lambda each: find_recipient(str(each))):
        with pytest.raises(InvalidRecord):
            read(path)
    with pytest.raises(Misconfigured, match="no such file"):
        read_identity(tmp_path / "absent")


def test_a_file_of_every_format_ever_written_opens() -> None:
    """Backups are opened years later, by what keymill is then."""
    sealed = read_backup(golden.FILE)
    assert golden.HEADER == sealed.header
    for pair in itertools.combinations(golden.PEOPLE, 2):
        assert golden.SAVED == open_backup(sealed, pair)
