"""Replay from a later place, of some assets, for another policy or schedule; and what a rebuild gives back."""

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.core.policy import BUILT_IN_DEFAULT
from keymill.errors import InvalidRecord
from keymill.kms.keyring import Keyring
from keymill.ops import replaying
from keymill.ops.held import Held
from keymill.ops.lacking import Referred
from keymill.ops.replay_scope import Asked, asked_assets
from keymill.ops.replaying import Scope, compare
from keymill.ops.report import Report
from keymill.ops.simulating import policy_effects, read_policies, read_schedules, root_effects
from keymill.ops.verifying import Verifier, same_keys
from schemas import framing, topics
from schemas.codec import decode, encode
from schemas.ids import asset_key, partition_key
from schemas.partition import partition_for
from schemas.policy import Policy
from schemas.records import KeyRecord
from tests.builders import assign, folded, ingest, rotate
from tests.fakes import MemoryKms
from tests.unit.test_decide import Nothing
from tests.unit.test_replaying import HERE, KEY, PARTITIONS, World, counts, same_partition


def compared(world: World, scope: Scope, start: int = 0, *, held: Held | None = None) -> tuple[Report, list[bytes]]:
    """A replay of a part, and the record keys that are lacking; *held* is filled."""
    report, held, lacking = Report(), held or Held(HERE), []
    for key, value in world.topic:
        if scope.has(key):
            held.add(key, value, report)
        else:
            held.pass_by(key, value)
    decider = Verifier(Keyring(MemoryKms()), framing.decode_event, partitions=PARTITIONS, generation=0)
    compare(
        world.events[start:], held, decider, 0, report, frozenset(world.refused),
        scope=scope, lacking=lambda key, _: lacking.append(key),
    )  # fmt: skip
    return report, lacking


def test_a_later_replay_finds_the_same_identical() -> None:
    """The state before is the held record's: every key that the asset calls for is compared all the same."""
    world = World(ingest("SD"), assign(4), rotate(2), assign(5))
    report, lacking = compared(world, Scope(later=True), start=2)
    assert ({"identical": 3}, [], 2) == (counts(report), lacking, report.events)


def test_a_later_replay_finds_a_lost_key_record() -> None:
    """Of a version that an earlier event made, too, when a later one touches the asset."""
    world = World(ingest("SD"), rotate(2), assign(5))
    lost = world.keys()[0]
    world.topic = [entry for entry in world.topic if entry[0] != lost]
    report, lacking = compared(world, Scope(later=True), start=2)
    assert ({"identical": 2, "missing": 1}, [lost]) == (counts(report), lacking)


def test_a_later_replay_tells_a_lost_asset_record_once() -> None:
    """Without the state before it nothing can be decided, and no dead letter is called for."""
    other = same_partition(1)[0]
    world = World(ingest("SD"), assign(4), assign(5), ingest("SD", asset=other))
    world.topic = [entry for entry in world.topic if entry[0] != KEY]
    report, lacking = compared(world, Scope(later=True), start=1)
    assert ({"identical": 2, "missing": 1}, [KEY]) == (counts(report), lacking)


@pytest.mark.parametrize("keeps", [2, -1])
def test_a_later_replay_tells_an_unreadable_asset_record_once(keeps: int) -> None:
    """It is different, and what its events would give is not known: no dead letter is called for."""
    world = World(ingest("SD"), assign(4), assign(5))
    world.topic = [(key, (value or b"")[:keeps] if key == KEY else value) for key, value in dict(world.topic).items()]
    report, lacking = compared(world, Scope(later=True), start=1)
    assert ({"different": 1}, []) == (counts(report), lacking)


