"""A view fed with messages: what it holds, what it refuses, what survives."""

import asyncio
import random
import timeit
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.core import view
from keymill.core.view import Fate, KidOwner
from keymill.errors import Corrupt, Misconfigured, NotReady
from keymill.kafka.positions import Incoming
from keymill.snapshot import layout, store
from keymill.snapshot.reader import SnapshotReader
from keymill.snapshot.state import Heartbeat, HeartbeatFile, boot_id
from keymill.snapshot.writer import SnapshotWriter
from schemas import topics
from schemas.codec import decode
from schemas.ids import asset_key, is_key_set, scoped_key
from schemas.records import AssetRecord, KeyRecord
from tests.examples import examples
from tests.fakes import TRUSTING
from tests.view_records import (
    VIEW_TOPICS,
    Log,
    asset_record,
    credential,
    digest,
    entitlement,
    key_record,
    policy_record,
    service,
    set_digest,
)

MAP = 64 << 20


class Rig:
    """A writer and a reader on one folder, and a log to feed them from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = Log()
        self.writer = SnapshotWriter(folder, TRUSTING, map_size=MAP).open()
        self.writer.bind(self.log.checkpoints())
        HeartbeatFile(folder, write=True).write(Heartbeat(environment=self.writer.manifest.environment, boot=boot_id()))
        self.reader = SnapshotReader(folder).open()

    def take(self, *messages: Incoming) -> dict[str, int]:
        fates = self.writer.apply(messages, self.log.slots)
        return {fate.value: number for fate, number in fates.items() if number}

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "view")
    yield rig
    rig.close()


def test_everything_is_found_by_every_way(rig: Rig) -> None:
    """Each record is found by its names, a KID by its organization, a service and a credential without one."""
    keyed = [
        asset_record("film"),
        key_record("film"),
        key_record("film", 2),
        policy_record(0),
        policy_record(10),
        policy_record(9),
        entitlement("ann", "gold", 99),
        service("demo"),
        credential("portal-1"),
        credential("self"),
        credential("self", "other"),
    ]
    assert rig.take(*(rig.log.put(entry) for entry in keyed)) == {"applied": len(keyed)}
    reader, (key, record) = rig.reader, keyed[1]
    assert reader.asset("demo", "film") == keyed[0][1]
    assert sorted(r.key_version for r in reader.key_records("demo", "film")) == [1, 2]
    assert reader.key_record(key) == record
    assert isinstance(record, KeyRecord)
    assert reader.owner("demo", record.tracks[1].kid) == ("film", key, record.tracks[1].fp)
    assert reader.policy("demo", 10) == keyed[4][1]
    assert [policy.policy_id for policy in reader.policies("demo")] == [0, 9, 10]
    assert reader.entitlement("demo", "ann", "gold") == keyed[6][1]
    assert reader.service(None, "demo", "1.0") == reader.service("demo", "demo", "1.0") == keyed[7][1]
    assert reader.credential_by_id("portal-1") == reader.credential("demo", "portal-1") == keyed[8][1]
    assert reader.credential_by_id("self") is None
    with reader.at_once() as reads:
        assert {found.organization for found in reads.credentials_by_id("self")} == {"demo", "other"}
    assert reader.has(topics.KEYS.name, key)
    assert not reader.has(topics.POLICIES.name, key)
    place = reader.coordinates(topics.KEYS.name, key)
    assert place is not None and place.offset == 1 and place.partition == topics.partition_of(topics.KEYS, key, 4)


@pytest.mark.parametrize("name", ["", "ä", "film/k/x", "x" * 600, "a\0b", "film/", "/"])
def test_a_name_that_is_none_finds_nothing(rig: Rig, name: str) -> None:
    """Whatever a caller sends as a name is answered, and never finds a record of another kind."""
    rig.take(rig.log.put(asset_record("film")), rig.log.put(key_record("film")), rig.log.put(credential("c")))
    reader = rig.reader
    assert reader.asset("demo", name) is None
    assert reader.asset(name, "film") is None
    assert reader.key_records("demo", name) == []
    assert reader.owner(name, bytes(16)) is None
    assert reader.service(None, name, name) is None
    assert reader.credential_by_id(name) is None
    assert reader.entitlement("demo", name, name) is None
    assert reader.policies(name) == []


def test_the_first_fingerprint_wins(rig: Rig) -> None:
    """Another key for a known KID is quarantined and counted, and the first one served on."""
    key, first = key_record("film")
    _, second = key_record("film", seed="another")
    rig.take(rig.log.put((key, first)))
    assert rig.take(rig.log.put((key, second))) == {"quarantined": 1}
    assert rig.reader.key_record(key) == first
    assert rig.writer.facts.quarantined == 1
    [refused] = rig.reader.rejected()
    assert (refused.reason, refused.record_key, refused.offset) == ("key_changed", key, 1)


def test_the_first_fingerprint_wins_inside_one_batch(rig: Rig) -> None:
    """The guard sees what the same batch brought, in another key record too."""
    first, second = key_record("film"), key_record("film", labels=("SD",), seed="another")
    assert rig.take(rig.log.put(first), rig.log.put(second)) == {"applied": 1, "quarantined": 1}


def test_a_kid_of_another_asset_is_quarantined(rig: Rig) -> None:
    """A KID belongs to the asset that brought it first."""
    rig.take(rig.log.put(key_record("film")))
    assert rig.take(rig.log.put(key_record("copy", kid_of="film"))) == {"quarantined": 1}
    assert rig.reader.rejected()[0].reason == "kid_of_another_asset"


def test_a_kid_is_of_one_organization(rig: Rig) -> None:
    """Two organizations may use one KID; each finds its own."""
    _, record = key_record("film")
    other = msgspec.structs.replace(record, organization="other")
    other_key = b"other/film/k/" + set_digest("film", 1).hex().encode()
    rig.take(rig.log.put(key_record("film")), rig.log.put((other_key, other)))
    kid = record.tracks[0].kid
    ours, theirs = rig.reader.owner("demo", kid), rig.reader.owner("other", kid)
    assert ours is not None and theirs is not None
    assert theirs.record_key == other_key != ours.record_key


def test_a_higher_kek_epoch_replaces_and_a_lower_is_stale(rig: Rig) -> None:
    """A re-wrapped record takes its place; the old wrapping, written late, does not."""
    old, new = key_record("film"), key_record("film", epoch=2)
    assert rig.take(rig.log.put(old), rig.log.put(new)) == {"applied": 2}
    assert rig.take(rig.log.put(old)) == {"stale": 1}
    assert rig.reader.key_record(old[0]) == new[1]


def test_a_regression_is_told_until_it_is_written_over(rig: Rig) -> None:
    """A zombie's late asset record is ignored, and named to the owner until the right record stands above it."""
    new = asset_record("film", 9)
    rig.take(rig.log.put(new))
    assert rig.take(rig.log.put(asset_record("film", 7))) == {"stale": 1}
    assert rig.reader.asset("demo", "film") == new[1]
    assert [seen.record_key for seen in rig.reader.regressions()] == [new[0]]
    assert rig.take(rig.log.put(new)) == {"same": 1}
    assert rig.reader.regressions() == []
    assert rig.reader.coordinates(topics.KEYS.name, new[0]) == (topics.partition_of(topics.KEYS, new[0], 4), 2)


