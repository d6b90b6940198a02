"""
The history checker: what every process and client recorded, against the promises of design 1.

A history is a list of events by one machine's wall clock, in ns, one JSON object per line on disk. What a reader saw
has the broker's append time, what a client saw (a license, a committed offset) the time after its answer: so work that
is later than what rests on it was late, whatever the observers' delays. A check is a linear pass without sampling; each
violation names the invariant and the two or three events that show it.
"""

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from keymill.core.provisioning import needed
from schemas import topics
from schemas.codec import decode
from schemas.ids import is_key_set
from schemas.records import AssetRecord, DeadLetter, KeyRecord


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """An intake acknowledged an event: it stands at these coordinates of the asset topic."""

    at_ns: int
    organization: str
    asset: str
    partition: int
    offset: int
    kind: str = "accepted"


@dataclass(frozen=True, kw_only=True)
class Written:
    """A committed record of the key topic, as an independent reader saw it."""

    at_ns: int
    partition: int
    offset: int
    record_key: str
    value_hex: str
    kind: str = "written"


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A dead letter, by the coordinates of the event that it refuses."""

    at_ns: int
    partition: int
    offset: int
    reason: str
    kind: str = "refused"


@dataclass(frozen=True, kw_only=True)
class Served:
    """A license: the fingerprint of each key that a player was given, and the newest key version among them."""

    at_ns: int
    proxy: str
    organization: str
    asset: str
    fingerprints: dict[str, str]
    key_version: int
    kind: str = "served"


@dataclass(frozen=True, kw_only=True)
class Committed:
    """The processor group's committed offset, watched from outside, beside what was done by then."""

    at_ns: int
    partition: int
    offset: int
    kind: str = "committed"


Event = Accepted | Written | Refused | Served | Committed
NEVER: Final = 1 << 62
"""Later than any time: what has not happened."""
KINDS: dict[str, type[Any]] = {
    "accepted": Accepted,
    "written": Written,
    "refused": Refused,
    "served": Served,
    "committed": Committed,
}


@dataclass(frozen=True)
class Violation:
    invariant: str
    detail: str
    witnesses: tuple[Event, ...] = field(default=(), repr=False)


def save(events: Iterable[Event], path: Path) -> None:
    path.write_text("".join(json.dumps(asdict(event)) + "\n" for event in events))


def load(path: Path) -> list[Event]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [KINDS[row["kind"]](**row) for row in rows]


def written(partition: int, offset: int, record_key: bytes, value: bytes, at_ns: int) -> Written:
    return Written(
        at_ns=at_ns, partition=partition, offset=offset, record_key=record_key.decode(), value_hex=value.hex()
    )


def refused(letter: DeadLetter, at_ns: int) -> Refused:
    return Refused(at_ns=at_ns, partition=letter.partition, offset=letter.offset, reason=letter.reason)


class History:
    """The events with the indices that the checks share."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.events = sorted(events, key=lambda event: event.at_ns)
        self.keys: dict[str, list[tuple[Written, KeyRecord]]] = defaultdict(list)
        self.assets: dict[str, list[tuple[Written, AssetRecord]]] = defaultdict(list)
        self.tombstones: list[Written] = []
        for event in self.of(Written):
            value = bytes.fromhex(event.value_hex)
            if not value:
                self.tombstones.append(event)
            elif is_key_set(event.record_key.encode()):
                self.keys[event.record_key].append((event, decode(value, KeyRecord)))
            else:
                self.assets[event.record_key].append((event, decode(value, AssetRecord)))

    def of(self, kind: type[Any]) -> Iterator[Any]:
        return (event for event in self.events if isinstance(event, kind))

    def last_asset(self, record_key: str) -> AssetRecord | None:
        """What the compacted topic ends with."""
        found = self.assets.get(record_key)
        return max(found, key=lambda each: each[0].offset)[1] if found else None


def one_key_per_kid(history: History) -> Iterator[Violation]:
    """a. For a KID of an organization there is at most one fingerprint, in records and in licenses."""
    known: dict[tuple[str, str], tuple[str, Event]] = {}
    for organization, kid, fingerprint, event in _fingerprints(history):
        first, witness = known.setdefault((organization, kid), (fingerprint, event))
        if first != fingerprint:
            yield Violation("one_key_per_kid", f"KID {kid} has two keys", (witness, event))


def _fingerprints(history: History) -> Iterator[tuple[str, str, str, Event]]:
    for records in history.keys.values():
        for event, record in records:
            for track in record.tracks:
                yield record.organization, track.kid.hex(), track.fp.hex(), event
    for served in history.of(Served):
        for kid, fingerprint in served.fingerprints.items():
            yield served.organization, kid, fingerprint, served


def one_asset_per_kid(history: History) -> Iterator[Violation]:
    """a'. A KID of an organization, derived or claimed, belongs to one asset and one key version."""
    known: dict[tuple[str, bytes], tuple[tuple[str, int], Event]] = {}
    for records in history.keys.values():
        for event, record in records:
            mine = (record.asset, record.key_version)
            for track in record.tracks:
                first, witness = known.setdefault((record.organization, track.kid), (mine, event))
                if first != mine:
                    detail = f"KID {track.kid.hex()} stands under {first} and {mine}"
                    yield Violation("one_asset_per_kid", detail, (witness, event))