@pytest.mark.parametrize("keeps", [2, -1])
@pytest.mark.parametrize("later", [False, True])
def test_an_unreadable_asset_record_that_no_event_touches_is_different(keeps: int, later: bool) -> None:
    """However far it reads; so what is still held afterwards can be read, as of the policies that it refers to."""
    other = same_partition(1)[0]
    world = World(ingest("SD", asset=other), ingest("SD"))
    world.topic = [(key, (value or b"")[:keeps] if b"/k/" not in key else value) for key, value in world.topic]
    world.events = world.events[1:]
    held = Held(HERE)
    report, _ = compared(world, Scope(assets={asset_key("demo", other)}, later=later), held=held)
    for record_key, value in held.values.items():
        Referred().take(record_key, value)
    assert (1, 0) == (report.different, report.missing)
    assert [f"demo/{other}"] == [each.record_key for each in report.differences if each.kind == "different"]


def test_a_later_replay_takes_any_record_key() -> None:
    """One that no asset has, longer than any."""
    world = World(ingest("SD"))
    world.topic.append((b"demo/" + b"a" * 2000, dict(world.topic)[KEY]))
    assert {} == counts(compared(world, Scope(later=True), start=1)[0])


def test_a_verified_key_record_is_the_processors_without_its_keys() -> None:
    """Byte for byte: nothing is wrapped, and no KEK has the epoch."""
    for event in (ingest("SD", "AUDIO", schemes=("cenc", "cbcs")), ingest(periods=(3, 2)), ingest()):
        world = World(event)
        decider = Verifier(Keyring(MemoryKms()), framing.decode_event, partitions=PARTITIONS, generation=0)
        decided = decider.begin(replaying._EVERY)
        decider.record(world.events[0], decided, Nothing())
        for key, value in decided.key_records.items():
            there = decode(dict(world.topic)[key] or b"", KeyRecord)
            assert value == encode(msgspec.structs.replace(there, kek_epoch=0, wrapped=b""))
        assert decided.key_records.keys() == set(world.keys())


def test_only_the_named_assets_are_replayed() -> None:
    """Others may be lost; one that is named and has no record at all is missing, since the processors were past it."""
    first, second = same_partition(2)
    world = World(ingest("SD", asset=first), ingest("SD", asset=second))
    gone = asset_key("demo", first)
    world.topic = [entry for entry in world.topic if partition_key(entry[0]) != gone]
    report, lacking = compared(world, Scope(assets=frozenset({gone})))
    assert ({"missing": 2}, 1) == (counts(report), report.events)
    assert {gone} == set(map(partition_key, lacking))
    report, lacking = compared(world, Scope(assets=frozenset({asset_key("demo", second)})))
    assert ({"identical": 2}, []) == (counts(report), lacking)


EVENTS = st.lists(
    st.sampled_from([ingest("SD"), ingest("HD", "AUDIO"), assign(3), rotate(2), rotate(3), ingest(periods=(0, 2))]),
    max_size=6,
)


@given(EVENTS, st.data())
def test_a_rebuild_gives_back_whatever_was_lost(events: list, data: st.DataObject) -> None:
    """Any part of the records of any log: the same bytes, and nothing but what is missing."""
    world = World(*events)
    newest = {key: value for key, value in world.topic if value is not None}
    lost = set(data.draw(st.lists(st.sampled_from(sorted(newest)), unique=True))) if newest else set()
    held, report, made = Held(HERE), Report(), {}
    for key, value in newest.items():
        if key not in lost:
            held.add(key, value, report)
    decider = World.decider(MemoryKms())
    compare(
        world.events, held, decider, 0, report, frozenset(world.refused), all_due=True,
        lacking=made.__setitem__,
    )  # fmt: skip
    assert {key: newest[key] for key in lost} == made
    assert 0 == report.different + report.unexpected


@given(EVENTS)
def test_a_replay_equals_the_fold(events: list) -> None:
    """What a comparison derives, without wrapping, is what the processors wrote."""
    report, lacking = compared(World(*events), Scope())
    assert (0, 0, 0, []) == (report.missing, report.different, report.unexpected, lacking)