def test_what_compaction_would_keep_in_place_of_the_right_record_is_told(rig: Rig) -> None:
    """A tombstone or another record under a held record key would outlive it; the last of each key is named."""
    keys, film = key_record("film"), asset_record("film", 9)
    rig.take(rig.log.put(keys), rig.log.put(film))
    rig.take(rig.log.put_raw(topics.KEYS, keys[0], None), rig.log.put_raw(topics.KEYS, keys[0], None))
    rig.take(rig.log.put((keys[0], key_record("film", seed="another")[1])))
    rig.take(rig.log.put((film[0], asset_record("other", 10)[1])))
    told = {seen.record_key: seen.reason for seen in rig.reader.regressions()}
    assert told == {keys[0]: "key_changed", film[0]: "record_key_of_another"}
    assert rig.take(rig.log.put(keys), rig.log.put(film)) == {"same": 2}
    assert rig.reader.regressions() == []


def test_what_supersedes_nothing_needs_no_repair(rig: Rig) -> None:
    """On another partition compaction leaves the right record alone; an unreadable record may be a newer program's."""
    film = asset_record("film", 9)
    message = rig.log.put(film)
    rig.take(message, rig.log.put(film, partition=(message.partition + 1) % 4))
    rig.take(rig.log.put_raw(topics.KEYS, film[0], b"\xc3\x01 of another release"))
    assert rig.writer.facts.quarantined == 2
    assert rig.reader.regressions() == []


