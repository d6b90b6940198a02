"""
Policy changes of two organizations over logs with duplicates, crashes, zombies, replays and compaction, in any order.

Invariants: ids are never shared or reused, versions never go backwards, nothing is quarantined; and once everything is
processed and repaired every view holds what a plain count over the change log says, and each refused change has its
dead letter.
"""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keymill.core.policy_changes import Policies, fold, request_hash
from keymill.core.policy_records import requested
from keymill.core.view import Fate, judge_policy_record, misplaced
from keymill.errors import Reject
from keymill.kms.keyring import Keyring
from schemas import topics
from schemas.codec import decode, encode
from schemas.events import PolicyChange, PolicyCreated, PolicyDeleted, PolicyUpdated
from schemas.records import PolicyRecord, PolicyState
from streams.policies import Decider
from streams.runs import RawRecord, Run
from tests.authentic import authentic
from tests.builders import at, create_policy, delete_policy, update_policy
from tests.examples import examples
from tests.fakes import Clock, LogRecord, MemoryKms, MemoryLog

NAMES = ("demo", "other")
ORGANIZATIONS = st.sampled_from(NAMES)
REQUESTS = st.none() | st.sampled_from(["r-1", "r-2", "r-3", "r-4"])
HASHES = st.none() | st.sampled_from([b"a" * 32, b"b" * 32])
IDS = st.integers(0, 4)
TITLES = st.integers(0, 10**6).map(str)
CHANGES = st.one_of(
    st.builds(create_policy, ORGANIZATIONS, name=TITLES, request_id=REQUESTS, request_hash=HASHES),
    st.builds(update_policy, IDS, ORGANIZATIONS, name=TITLES, request_id=REQUESTS, request_hash=HASHES),
    st.builds(delete_policy, st.integers(1, 4), ORGANIZATIONS, request_id=REQUESTS, request_hash=HASHES),
)
State = tuple[int, str, bool, int]
"""Version, name, whether it is deleted, offset of the last change that was taken."""


@dataclass
class Counted:
    """What an organization must hold, counted in the plainest way."""

    states: dict[int, State] = field(default_factory=dict)
    created: dict[int, tuple[str, bytes] | None] = field(default_factory=dict)
    changed: dict[int, tuple[str, bytes] | None] = field(default_factory=dict)
    creates: int = 0
    refused: set[int] = field(default_factory=set)

    def take(self, change: PolicyChange, offset: int) -> None:
        """One change, at its place in the log."""
        body, request = change.body, (change.request_id or "", request_hash(change))
        known = {r[0]: (number, r) for part in (self.created, self.changed) for number, r in part.items() if r}
        if change.request_id in known:
            number, was = known[change.request_id]
            if was == request or request in (self.created.get(number), self.changed.get(number)):
                self.states[number] = (*self.states[number][:3], offset)
            else:
                self.refused.add(offset)
            return
        mine = request if change.request_id else None
        match body:
            case PolicyCreated():
                self.creates += 1
                self.states[self.creates], self.created[self.creates] = (1, body.name, False, offset), mine
            case PolicyUpdated() if body.policy_id in self.states or body.policy_id == 0:
                version, _, deleted, _ = self.states.get(body.policy_id, (0, "", False, 0))
                if deleted:
                    self.refused.add(offset)
                else:
                    self.states[body.policy_id] = (version + 1, body.name, False, offset)
                    self.changed[body.policy_id] = mine
            case PolicyDeleted() if body.policy_id in self.states:
                version, name, deleted, _ = self.states[body.policy_id]
                self.states[body.policy_id] = (version + (not deleted), name, True, offset)
                if not deleted:
                    self.changed[body.policy_id] = mine
            case _:
                self.refused.add(offset)


def count(log: MemoryLog) -> dict[str, Counted]:
    """Every organization's, over the whole log."""
    counted = {name: Counted() for name in NAMES}
    for record in log.read():
        change = decode(record.value, PolicyChange)
        counted[change.organization].take(change, record.offset)
    return counted


def state_of(record: PolicyRecord) -> State:
    """A record as `Counted` has it."""
    return record.version, record.name, record.state is PolicyState.DELETED, record.applied.offset