@given(EVENTS, st.integers(1, 3), st.data())
def test_how_many_events_are_taken_at_once_changes_nothing(events: list, size: int, data: st.DataObject) -> None:
    """Letters, lost records and what is held are found alike, whatever ends a batch."""
    world = World(*events)
    world.refused -= set(data.draw(st.lists(st.sampled_from(range(1 + len(events))), max_size=2)))
    world.topic = [entry for entry in world.topic if data.draw(st.booleans())]
    with pytest.MonkeyPatch.context() as patch:
        whole, lacking = compared(world, Scope())
        patch.setattr(replaying, "_AT_ONCE", size)
        report, found = compared(world, Scope())
    assert (counts(whole), whole.events, whole.refused, whole.pending) == (
        counts(report), report.events, report.refused, report.pending,
    )  # fmt: skip
    assert (sorted(lacking), sorted(map(str, whole.differences))) == (
        sorted(found), sorted(map(str, report.differences)),
    )  # fmt: skip


def test_key_records_are_the_same_under_any_wrapping() -> None:
    """By bytes or decoded, with the keys or without."""
    one, two = World(ingest("SD")), World(ingest("SD"), kms=MemoryKms(kek_epochs=(1, 2)))
    (_, first), (_, second) = one.topic[0], two.topic[0]
    assert first != second and same_keys(first, second) and same_keys(second, first)
    other = World(ingest("HD")).topic[0][1]
    assert not same_keys(first, other)


def test_what_is_asked_is_read(tmp_path: Path) -> None:
    """Assets by name or from a file; a slip is told."""
    file = tmp_path / "assets"
    file.write_text("demo/a\n\n demo/b \n")
    assert frozenset({b"demo/a", b"demo/b", b"acme/c"}) == asked_assets(["acme/c", str(file)])
    assert asked_assets(None) is None and Asked().whole()
    for name in ("demo", "demo/", "DEMO/a"):
        with pytest.raises(InvalidRecord):
            asked_assets([name])
    assert [partition_for(b"demo/a", PARTITIONS)] == Asked(frozenset({b"demo/a"})).partitions(PARTITIONS)
    assert Asked(from_offset=5).scope().later and not Asked().scope().later


def test_a_draft_policy_changes_the_assets_that_have_it() -> None:
    """Its own content is no change; what does not exist yet would."""
    asset = folded(ingest("SD"), assign(4))
    held, draft = Policy(can_play=True), read_policies(json.dumps({"demo": {"4": {"can_play": False}}}).encode())
    (effect,) = policy_effects([asset], {("demo", 4): held}, draft)
    assert ("bbb", "policy 4") == (effect.asset, effect.what)
    assert [] == list(policy_effects([asset], {("demo", 4): draft["demo", 4]}, draft))
    (effect,) = policy_effects([asset], {}, draft)
    assert "no such policy" == effect.now
    assert [] == list(policy_effects([folded(ingest("SD"))], {}, {("demo", 0): BUILT_IN_DEFAULT}))


def test_a_draft_schedule_changes_versions_by_their_time() -> None:
    """The time of the record of a version's first event decides."""
    asset = folded(ingest("SD"), rotate(2))
    schedule = [{"root_version": 1, "activates": 0}, {"root_version": 2, "activates": 500}]
    drafts = read_schedules(json.dumps({"demo": schedule}).encode())
    (effect,) = root_effects([asset], {(0, 0): 499, (0, 1): 500}, drafts)
    assert ("root_version", 2, "1", "2") == (effect.what, effect.key_version, effect.now, effect.then)
    assert [] == list(root_effects([asset], {(0, 0): 1, (0, 1): 2}, drafts))
    for bad in (b"{", b"[]", b'{"demo": []}', json.dumps({"demo": schedule[::-1]}).encode()):
        with pytest.raises(InvalidRecord):
            read_schedules(bad)


def test_another_set_has_the_same_rules() -> None:
    """Name and nothing else differs; what is in no set is no topic of ours."""
    other = topics.in_set(topics.KEYS, "next")
    assert "next.drm.keys.v1" == other.name
    assert topics.KEYS is topics.entry_of(other.name) is topics.entry_of(topics.KEYS.name)
    with pytest.raises(KeyError):
        topics.entry_of("next.other.v1")
