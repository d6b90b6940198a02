"""The ledger: whatever is delivered, done, revoked or sought in whatever order, nothing un-done is ever committed."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keymill.errors import Corrupt
from streams.runs import Commit, Ledger, RawRecord, Run, Stamp, TopicPartition
from tests.examples import examples

TP: TopicPartition = ("drm.assets.v1", 3)
TPS: list[TopicPartition] = [("drm.assets.v1", 0), ("drm.assets.v1", 1), ("drm.requests.v1", 0)]


def run_of(tp: TopicPartition, stamp: Stamp, start: int, end: int, offsets: list[int] | None = None) -> Run:
    chosen = list(range(start, end)) if offsets is None else offsets
    records = [RawRecord(tp[0], tp[1], offset, 0, 1, b"k", b"v" * 9, ()) for offset in chosen]
    return Run(tp[0], tp[1], stamp.generation, stamp.epoch, start, end, records, 10 * len(records))


def ends(ledger: Ledger) -> dict[TopicPartition, int]:
    return {commit.tp: commit.end for commit in ledger.committable()}


def test_the_prefix_waits_for_the_first_open_run():
    """Runs done out of order are committed only up to the first one that is not done."""
    ledger = Ledger()
    stamp = ledger.assign(TP, generation=1, position=5)
    first, second, third = (run_of(TP, stamp, start, start + 2) for start in (5, 7, 9))
    assert all(ledger.deliver(run) for run in (first, second, third))
    ledger.mark_done(second)
    assert ledger.done_prefix_end(TP) is None
    ledger.mark_done(first)
    assert ledger.done_prefix_end(TP) == 9
    ledger.mark_done(third)
    assert ends(ledger) == {TP: 11}


def test_the_oldest_waits_longest():
    """Of what is delivered and not done, in whichever partition; what is done waits no more."""
    ledger = Ledger()
    assert ledger.oldest_ms() is None
    runs = []
    for number, stamps in enumerate([(70, 80), (50,), (90,)]):
        tp = ("t", number)
        stamp = ledger.assign(tp, generation=1, position=0)
        records = [RawRecord("t", number, at, ms, 1, b"k", b"v", ()) for at, ms in enumerate(stamps)]
        runs.append(Run("t", number, stamp.generation, stamp.epoch, 0, len(stamps), records, 2))
        ledger.deliver(runs[-1])
    for run, oldest in ((None, 50), (runs[1], 70), (runs[0], 90), (runs[2], None)):
        if run:
            ledger.mark_done(run)
        assert oldest == ledger.oldest_ms()


def test_offset_zero_is_not_skipped():
    """Nothing is committed while the very first run is open, although there was no commit before (upstream does)."""
    ledger = Ledger()
    stamp = ledger.assign(TP, generation=1, position=0)
    first, second = run_of(TP, stamp, 0, 1), run_of(TP, stamp, 1, 3)
    ledger.deliver(first)
    ledger.deliver(second)
    ledger.mark_done(second)
    assert ends(ledger) == {}


def test_a_run_is_marked_once():
    """Only the first mark counts, so the open load cannot go below zero."""
    ledger = Ledger()
    run = run_of(TP, ledger.assign(TP, generation=1, position=0), 0, 4)
    ledger.deliver(run)
    assert ledger.open_load(TP[0]) == (1, 40)
    assert [ledger.mark_done(run), ledger.mark_done(run)] == [True, False]
    assert ledger.open_load(TP[0]) == (0, 0)


def test_a_run_of_another_generation_is_foreign():
    """After a re-assignment the old run is neither delivered, marked nor committed, even at the same position."""
    ledger = Ledger()
    old = run_of(TP, ledger.assign(TP, generation=1, position=0), 0, 4)
    ledger.deliver(old)
    ledger.assign(TP, generation=2, position=0)
    assert not ledger.is_current(old)
    assert [ledger.mark_done(old), ledger.deliver(old)] == [False, False]
    assert ends(ledger) == {}


def test_a_run_from_before_a_seek_is_foreign():
    """A seek within one generation makes earlier runs foreign too."""
    ledger = Ledger()
    old = run_of(TP, ledger.assign(TP, generation=1, position=0), 0, 4)
    ledger.deliver(old)
    ledger.assign(TP, generation=1, position=2)
    assert not ledger.mark_done(old)
    assert ledger.position(TP) == 2


def test_an_answered_commit_of_a_former_owner_is_ignored():
    """A commit that returns after a re-assignment does not hide what the new generation has to commit."""
    ledger = Ledger()
    ledger.assign(TP, generation=1, position=0)
    late = Commit(TP, 4, Stamp(1, 1))
    run = run_of(TP, ledger.assign(TP, generation=2, position=0), 0, 4)
    ledger.deliver(run)
    ledger.mark_done(run)
    ledger.mark_committed(late)
    assert ends(ledger) == {TP: 4}


def test_control_records_alone_advance_the_commit():
    """A fetch that brought only transaction markers is done at once and keeps the order."""
    ledger = Ledger()
    stamp = ledger.assign(TP, generation=1, position=0)
    run = run_of(TP, stamp, 0, 2)
    ledger.deliver(run)
    ledger.deliver(run_of(TP, stamp, 2, 3, offsets=[]))
    assert ends(ledger) == {}
    ledger.mark_done(run)
    assert ends(ledger) == {TP: 3}


@pytest.mark.parametrize(("start", "end"), [(5, 7), (3, 7), (4, 4)])
def test_a_run_that_does_not_continue_the_last_one_is_corrupt(start: int, end: int):
    """Skipped, repeated and empty ranges stop the worker instead of losing records."""
    ledger = Ledger()
    stamp = ledger.assign(TP, generation=1, position=4)
    with pytest.raises(Corrupt):
        ledger.deliver(run_of(TP, stamp, start, end))


class LedgerMachine(RuleBasedStateMachine):
    """
    Three partitions of a log whose offsets have gaps, one worker that loses and regains them.

    The model keeps, per partition and stamp, the positions delivered and done; `durable` is every offset that ever was
    in a run marked done, by any generation.
    """

    @initialize()
    def start(self) -> None:
        self.ledger = Ledger()
        self.generation = 1
        self.log_end = dict.fromkeys(TPS, 0)
        self.delivered: dict[TopicPartition, list[Run]] = {tp: [] for tp in TPS}
        self.seen: list[Run] = []
        self.durable: dict[TopicPartition, set[int]] = {tp: set() for tp in TPS}
        self.existing: dict[TopicPartition, set[int]] = {tp: set() for tp in TPS}
        self.broker = dict.fromkeys(TPS, 0)
        self.asked: list[Commit] = []

    @rule(tp=st.sampled_from(TPS))
    def assign(self, tp: TopicPartition) -> None:
        self.ledger.assign(tp, generation=self.generation, position=self.broker[tp])
        self.delivered[tp] = []

    @rule(tp=st.sampled_from(TPS))
    def revoke(self, tp: TopicPartition) -> None:
        self.ledger.revoke([tp])
        self.delivered[tp] = []

    @rule()
    def rebalance(self) -> None:
        self.generation += 1
        for tp in TPS:
            self.assign(tp)

    @rule(tp=st.sampled_from(TPS), back=st.integers(0, 9))
    def seek(self, tp: TopicPartition, back: int) -> None:
        position = self.ledger.position(tp)
        if position is not None and self.broker[tp] <= position - back:
            return  # a seek beyond un-done records would skip them by order of the caller
        if position is not None:
            self.ledger.assign(tp, generation=self.generation, position=max(0, position - back))
            self.delivered[tp] = []

    @rule(tp=st.sampled_from(TPS), gaps=st.lists(st.integers(1, 3), min_size=0, max_size=5), tail=st.integers(0, 2))
    def deliver(self, tp: TopicPartition, gaps: list[int], tail: int) -> None:
        stamp, start = self.ledger.stamp(tp), self.ledger.position(tp)
        if stamp is None or start is None:
            return
        offsets = self._records_from(tp, start, gaps)
        end = max([start, *[offset + 1 for offset in offsets]]) + tail
        if end == start:
            return
        self.log_end[tp] = max(self.log_end[tp], end)
        run = run_of(tp, stamp, start, end, [o for o in sorted(self.existing[tp]) if start <= o < end])
        assert self.ledger.deliver(run)
        self.delivered[tp].append(run)
        self.seen.append(run)

    def _records_from(self, tp: TopicPartition, start: int, gaps: list[int]) -> list[int]:
        """Give records from *start* on: the log's own up to its end, then new ones with these gaps."""
        offset = max(start, self.log_end[tp]) - 1
        offsets = [o for o in sorted(self.existing[tp]) if o >= start]
        for gap in gaps:
            offset += gap
            offsets.append(offset)
        self.existing[tp].update(offsets)
        return offsets

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(self.seen))
        current = run in self.delivered[run.tp]
        assert self.ledger.is_current(run) == current
        if self.ledger.mark_done(run):
            assert current
            self.durable[run.tp].update(record.offset for record in run.records)

    @rule()
    def ask(self) -> None:
        self.asked = self.ledger.committable()

    @rule()
    def answer(self) -> None:
        for commit in self.asked:
            if self.ledger.stamp(commit.tp) == commit.stamp:
                self.broker[commit.tp] = commit.end
            self.ledger.mark_committed(commit)
        self.asked = []

    @invariant()
    def nothing_open_is_committable(self) -> None:
        for commit in self.ledger.committable():
            assert commit.stamp == self.ledger.stamp(commit.tp)
            assert commit.end > self.broker[commit.tp] or commit.end <= (self.ledger.position(commit.tp) or 0)
            below = {offset for offset in self.existing[commit.tp] if offset < commit.end}
            assert below <= self.durable[commit.tp]

    @invariant()
    def the_load_is_what_is_open(self) -> None:
        for topic in {tp[0] for tp in TPS}:
            runs, size = self.ledger.open_load(topic)
            assert runs >= 0
            assert size >= 0
            assert (runs == 0) <= (size == 0)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = examples(3)
