"""
Publisher and views over logs with duplicates, crashes, compaction, zombies and replays, in any order.

Invariants: no KID with two fingerprints, nothing ever quarantined, versions never backwards; and once everything
is processed and repaired, each accepted event has its records, each refused one its dead letter, and an old view, a
fresh one and a plain replay of the events agree.
"""

from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keymill.core.envelope import unwrap_keys
from keymill.kms.keyring import Keyring
from keymill.kms.provider import RootActivation
from schemas.codec import decode, encode
from schemas.events import AssetEvent, AssetRestored, AssetRevoked
from schemas.ids import asset_key, is_key_set
from schemas.records import KeyRecord
from schemas.values import Scheme
from tests.builders import assign, event, ingest, rotate
from tests.examples import examples
from tests.fakes import Clock, MemoryKms, MemoryLog
from tests.property.world import Owner, View, Write, replayed

HOUR_MS = 3_600_000
START_MS = 1_800_000_000_000
ASSETS = st.sampled_from(["bbb", "ccc"])
IDS = st.none() | st.sampled_from(["e-1", "e-2", "e-3"])
LABELS = st.lists(st.sampled_from(["SD", "HD", "AUDIO", "HLS_AES128"]), min_size=1, max_size=3)
INGEST = st.builds(
    lambda labels, **body: ingest(*labels, **{name: value for name, value in body.items() if value is not None}),
    LABELS,
    asset=ASSETS,
    event_id=IDS,
    schemes=st.none() | st.just((Scheme.CBCS,)) | st.just((Scheme.CENC,)),
    single_key=st.none() | st.booleans(),
    key_version=st.none() | st.integers(1, 4),
    salt=st.sampled_from([None, None, b"s" * 16]),
    policy_id=st.none() | st.integers(0, 3),
    periods=st.none() | st.tuples(st.integers(0, 6), st.integers(1, 3)),
)
OTHER = st.one_of(
    st.builds(rotate, st.integers(1, 4), event_id=IDS),
    st.builds(assign, st.integers(0, 3), event_id=IDS),
    st.builds(event, st.sampled_from([AssetRevoked(), AssetRestored()]), event_id=IDS),
)