def test_a_tombstone_deletes_nothing(rig: Rig) -> None:
    """It is quarantined and the record stays: an entitlement is withdrawn, a key revoked by a record."""
    keyed = [
        entitlement("ann", "gold"),
        key_record("film"),
        asset_record("film"),
        policy_record(1),
        service("s"),
        credential("c"),
    ]
    rig.take(*(rig.log.put(entry) for entry in keyed))
    tombstones = [
        rig.log.put_raw(topic, key, None)
        for topic, (key, _) in zip(
            (topics.ENTITLEMENTS, topics.KEYS, topics.KEYS, topics.POLICIES, topics.SERVICES, topics.CREDENTIALS),
            keyed,
            strict=True,
        )
    ]
    assert rig.take(*tombstones) == {"quarantined": 6}
    assert rig.reader.entitlement("demo", "ann", "gold") == keyed[0][1]
    assert rig.reader.key_record(keyed[1][0]) == keyed[1][1]
    assert {seen.reason for seen in rig.reader.rejected()} == {"tombstone"}


def test_what_was_withdrawn_does_not_come_back(rig: Rig) -> None:
    """Neither by the grant before it, written again, nor by another record of the same sequence."""
    key, granted = entitlement("ann", "gold")
    granted = msgspec.structs.replace(granted, sequence=1)
    withdrawn = msgspec.structs.replace(granted, sequence=2, deleted=True)
    rig.take(rig.log.put((key, granted)), rig.log.put((key, withdrawn)))
    assert rig.reader.entitlement("demo", "ann", "gold") is None
    for again in (granted, msgspec.structs.replace(granted, sequence=2)):
        assert rig.take(rig.log.put((key, again))) == {"stale": 1}
        assert rig.reader.entitlement("demo", "ann", "gold") is None
    assert rig.take(rig.log.put((key, withdrawn))) == {"same": 1}
    assert rig.take(rig.log.put((key, msgspec.structs.replace(granted, sequence=3)))) == {"applied": 1}
    assert rig.reader.entitlement("demo", "ann", "gold") is not None