def nothing_accepted_is_lost(history: History) -> Iterator[Violation]:
    """b. Every accepted event is folded into its asset record, with every key record it calls for, or is refused."""
    letters = {(event.partition, event.offset) for event in history.of(Refused)}
    for event in history.of(Accepted):
        if (event.partition, event.offset) in letters:
            continue
        asset = history.last_asset(f"{event.organization}/{event.asset}")
        if asset is None or asset.applied.offset < event.offset:
            yield Violation(
                "nothing_accepted_is_lost", f"{event.asset} at offset {event.offset} left no trace", (event,)
            )
            continue
        for need in needed(asset, None):
            if need.record_key.decode() not in history.keys:
                yield Violation(
                    "nothing_accepted_is_lost", f"key record {need.record_key.decode()} is missing", (event,)
                )


def served_was_committed(history: History) -> Iterator[Violation]:
    """c. A license holds only keys that stood committed on the key topic when it was given."""
    committed: dict[tuple[str, str], int] = {}
    for records in history.keys.values():
        for event, record in records:
            for track in record.tracks:
                name = (record.organization, track.kid.hex())
                committed[name] = min(event.at_ns, committed.get(name, event.at_ns))
    for served in history.of(Served):
        for kid in served.fingerprints:
            if committed.get((served.organization, kid), NEVER) > served.at_ns:
                yield Violation("served_was_committed", f"KID {kid} was served and not written by then", (served,))


def versions_only_rise(history: History) -> Iterator[Violation]:
    """d. A proxy never serves an older key version after a newer one, and an asset's last record is its newest."""
    newest: dict[tuple[str, str, str], Served] = {}
    for served in history.of(Served):
        name = (served.proxy, served.organization, served.asset)
        before = newest.get(name)
        if before is not None and served.key_version < before.key_version:
            yield Violation("versions_only_rise", f"{served.asset} went back to {served.key_version}", (before, served))
        else:
            newest[name] = served
    for record_key, records in history.assets.items():
        last = history.last_asset(record_key)
        top = max(records, key=lambda each: (each[1].applied, len(each[1].versions)))
        if last is not None and (last.applied < top[1].applied or len(last.versions) < len(top[1].versions)):
            yield Violation("versions_only_rise", f"{record_key} ends with an older record", (top[0],))


def commits_follow_work(history: History) -> Iterator[Violation]:
    """e. A committed offset never passes an accepted event that has neither records nor a dead letter by then."""
    reached = _done_by_offset(history)
    for commit in history.of(Committed):
        offsets, times, events = reached.get(commit.partition, ([], [], []))
        below = bisect_left(offsets, commit.offset)
        if below and times[below - 1] > commit.at_ns:
            yield Violation(
                "commits_follow_work", f"offset {commit.offset} was committed too early", (events[below - 1], commit)
            )


def _done_by_offset(history: History) -> dict[int, tuple[list[int], list[int], list[Event]]]:
    """Per partition: accepted offsets ascending, and for each the latest time of work up to it, with its event."""
    work = _work(history)
    accepted: dict[int, dict[int, Accepted]] = defaultdict(dict)
    for event in history.of(Accepted):
        accepted[event.partition][event.offset] = event
    reached: dict[int, tuple[list[int], list[int], list[Event]]] = {}
    for partition, events in accepted.items():
        latest: tuple[int, Event | None] = (0, None)
        offsets, times, witnesses = reached[partition] = ([], [], [])
        for offset, event in sorted(events.items()):
            at = work(event)
            if latest[1] is None or at > latest[0]:
                latest = (at, event)
            offsets.append(offset)
            times.append(latest[0])
            witnesses.append(latest[1] or event)
    return reached


def _work(history: History) -> Callable[[Accepted], int]:
    """When an accepted event was first folded into its asset record, or refused."""
    letters: dict[tuple[int, int], int] = {}
    for event in history.of(Refused):
        letters.setdefault((event.partition, event.offset), event.at_ns)
    folded: dict[str, tuple[list[int], list[int]]] = {}
    for key, records in history.assets.items():
        rows = sorted((record.applied.offset, event.at_ns) for event, record in records)
        earliest = list(accumulate(reversed([at for _, at in rows]), min))[::-1]
        folded[key] = ([offset for offset, _ in rows], earliest)

    def when(event: Accepted) -> int:
        if at := letters.get((event.partition, event.offset)):
            return at
        offsets, earliest = folded.get(f"{event.organization}/{event.asset}", ([], []))
        first = bisect_left(offsets, event.offset)
        return earliest[first] if first < len(offsets) else NEVER

    return when


def no_tombstones(history: History) -> Iterator[Violation]:
    """f. Nothing on the key topic is ever deleted."""
    for event in history.tombstones:
        yield Violation("no_tombstones", f"{event.record_key} was deleted on {topics.KEYS.name}", (event,))


INVARIANTS: tuple[Callable[[History], Iterator[Violation]], ...] = (
    one_key_per_kid,
    one_asset_per_kid,
    nothing_accepted_is_lost,
    served_was_committed,
    versions_only_rise,
    commits_follow_work,
    no_tombstones,
)


def check(events: Iterable[Event]) -> list[Violation]:
    """Every violation of every invariant."""
    history = History(events)
    return [violation for invariant in INVARIANTS for violation in invariant(history)]
