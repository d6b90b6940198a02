"""A restore replaces nothing newer, brings back nothing deleted, and lets nothing new be placed before the old."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.kms.keyfile import add_organization, create_key_file
from keymill.ops.backup_file import SavedRecord, write_backup
from keymill.ops.recipients import make_identity
from keymill.ops.restore import Part, restore
from keymill.ops.restoring import KEPT, MISSING, OVERWRITTEN, SAME, WITHDRAWN, decisions, renewals
from schemas import topics
from schemas.access import ApiKey, Credential, Entitlement, Service
from schemas.codec import decode, encode
from schemas.records import TopicAdopted
from schemas.topics import CREDENTIALS, ENTITLEMENTS, SERVICES
from schemas.values import DrmSystem
from tests.golden.backup import HEADER, SAVED

NAME = topics.ASSETS.name


def adopted(topic_id: str, generation: int, topic: str = NAME, partitions: int = 4) -> TopicAdopted:
    return TopicAdopted(topic=topic, topic_id=topic_id, generation=generation, partitions=partitions, adopted=1)


def generation_of(
    saved: TopicAdopted, now: str | None, current: TopicAdopted | None, least: int = 0
) -> tuple[str | None, int] | None:
    """(topic id, generation) that is recorded; None for nothing."""
    ids = {NAME: (now, 4)} if now else {}
    found = list(renewals([saved], ids, {NAME: current} if current else {}, least))
    return (found[0].topic_id, found[0].generation) if found else None


@pytest.mark.parametrize(
    ("now", "current", "expected"),
    [
        (None, None, (None, 4)),
        ("b", None, ("b", 4)),
        ("b", adopted("b", 0), ("b", 4)),
        ("b", adopted("b", 3), ("b", 4)),
        ("b", adopted("b", 4), None),
        ("b", adopted("b", 9), None),
        ("c", adopted("b", 9), ("c", 10)),
        ("a", adopted("a", 3), None),
        ("a", None, ("a", 3)),
        ("a", adopted("a", 5), None),
    ],
    ids=["topic lost", "status lost", "created anew", "taken for the old one", "adopted", "adopted often", "again new",
         "untouched", "status alone lost", "counted since"],
)  # fmt: skip
def test_generations_go_on_above_the_lost_ones(
    now: str | None, current: TopicAdopted | None, expected: tuple[str | None, int] | None
) -> None:
    """The backup's topic `a` had generation 3; `now` is the id of the topic that exists."""
    assert expected == generation_of(adopted("a", 3), now, current)


def test_a_generation_may_be_asked_for() -> None:
    """Where topics were lost once more since the backup; it never lowers one, and leaves the backup's own topic."""
    assert (None, 7) == generation_of(adopted("a", 3), None, None, least=7)
    assert ("b", 4) == generation_of(adopted("a", 3), "b", None, least=2)
    assert None is generation_of(adopted("a", 3), "a", adopted("a", 3), least=7)


@given(saved=st.integers(0, 9), held=st.none() | st.integers(0, 9), least=st.integers(0, 9), same=st.booleans())
def test_a_restore_is_repeated_without_effect(saved: int, held: int | None, least: int, same: bool) -> None:
    """Once recorded, the generation is above those of other topics, and a second restore records nothing."""
    before, now = adopted("a", saved), "a" if same else "b"
    current = None if held is None else adopted(now, held)
    found = generation_of(before, now, current, least)
    after = current if found is None else adopted(now, found[1])
    assert after is not None
    assert after.generation > saved or (same and after.generation == saved)
    assert after.generation >= (held or 0)
    assert None is generation_of(before, now, after, least)


RECORDS = {
    CREDENTIALS.name: Credential(
        organization="acme", credential="x", revoked=False, created=1, label="", body=ApiKey(token_sha256=bytes(32)),
        sequence=2,
    ),
    SERVICES.name: Service(
        organization="acme", service="x", version="1", drm_system=DrmSystem.CLEARKEY, sequence=2
    ),
    ENTITLEMENTS.name: Entitlement(organization="acme", user="x", product="y", sequence=2),
}  # fmt: skip


def record(topic: str, value: bytes | None) -> SavedRecord:
    return SavedRecord(topic, 0, 5, 1, b"acme/x", value)


@pytest.mark.parametrize("name", [CREDENTIALS.name, SERVICES.name, ENTITLEMENTS.name])
@pytest.mark.parametrize("same_topic", [True, False], ids=["its topic", "another topic"])
@pytest.mark.parametrize("overwrite", [True, False], ids=["overwrite", "keep"])
@pytest.mark.parametrize("holds", ["nothing", "the same", "another"])
def test_fates_of_records(name: str, same_topic: bool, overwrite: bool, holds: str) -> None:
    """Missing ones are written, others only on demand, as what follows; an entitlement that is gone was deleted."""
    saved, other = encode(RECORDS[name]), encode(msgspec.structs.replace(RECORDS[name], sequence=9))
    held = {"nothing": {}, "the same": {b"acme/x": saved}, "another": {b"acme/x": other}}[holds]
    found, fate = next(decisions([record(name, saved)], held, same_topic=same_topic, overwrite=overwrite))
    if not held:
        deleted = same_topic and name == ENTITLEMENTS.name
        expected = WITHDRAWN if deleted else MISSING
    else:
        expected = SAME if held[b"acme/x"] == saved else OVERWRITTEN if overwrite else KEPT
    assert expected == fate
    assert (fate in (MISSING, OVERWRITTEN)) == (found is not None)
    if found is not None:
        after = msgspec.structs.replace(RECORDS[name], sequence=10) if held else RECORDS[name]
        assert (name, b"acme/x", encode(after)) == (found.topic, found.record_key, found.value)


@pytest.mark.parametrize("overwrite", [True, False])
def test_an_entitlement_that_a_tombstone_ended_is_withdrawn_by_a_record(overwrite: bool) -> None:
    """Older backups have tombstones; none is written any more."""
    held = {b"acme/x": encode(RECORDS[ENTITLEMENTS.name])}
    found, fate = next(decisions([record(ENTITLEMENTS.name, None)], held, same_topic=True, overwrite=overwrite))
    assert (OVERWRITTEN if overwrite else KEPT) == fate
    if overwrite:
        assert found is not None
        assert msgspec.structs.replace(RECORDS[ENTITLEMENTS.name], deleted=True, sequence=3) == decode(
            found.value or b"", Entitlement
        )


@pytest.mark.parametrize("only", [None, *Part])
def test_a_backup_of_another_installation_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], only: Part | None
) -> None:
    """Whose organization has the same name and another root; the topics' part is refused before brokers are asked."""
    for name in ("ours", "theirs"):
        create_key_file(tmp_path / name)
        add_organization(tmp_path / name, "acme")
    before = (tmp_path / "ours").read_bytes()
    identity = make_identity(tmp_path / "ada.key")
    saved = msgspec.structs.replace(SAVED, key_file=(tmp_path / "theirs").read_bytes())
    header = msgspec.structs.replace(HEADER, recipients=(identity.recipient,), quorum=1)
    write_backup(tmp_path / "b", header, saved)
    code = restore(
        tmp_path / "b", [tmp_path / "ada.key"], only,
        apply=True, bootstrap="127.0.0.1:1", data=tmp_path, key_file=tmp_path / "ours",
    )  # fmt: skip
    assert 1 == code
    assert "root of acme 1 is another" in capsys.readouterr().out
    assert before == (tmp_path / "ours").read_bytes()