def test_what_stands_wrong_is_quarantined(rig: Rig) -> None:
    """Wrong partition, unreadable bytes, a foreign or ill-formed record key: refused, named, and the rest goes on."""
    key, record = key_record("film")
    right = topics.partition_of(topics.KEYS, key, 4)
    value = layout_value(record)
    wrong = [
        (rig.log.put_raw(topics.KEYS, key, value, partition=(right + 1) % 4), "wrong_partition"),
        (rig.log.put_raw(topics.KEYS, key, value[:-1]), "undecodable"),
        (rig.log.put_raw(topics.KEYS, key, value + b"\0"), "undecodable"),
        (rig.log.put_raw(topics.KEYS, key, b""), "undecodable"),
        (rig.log.put_raw(topics.KEYS, key, b'{"kek_epoch":1}'), "undecodable"),
        (rig.log.put_raw(topics.KEYS, key[:-1], value), "record_key"),
        (rig.log.put_raw(topics.KEYS, key[:-1] + b"G", value), "record_key"),
        (rig.log.put_raw(topics.KEYS, b"", value, partition=0), "record_key"),
        (rig.log.put_raw(topics.KEYS, None, value, partition=0), "record_key"),
        (rig.log.put_raw(topics.KEYS, "demo/ä".encode(), value), "record_key"),
        (rig.log.put_raw(topics.KEYS, b"demo/" + b"x" * 600, value), "record_key"),
        (rig.log.put_raw(topics.KEYS, b"demo/other/k/" + key[-32:], value), "record_key_of_another"),
        (rig.log.put_raw(topics.KEYS, b"demo/film", layout_value(asset_record("other")[1])), "record_key_of_another"),
        (rig.log.put_raw(topics.POLICIES, b"demo/2", layout_value(policy_record(1)[1])), "record_key_of_another"),
        (rig.log.put_raw(topics.SERVICES, b"demo/x/1", layout_value(service("s")[1])), "record_key_of_another"),
    ]
    good = rig.log.put((key, record))
    assert rig.take(*(message for message, _ in wrong), good) == {"quarantined": len(wrong), "applied": 1}
    assert [seen.reason for seen in rig.reader.rejected()] == [reason for _, reason in wrong]
    assert rig.reader.key_record(key) == record


def layout_value(record: object) -> bytes:
    from schemas.codec import encode
    from schemas.values import Record

    assert isinstance(record, Record)
    return encode(record)


def test_the_checkpoint_is_in_the_same_transaction(rig: Rig) -> None:
    """Messages below the checkpoint change nothing; positions are what the last batch reached."""
    message = rig.log.put(asset_record("film"))
    rig.take(message)
    before = rig.reader.txn_id()
    assert rig.take(message) == {}
    assert rig.reader.state().positions[message.topic][message.partition] == 1
    assert rig.reader.txn_id() > before
    checkpoint = rig.writer.checkpoints()[message.topic]
    assert checkpoint.slots[message.partition].offset == 1