class Scanned:
    """A `Stored` that looks through a list."""

    def __init__(self, records: list[PolicyRecord]) -> None:
        self.records = records
        self.newest = max((record.policy_id for record in records), default=0)
        self.applied = max((record.applied for record in records), default=None)

    def get(self, policy_id: int) -> PolicyRecord | None:
        """By number."""
        return next((record for record in self.records if record.policy_id == policy_id), None)

    def by_request(self, request_id: str) -> PolicyRecord | None:
        """By request id."""
        return next((record for record in self.records if requested(record, request_id)), None)


class View:
    """A reader of the policy topic; `folded` is the agent's `Lookup`."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self.position = 0
        self.held: dict[bytes, PolicyRecord] = {}
        self.quarantined = 0

    def catch_up(self, most: int | None = None) -> list[bytes]:
        """Apply the next records; the record keys of those that were stale."""
        stale = []
        for record in list(self.log.read(self.position))[:most]:
            new = decode(record.value, PolicyRecord)
            verdict = misplaced(record.key, new) or judge_policy_record(new, self.held.get(record.key))
            if verdict.fate is Fate.APPLIED:
                self.held[record.key] = new
            stale += [record.key] * (verdict.fate is Fate.STALE)
            self.quarantined += verdict.fate is Fate.QUARANTINED
            self.position = record.offset + 1
        return stale

    def folded(self, organization: str) -> Policies:
        """Those of an organization, looked up as they are needed."""
        return Policies(stored=Scanned(self.policies(organization)))

    def policies(self, organization: str) -> list[PolicyRecord]:
        """Those of an organization."""
        return [record for record in self.held.values() if record.organization == organization]


def raw(record: LogRecord) -> RawRecord:
    """A change as the transport hands it over."""
    raw = RawRecord(topics.POLICY_CHANGES.name, 0, record.offset, record.timestamp, 1, record.key, record.value, ())
    return authentic(raw)


class World(RuleBasedStateMachine):
    """One partition of changes, one of policies, an owner, and readers at their own pace."""

    @initialize()
    def begin(self) -> None:
        """Nothing was ever changed."""
        self.changes, self.log = MemoryLog(Clock()), MemoryLog(Clock())
        self.decider = Decider(Keyring(MemoryKms(names=NAMES)), partitions=1, generation=0)
        self.committed = 0
        self.dead: set[int] = set()
        self.zombies: list[list[LogRecord]] = []
        self.reader = View(self.log)
        self.seen: dict[bytes, PolicyRecord] = {}
        self.start()

    def start(self) -> None:
        """Another owner: it waits until its view has passed the end."""
        self.view = View(self.log)
        self.position = self.committed
        self.repair()

    def repair(self) -> None:
        """Read back; where somebody's late write regressed a record, write the right one again."""
        while stale := self.view.catch_up():
            for key in dict.fromkeys(stale):
                self.log.append(key, encode(self.view.held[key]))

    def decide(self, most: int) -> tuple[list[LogRecord], int]:
        """The writes of a run, in their order, and its end; its dead letters are acknowledged."""
        records = [raw(record) for record in list(self.changes.read(self.position))[:most]]
        end = records[-1].offset + 1 if records else self.position
        decided = self.decider.begin(Run(topics.POLICY_CHANGES.name, 0, 1, 1, self.position, end, records, 0))
        for record in records:
            self.decider.record(record, decided, self.view)
        self.dead |= {letter.offset for letter in decided.dead_letters}
        writes = [LogRecord(0, due.record_key, due.value, 0) for batch in decided.batches() for due in batch]
        return writes, end

    def write(self, writes: list[LogRecord]) -> None:
        """Append."""
        for record in writes:
            self.log.append(record.key, record.value)

    @rule(changes=st.lists(CHANGES, min_size=1, max_size=6))
    def emit(self, changes: list[PolicyChange]) -> None:
        """Somebody asks for changes."""
        for change in changes:
            self.changes.append(change.organization.encode(), encode(change))

    @precondition(lambda self: self.changes.records)
    @rule(data=st.data())
    def duplicate(self, data: st.DataObject) -> None:
        """A retry, however late."""
        record = data.draw(st.sampled_from(self.changes.records))
        self.changes.append(record.key, record.value)

    @rule(most=st.integers(1, 12))
    def process(self, most: int) -> None:
        """A run: dead letters, records, commit."""
        writes, end = self.decide(most)
        self.write(writes)
        self.position = self.committed = end
        self.repair()

    @rule(most=st.integers(1, 12), done=st.integers(0, 6))
    def crash(self, most: int, done: int) -> None:
        """The processor dies after some of a run's writes, before its commit."""
        self.write(self.decide(most)[0][:done])
        self.start()

    @rule(most=st.integers(1, 12), done=st.integers(0, 6))
    def freeze(self, most: int, done: int) -> None:
        """The owner stops amid its writes, the others in hand; another one takes over."""
        writes, _ = self.decide(most)
        self.write(writes[:done])
        self.zombies.append(writes[done:])
        self.start()

    @precondition(lambda self: self.zombies)
    @rule(data=st.data(), writes=st.integers(1, 12))
    def thaw(self, data: st.DataObject, writes: int) -> None:
        """A zombie goes on for a while; the owner reads it back and repairs."""
        zombie = data.draw(st.sampled_from(self.zombies))
        self.write(zombie[:writes])
        del zombie[:writes]
        self.repair()

    @rule(share=st.floats(0, 1))
    def replay(self, share: float) -> None:
        """Everything, or its end, is delivered again."""
        self.position = int(self.position * share)

    @rule(share=st.floats(0, 1))
    def compact(self, share: float) -> None:
        """Below what the owner has read back, as the compaction lag guarantees."""
        self.log.compact(int(self.view.position * share))

    @rule(most=st.integers(1, 12))
    def read(self, most: int) -> None:
        """A reader follows."""
        self.reader.catch_up(most)

    @invariant()
    def nothing_goes_backwards(self) -> None:
        """Versions and `applied` only rise, a deleted policy stays deleted, what was created stays whose it was."""
        assert 0 == self.reader.quarantined == self.view.quarantined
        for key, now in self.reader.held.items():
            before = self.seen.get(key, now)
            assert before.version <= now.version and before.applied <= now.applied
            assert before.state is PolicyState.READY or now.state is PolicyState.DELETED
            assert (before.created, before.created_by) == (now.created, now.created_by)
        self.seen = dict(self.reader.held)

    @invariant()
    def what_is_there_is_a_beginning_of_the_log(self) -> None:
        """Over both organizations: ids without a hole, and no change without those before it."""
        counted = {name: Counted() for name in NAMES}
        reached = max((record.applied.offset for record in self.view.held.values()), default=-1)
        for record in self.changes.read():
            change = decode(record.value, PolicyChange)
            if record.offset <= reached:
                counted[change.organization].take(change, record.offset)
        for name in NAMES:
            assert counted[name].states == {r.policy_id: state_of(r) for r in self.view.policies(name)}

    def teardown(self) -> None:
        """Process everything, let every zombie speak, repair: then all agree with the count."""
        if not hasattr(self, "view"):
            return
        self.process(10_000)
        for zombie in self.zombies:
            self.write(zombie)
        self.repair()
        counted = count(self.changes)
        self.log.compact(self.log.end)
        fresh = View(self.log)
        for view in (self.reader, self.view, fresh):
            view.catch_up()
            for name in NAMES:
                assert counted[name].states == {r.policy_id: state_of(r) for r in view.policies(name)}
        assert self.reader.held == self.view.held == fresh.held
        assert self.dead == set().union(*(each.refused for each in counted.values()))
        end = self.log.end
        self.position = 0
        assert ([], self.changes.end) == self.decide(10_000)
        assert end == self.log.end
        self.nothing_goes_backwards()


World.TestCase.settings = examples(2)
test_any_history_ends_in_one_state = World.TestCase


@given(st.lists(CHANGES, max_size=30), st.integers(0, 30))
def test_a_restart_after_any_prefix_ends_in_the_same_state(changes: list[PolicyChange], cut: int) -> None:
    """What was published is enough to go on from: nothing is remembered that the records do not hold."""
    at_once, before = {name: Policies() for name in NAMES}, {name: Policies() for name in NAMES}
    published: list[PolicyRecord] = []

    def run(held: dict[str, Policies], start: int, stop: int) -> None:
        for offset, change in list(enumerate(changes))[start:stop]:
            try:
                record = fold(change, at=at(offset), held=held[change.organization])
            except Reject:
                continue
            if record is not None:
                held[change.organization].take(record)
                published.append(record)

    run(at_once, 0, len(changes))
    whole = list(published)
    published.clear()
    run(before, 0, cut)
    newest = {(record.organization, record.policy_id): record for record in published}
    after = {name: Policies(r for r in newest.values() if r.organization == name) for name in NAMES}
    run(after, 0, len(changes))
    assert whole == published