class World(RuleBasedStateMachine):
    """One partition of assets, one of keys, an owner, a reader that never restarts and one that does."""

    @initialize()
    def begin(self) -> None:
        """Two roots, the second active an hour after the start; four KEK epochs."""
        self.clock = Clock(START_MS)
        self.events, self.keys = MemoryLog(self.clock), MemoryLog(self.clock)
        roots = (
            RootActivation(root_version=1, activates=0),
            RootActivation(root_version=2, activates=START_MS + HOUR_MS),
        )
        self.keyring = Keyring(MemoryKms(kek_epochs=(1, 2, 3, 4), activations=roots))
        self.epoch, self.committed = 1, 0
        self.dead: set[int] = set()
        self.late: list[Write] = []
        self.written: dict[bytes, bytes] = {}
        self.checked = 0
        self.seen: dict[tuple[str, bytes], tuple[Any, ...]] = {}
        self.reader, self.young = View(self.keys), View(self.keys)
        self._start()

    def _start(self) -> None:
        self._forget("owner")
        self.owner = Owner(self.events, self.keys, self.keyring, self.epoch, self.committed)

    def _send(self, happened: AssetEvent) -> None:
        happened = msgspec.structs.replace(happened, event_time=self.clock.now_ms)
        self.events.append(asset_key(happened.organization, happened.asset), encode(happened))

    @rule(happened=INGEST | OTHER)
    def emit(self, happened: AssetEvent) -> None:
        """An ingest system says something."""
        self._send(happened)

    @precondition(lambda self: self.events.records)
    @rule(data=st.data())
    def duplicate(self, data: st.DataObject) -> None:
        """A producer's retry, or a client's."""
        record = data.draw(st.sampled_from(self.events.records))
        self.events.append(record.key, record.value)

    @rule(ms=st.sampled_from([1, HOUR_MS // 2, 5 * HOUR_MS]))
    def wait(self, ms: int) -> None:
        """Time passes for the log; a root version may become active."""
        self.clock.advance(ms)

    @rule(most=st.integers(1, 8))
    def process(self, most: int) -> None:
        """A run: dead letters, key records, asset records, commit."""
        dead, writes, end = self.owner.decide(most)
        self.dead |= dead
        for key, value in writes:
            self.keys.append(key, value)
        self.owner.position = self.committed = end
        self.owner.repair()

    @rule(most=st.integers(1, 8), done=st.integers(0, 12))
    def crash(self, most: int, done: int) -> None:
        """The processor dies after some of a run's writes, before its commit."""
        dead, writes, _ = self.owner.decide(most)
        self.dead |= dead
        for key, value in writes[:done]:
            self.keys.append(key, value)
        self._start()

    @rule(most=st.integers(1, 8))
    def freeze(self, most: int) -> None:
        """The owner stops, its dead letters acknowledged and its writes in hand; another one takes over."""
        dead, writes, _ = self.owner.decide(most)
        self.dead |= dead
        self.late += writes
        self._start()

    @precondition(lambda self: self.late)
    @rule(count=st.integers(1, 6))
    def thaw(self, count: int) -> None:
        """The zombie's writes arrive late; the owner reads them back and repairs."""
        for key, value in self.late[:count]:
            self.keys.append(key, value)
        del self.late[:count]
        self.owner.repair()

    @rule()
    def replay(self) -> None:
        """Everything is delivered again from offset 0."""
        self.owner.position = 0

    @precondition(lambda self: self.epoch < 4)
    @rule()
    def rotate_kek(self) -> None:
        """A new epoch wraps, and what exists is wrapped again."""
        self.epoch += 1
        self.owner.epoch = self.epoch
        self.owner.rewrap()
        self.owner.repair()

    @rule(share=st.floats(0, 1))
    def compact(self, share: float) -> None:
        """Below what the owner has read back, as the compaction lag guarantees."""
        self.keys.compact(int(self.owner.view.position * share))

    @rule(most=st.integers(1, 10))
    def read(self, most: int) -> None:
        """Readers follow, each at its own pace."""
        self.reader.catch_up(most)

    @rule()
    def restart_reader(self) -> None:
        """A reader starts from nothing, on what compaction has left."""
        self.young = View(self.keys)
        self.young.catch_up()
        self._forget("young")

    @invariant()
    def no_kid_has_two_fingerprints(self) -> None:
        """Over everything that was ever written, by anybody."""
        for record in self.keys.read(self.checked):
            if is_key_set(record.key):
                for track in decode(record.value, KeyRecord).tracks:
                    assert self.written.setdefault(track.kid, track.fp) == track.fp
        self.checked = self.keys.end

    @invariant()
    def nothing_is_quarantined(self) -> None:
        """Honest writers, however late, never contradict each other."""
        for view in (self.reader, self.young, self.owner.view):
            assert view.quarantined == []

    @invariant()
    def versions_never_go_backwards(self) -> None:
        """Per view: `applied` and the number of versions of an asset, the KEK epoch of a key record."""
        for name, view in (("reader", self.reader), ("young", self.young), ("owner", self.owner.view)):
            marks = {key: (asset.applied, len(asset.versions)) for key, asset in view.assets.items()}
            marks |= {key: (record.kek_epoch,) for key, record in view.keys.items()}
            for key, now in marks.items():
                before = self.seen.get((name, key), now)
                assert all(old <= new for old, new in zip(before, now, strict=True))
                self.seen[name, key] = now

    def _forget(self, name: str) -> None:
        self.seen = {key: value for key, value in self.seen.items() if key[0] != name}

    def teardown(self) -> None:
        """Process everything, let every zombie speak, repair: then all agree."""
        if not hasattr(self, "owner"):
            return
        self._settle()
        self.versions_never_go_backwards()
        assets, dead, called = replayed(self.events, self.owner)
        self.young.catch_up()
        self.keys.compact(self.keys.end)
        fresh = View(self.keys)
        for view in (self.reader, self.young, fresh):
            view.catch_up()
            assert view.assets == assets
            assert called <= set(view.keys)
            assert view.state() == self.owner.view.state()
        self.versions_never_go_backwards()
        assert dead == self.dead
        for record in fresh.keys.values():
            opened = unwrap_keys(self.keyring.kek("demo", record.kek_epoch), self.keyring.k_fp("demo"), record)
            assert len(opened) == len(record.tracks)
        self.no_kid_has_two_fingerprints()
        self.nothing_is_quarantined()

    def _settle(self) -> None:
        self.process(10_000)
        for key, value in self.late:
            self.keys.append(key, value)
        self.owner.repair()


World.TestCase.settings = examples(2)
test_any_history_ends_in_one_state = World.TestCase