def test_a_failed_batch_leaves_no_trace(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither records nor checkpoint of a batch that was not committed are there, and it can be taken again."""
    from keymill.snapshot.batch import Batch

    message = rig.log.put(asset_record("film"))

    def broken(self: Batch) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "flush", broken)
        with pytest.raises(RuntimeError):
            rig.take(message)
    assert rig.reader.asset("demo", "film") is None
    assert rig.reader.state().positions[message.topic][message.partition] == 0
    assert rig.take(message) == {"applied": 1}


def test_a_view_of_this_boot_is_kept(rig: Rig) -> None:
    """A writer that was killed (no clean close) leaves a snapshot that its successor goes on with."""
    rig.take(rig.log.put(asset_record("film")))
    rig.writer.mark_ready()
    rig.reader.close()
    rig.writer._release()  # what a SIGKILL leaves: no sync, no clean flag
    manifest = store.read_manifest(rig.folder)
    assert manifest is not None and not manifest.clean
    rig.writer = SnapshotWriter(rig.folder, TRUSTING, map_size=MAP).open()
    rig.reader.open()
    assert rig.writer.facts.ready
    assert rig.reader.asset("demo", "film") is not None


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"boot": "another", "clean": False}, False),
        ({"boot": "another", "clean": True}, True),
        ({"format": layout.FORMAT + 1, "clean": True}, False),
    ],
)
def test_a_snapshot_that_cannot_be_trusted_is_rebuilt(rig: Rig, change: dict[str, object], kept: bool) -> None:
    """Another format, or another boot without a clean end: the view begins anew. A reader does not open the old one."""
    rig.take(rig.log.put(asset_record("film")))
    rig.close()
    manifest = store.read_manifest(rig.folder)
    assert manifest is not None
    store.write_manifest(rig.folder, msgspec.structs.replace(manifest, **change))
    if not kept:
        with pytest.raises(NotReady):
            SnapshotReader(rig.folder).open(wait_s=0)
    rig.writer.open()
    rig.reader.open()
    assert (rig.reader.asset("demo", "film") is not None) == kept
    assert bool(rig.writer.checkpoints()) == kept
    assert len(list(rig.folder.glob("env-*"))) == 1


def test_a_reader_follows_into_another_environment(rig: Rig) -> None:
    """A reader that is open while the view is begun anew notices at its next look at the state."""
    rig.take(rig.log.put(asset_record("film")))
    rig.writer.close()
    manifest = store.read_manifest(rig.folder)
    assert manifest is not None
    store.write_manifest(rig.folder, msgspec.structs.replace(manifest, format=0))
    rig.writer.open()
    HeartbeatFile(rig.folder, write=True).write(Heartbeat(environment=rig.writer.manifest.environment, boot=boot_id()))
    assert rig.reader.state().positions == {}
    assert rig.reader.asset("demo", "film") is None


def test_two_writers_of_one_folder_are_refused(rig: Rig) -> None:
    """The second writer is told who holds the folder, and harms nothing."""
    with pytest.raises(Misconfigured, match="is written by process"):
        SnapshotWriter(rig.folder, TRUSTING, map_size=MAP).open(lock_wait_s=0.1)
    assert rig.take(rig.log.put(asset_record("film"))) == {"applied": 1}


def test_an_unreadable_manifest_is_said(rig: Rig) -> None:
    """Damage is named with what to do, not overwritten."""
    rig.close()
    (rig.folder / "manifest.json").write_text("{")
    with pytest.raises(Corrupt, match="delete"):
        rig.writer.open()


def test_a_full_map_is_said_and_grows(tmp_path: Path) -> None:
    """A map that is full stops with the setting's name; a larger one goes on with what is there, readers too."""
    log = Log()
    writer = SnapshotWriter(tmp_path / "view", TRUSTING, map_size=1 << 20).open()
    writer.bind(log.checkpoints())
    reader = SnapshotReader(tmp_path / "view").open()
    with pytest.raises(Misconfigured, match="KEYMILL_MAP_SIZE_GIB"):
        for number in range(100):
            writer.apply([log.put(asset_record(f"film-{number}-{n}")) for n in range(200)], log.slots)
    held = sum(1 for _ in scan(reader))
    assert held == sum(slot.offset for slot in writer.checkpoints()[topics.KEYS.name].slots.values()) > 0
    reader.close()
    writer.close()
    writer = SnapshotWriter(tmp_path / "view", TRUSTING, map_size=8 << 20).open()
    reader.open()
    after = Log()
    after._next = log._next
    after.slots = log.slots
    writer.apply([after.put(asset_record(f"more-{n}")) for n in range(2000)], after.slots)
    assert sum(1 for _ in scan(reader)) == held + 2000
    reader.close()
    writer.close()


def scan(reader: SnapshotReader) -> Iterator[bytes]:
    with reader.at_once() as reads:
        for key, _, _ in reads.scan(topics.KEYS.name):
            yield key


def test_a_bound_topic_makes_the_view_catch_up_again(rig: Rig) -> None:
    """A view that is to follow a topic it does not know is not ready; a known set of topics stays ready."""
    rig.writer.mark_ready()
    known = rig.writer.checkpoints()
    rig.writer.bind(known)
    assert rig.writer.facts.ready
    more = known | {topics.CLAIMS.name: known[topics.SERVICES.name]}
    rig.writer.bind(more)
    assert not rig.writer.facts.ready


def test_the_refused_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the newest refusals are kept; the counter counts all."""
    monkeypatch.setattr("keymill.snapshot.writer.MAX_REJECTED", 5)
    for _ in range(8):
        rig.take(rig.log.put_raw(topics.KEYS, b"demo/film", b"x"))
    assert [seen.offset for seen in rig.reader.rejected()] == [3, 4, 5, 6, 7]
    assert rig.writer.facts.quarantined == 8


def test_a_change_wakes_a_waiter(rig: Rig) -> None:
    """`wait_change` ends when the view changes, and gives up when it does not."""

    async def wait() -> tuple[bool, bool]:
        since = rig.reader.txn_id()
        waiting = asyncio.create_task(rig.reader.wait_change(since, 5))
        await asyncio.sleep(0.01)
        rig.take(rig.log.put(asset_record("film")))
        return await waiting, await rig.reader.wait_change(rig.reader.txn_id(), 0.02)

    assert asyncio.run(wait()) == (True, False)


def test_the_state_is_what_the_heartbeat_says(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not ready and infinitely stale before contact; live only in contact and alive; an error ends live, not ready."""
    state = rig.reader.state()
    assert not state.ready and not state.live and state.staleness_s == float("inf")
    beats = HeartbeatFile(rig.folder, write=True)
    import time

    now = Heartbeat(
        environment=0, boot=boot_id(), ready=True, live=True, contact_boot_s=time.monotonic(), contact_s=time.time()
    )
    beats.write(now)
    state = rig.reader.state()
    assert state.ready and state.live and state.staleness_s < 1
    beats.write(msgspec.structs.replace(now, contact_boot_s=now.contact_boot_s - 60))
    state = rig.reader.state()
    assert state.ready and not state.live and 60 <= state.staleness_s < 61
    monkeypatch.setattr("keymill.snapshot.state.BEAT_S", 0)
    beats.write(now)
    assert rig.reader.state().ready and not rig.reader.state().live
    beats.write(msgspec.structs.replace(now, boot="before", contact_s=now.contact_s - 7))
    assert 7 <= rig.reader.state().staleness_s < 8
    beats.write(msgspec.structs.replace(now, live=False, error="truncated " * 500))
    state = rig.reader.state()
    assert state.ready and not state.live and state.error is not None and state.error.startswith("truncated")


def test_the_state_costs_next_to_nothing(rig: Rig) -> None:
    """It is asked on every request: well below 20 µs (some slack for a busy machine)."""
    rig.take(rig.log.put(asset_record("film")))
    best = min(timeit.repeat(rig.reader.state, number=1000, repeat=5))
    assert best / 1000 < 20e-6


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("key"), st.integers(0, 2), st.integers(1, 2), st.integers(1, 3), st.sampled_from(["", "x"]),
            st.sampled_from([None, "film-0"]),
        ),
        st.tuples(st.just("asset"), st.integers(0, 2), st.integers(1, 3), st.integers(1, 8)),
        st.tuples(st.just("policy"), st.integers(0, 2), st.integers(1, 3), st.integers(1, 8)),
        st.tuples(st.just("entitlement"), st.integers(0, 1), st.booleans()),
    ),
    max_size=40,
)  # fmt: skip


