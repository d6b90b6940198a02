"""
One partition of the asset events against the key topic, kept in memory: what comes is added, what it touches is judged.

Pure over the records it is given. An asset is judged as a replay judges it, from its first event on; so any number of
looks end with what one look finds.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import islice
from typing import Final, NamedTuple

from keymill.ops.auditing import NONE, Audit, Numbers
from keymill.ops.held import Held
from keymill.ops.recomputed import Winners
from keymill.ops.replaying import compare
from keymill.ops.report import Difference, Report
from schemas.ids import asset_key, partition_key
from schemas.records import Claim
from streams.decide import Decider
from streams.runs import RawRecord

TOGETHER: Final = 200
"""Assets that are judged at once; more of them are judged a second time where one differs."""


class News(NamedTuple):
    """
    What came on the partitions of one number, each in topic order.

    Args:
        made: records of the key topic, by record key.
        refused: offsets of events that got a dead letter.
        claims: whether a KID got a winner, on any partition.
        done: the events below that offset are decided, whatever became of their records.
    """

    made: Iterable[tuple[bytes, bytes | None]] = ()
    refused: Iterable[int] = ()
    events: Iterable[RawRecord] = ()
    claims: bool = False
    done: int = 0


class _Asset:
    """What is kept of an asset: events, record keys in the key topic, and what is wrong with records themselves."""

    __slots__ = ("events", "numbers", "record_keys", "told")

    def __init__(self) -> None:
        self.events: list[RawRecord] = []
        self.record_keys: list[bytes] = []
        self.told: tuple[Difference, ...] = ()
        self.numbers = NONE


class AssetPartition:
    """
    Args:
        generation: of the asset topic.
    """

    def __init__(self, partition: int, generation: int) -> None:
        self.refused: set[int] = set()
        self._partition = partition
        self._generation = generation
        self._held = Held(partition)
        self._applied: Mapping[bytes, tuple[int, int]] = self._held.applied
        self._assets: dict[bytes, _Asset] = {}
        self._pending: set[bytes] = set()
        self._numbers: dict[Numbers, Numbers] = {}
        self._end = self._done = 0

    def step(self, news: News, audit: Audit, decider: Decider, winners: Winners) -> dict[bytes, bytes | None]:
        """Add what came and judge what it touches; returns the record keys that have another value now."""
        newest = self._held.newest
        touched, changed = self._take_made(news.made, audit)
        touched |= self._take_refused(news.refused)
        touched |= self._take_events(news.events)
        if news.claims or self._held.newest > newest or news.done > self._done:
            touched |= self._pending
        self._done = max(self._done, news.done)
        for names in _batched(touched):
            if not self._judge_together(names, audit, decider, winners):
                for name in names:
                    self._judge(name, audit, decider, winners)
        return changed

    def held(self) -> Mapping[bytes, bytes]:
        """The newest record of every record key."""
        return self._held.values

    def accepted(self, claim: Claim) -> bool:
        """Whether the event that claimed a KID was applied, and not refused."""
        applied = self._applied.get(asset_key(claim.organization, claim.asset), (0, -1))
        return applied >= (claim.event.generation, claim.event.offset) and claim.event.offset not in self.refused

    def let_go(self, claimed: Set[bytes]) -> None:
        """Keep no more than `accepted` needs, of assets that claimed KIDs: there is no further step."""
        self._applied = {name: at for name, at in self._applied.items() if name in claimed}
        self._held, self._assets, self._pending = Held(self._partition), {}, set()

    def _take_made(
        self, made: Iterable[tuple[bytes, bytes | None]], audit: Audit
    ) -> tuple[set[bytes], dict[bytes, bytes | None]]:
        before: dict[bytes, bytes | None] = {}
        touched: set[bytes] = set()
        for record_key, value in made:
            name = partition_key(record_key)
            touched.add(name)
            asset = self._asset(name)
            if record_key not in before:
                before[record_key] = self._held.values.get(record_key)
                if record_key not in asset.record_keys:
                    asset.record_keys.append(record_key)
            report = Report()
            self._held.add(record_key, value, report)
            written_over = record_key.decode("utf-8", "replace")
            asset.told = (*(each for each in asset.told if each.record_key != written_over), *report.differences)
        for record_key, old in before.items():
            audit.exchange(self._partition, record_key, old, self._held.values.get(record_key))
        return touched, {record_key: self._held.values.get(record_key) for record_key in before}

    def _take_refused(self, offsets: Iterable[int]) -> set[bytes]:
        new = set(offsets) - self.refused
        self.refused |= new
        late = {offset for offset in new if offset < self._end}
        touched: set[bytes] = set()
        for name in self._likely_first() if late else ():
            if not late:
                break
            if found := late.intersection(event.offset for event in self._assets[name].events):
                late -= found
                touched.add(name)
        return touched

    def _likely_first(self) -> Iterator[bytes]:
        """Whose events may have got a late dead letter: mostly those that nobody had decided yet."""
        yield from self._pending
        yield from self._assets.keys() - self._pending

    def _take_events(self, events: Iterable[RawRecord]) -> set[bytes]:
        touched = set()
        for event in events:
            name = partition_key(event.key or b"")
            self._asset(name).events.append(event)
            touched.add(name)
            self._end = event.offset + 1
        return touched

    def _asset(self, name: bytes) -> _Asset:
        asset = self._assets.get(name)
        if asset is None:
            asset = self._assets[name] = _Asset()
        return asset

    def _judge_together(self, names: Sequence[bytes], audit: Audit, decider: Decider, winners: Winners) -> bool:
        """Judge assets at once, which is faster; False, and nothing done, where anything is to be told of one."""
        assets, report = [self._assets[name] for name in names], Report()
        if any(asset.told for asset in assets):
            return False
        record_keys = [record_key for asset in assets for record_key in asset.record_keys]
        events = (event for asset in assets for event in asset.events)
        held = _part(self._held, record_keys)
        self._compare(events, held, decider, report, winners)
        if not report.clean() or report.refused or report.pending or report.identical != len(record_keys):
            return False
        for name, asset in zip(names, assets, strict=True):
            own = Report(events=len(asset.events), identical=len(asset.record_keys))
            self._note(name, asset, audit, own)
        return True

    def _judge(self, name: bytes, audit: Audit, decider: Decider, winners: Winners) -> None:
        asset, report = self._assets[name], Report()
        for each in asset.told:
            report.note(each.kind, each.record_key.encode(), each.detail)
        held = _part(self._held, asset.record_keys)
        self._compare(asset.events, held, decider, report, winners)
        self._note(name, asset, audit, report)

    def _compare(
        self, events: Iterable[RawRecord], held: Held, decider: Decider, report: Report, winners: Winners
    ) -> None:
        compare(
            events, held, decider, self._generation, report, self.refused, winners=winners, done=self._done,
        )  # fmt: skip

    def _note(self, name: bytes, asset: _Asset, audit: Audit, report: Report) -> None:
        now = audit.judged(("asset", self._partition, name), report, asset.numbers)
        asset.numbers = self._numbers.setdefault(now, now)
        if report.pending:
            self._pending.add(name)
        else:
            self._pending.discard(name)


def _part(held: Held, record_keys: Iterable[bytes]) -> Held:
    """The same, and no more than these record keys of it."""
    part = Held(held.partition)
    part.newest = held.newest
    for record_key in record_keys:
        if (value := held.values.get(record_key)) is not None:
            part.values[record_key] = value
        if (applied := held.applied.get(record_key)) is not None:
            part.applied[record_key] = applied
        if record_key in held.wrong:
            part.wrong.add(record_key)
    return part


def _batched(names: Iterable[bytes]) -> Iterator[list[bytes]]:
    rest = iter(names)
    while batch := list(islice(rest, TOGETHER)):
        yield batch