def message_of(log: Log, step: tuple[object, ...]) -> Incoming:
    match step:
        case ("key", int(asset), int(version), int(epoch), str(seed), kid_of):
            keyed = key_record(f"film-{asset}", version, epoch=epoch, seed=seed, kid_of=str(kid_of) if kid_of else None)
            return log.put(keyed)
        case ("asset", int(asset), int(versions), int(applied)):
            return log.put(asset_record(f"film-{asset}", applied, versions=versions))
        case ("policy", int(number), int(version), int(applied)):
            return log.put(policy_record(number, version, applied=applied))
        case ("entitlement", int(user), True):
            return log.put(entitlement(f"user-{user}", "gold"))
        case ("entitlement", int(user), _):
            return log.put_raw(topics.ENTITLEMENTS, scoped_key("demo", f"user-{user}", "gold"), None)
    raise AssertionError(step)


class Model:
    """A view as a dict and the pure judges, one record at a time, everything decoded."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, bytes], bytes] = {}
        self.owners: dict[bytes, KidOwner] = {}

    def take(self, message: Incoming) -> Fate:
        assert message.key is not None
        name = (message.topic, message.key)
        held = self.records.get(name)
        if message.value is None:
            return Fate.QUARANTINED
        verdict = self.judge(message, held)
        if verdict is Fate.APPLIED:
            self.records[name] = message.value
            if message.topic == topics.KEYS.name and is_key_set(message.key):
                record = decode(message.value, KeyRecord)
                for track in record.tracks:
                    self.owners.setdefault(track.kid, KidOwner(asset=record.asset, fp=track.fp))
        return verdict

    def judge(self, message: Incoming, held: bytes | None) -> Fate:
        from schemas.records import PolicyRecord

        assert message.key is not None and message.value is not None
        if message.topic == topics.POLICIES.name:
            return view.judge_policy_record(
                decode(message.value, PolicyRecord), decode(held, PolicyRecord) if held else None
            ).fate
        if message.topic == topics.KEYS.name and is_key_set(message.key):
            new = decode(message.value, KeyRecord)
            owners = {track.kid: self.owners[track.kid] for track in new.tracks if track.kid in self.owners}
            return view.judge_key_record(new, decode(held, KeyRecord) if held else None, owners).fate
        if message.topic == topics.KEYS.name:
            return view.judge_asset_record(
                decode(message.value, AssetRecord), decode(held, AssetRecord) if held else None
            ).fate
        return Fate.SAME if held == message.value else Fate.APPLIED


@examples(2)
@given(steps=STEPS, seed=st.integers(0, 2**32))
def test_batches_and_replays_end_where_the_judges_end(
    steps: list[tuple[object, ...]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """However records are cut into batches, repeated and replayed, the view holds what the judges say one by one."""
    draw = random.Random(seed)
    log, model = Log(), Model()
    history = [message_of(log, step) for step in steps]
    repeated = [log.put_raw(topics.BY_NAME[m.topic], m.key, m.value) for m in draw.sample(history, len(history) // 2)]
    messages = history + repeated
    expected = [model.take(message) for message in messages]
    writer = SnapshotWriter(tmp_path_factory.mktemp("view"), TRUSTING, map_size=MAP).open()
    at_once = draw.choice([1, 3, 500])  # from which size on a batch is first tried as all new
    try:
        writer.bind(Log().checkpoints())
        got: dict[Fate, int] = dict.fromkeys(Fate, 0)
        place = 0
        while place < len(messages):
            size = draw.randint(1, 8)
            batch = messages[place : place + size]
            slots = slots_after(messages[: place + size])
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("keymill.snapshot.writer.BULK_RECORDS", at_once)
                patch.setattr("keymill.snapshot.writer.PATIENCE", draw.choice([0, 2]))
                for fate, number in writer.apply(batch, slots).items():
                    got[fate] += number
            assert writer.apply(batch, slots) == dict.fromkeys(Fate, 0)  # a replay of the batch
            place += size
        assert got == {fate: expected.count(fate) for fate in Fate}
        reader = SnapshotReader(writer.folder).open()
        with reader.at_once() as reads:
            held = {(name, key): value for name in VIEW_TOPICS for key, _, value in reads.scan(name)}
            for kid, owner in model.owners.items():
                found = reads.owner("demo", kid)
                assert found is not None and (found.asset, found.fp) == (owner.asset, owner.fp)
        reader.close()
        assert held == model.records
    finally:
        writer.close()


def slots_after(messages: list[Incoming]) -> dict[str, dict[int, object]]:
    from keymill.kafka.positions import Slot

    slots: dict[str, dict[int, object]] = {}
    for message in messages:
        slots.setdefault(message.topic, {})[message.partition] = Slot(message.offset + 1)
    return slots


def test_digests_are_what_record_keys_say() -> None:
    """The helper's names are the schema's (a guard for this file)."""
    assert (
        key_record("film")[0]
        == asset_key("demo", "film") + b"/k/" + digest("set", "film", 1, ("SD", "HD", "AUDIO"))[:16].hex().encode()
    )
