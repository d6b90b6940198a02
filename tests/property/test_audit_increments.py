"""
An audit that looks again and again at what came ends with what one look at everything finds.

Histories: events of derived, chosen and imported keys, and broken ones, on two partitions; a processor at work on them,
some of whose records are lost; and others who write where they must not: tombstones, junk, forged, stale, misplaced and
strangers' records, dead letters of what was accepted, claims; and who write the right record again. Each log is cut
into looks by itself, as the topics' ends are taken one after the other.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec
from hypothesis import given, note
from hypothesis import strategies as st

from keymill.core.envelope import unwrap_keys
from keymill.kms.keyring import Keyring
from keymill.ops.auditing import Audit
from keymill.ops.auditing_assets import AssetPartition, News
from keymill.ops.held import Held
from keymill.ops.ledger import Ledger
from keymill.ops.replaying import compare
from keymill.ops.report import Report
from keymill.ops.verifying import Verifier
from schemas import framing, topics
from schemas.codec import decode, encode
from schemas.events import AssetEvent, TrackWish
from schemas.ids import asset_key, is_key_set, partition_key
from schemas.records import AssetRecord, Claim, KeyRecord
from schemas.values import LogPosition, Scheme
from streams.decide import Decided, Decider
from streams.runs import RawRecord, Run
from tests.builders import NOW, assign, imported, ingest, rotate
from tests.examples import examples
from tests.fakes import MemoryKms

PARTITIONS = 2
ASSETS = ("bbb", "ccc", "ddd")
KIDS = (b"k" * 16, b"l" * 16)
KEYRING = Keyring(MemoryKms())
Entry = tuple[str, int, Any]
"""A log, its partition, what was appended."""


def of(change: AssetEvent, asset: str) -> AssetEvent:
    return msgspec.structs.replace(change, asset=asset)


def named(kid: bytes, brought: bool, label: str = "SD") -> AssetEvent:
    """An ingest whose KID its caller chose, or whose key it brought."""
    wish = TrackWish(label=label, kid=kid, imported=imported(kid, b"c" * 16) if brought else None)
    return ingest(tracks=(wish,))


EVENTS = st.builds(
    of,
    st.one_of(
        st.sampled_from([ingest("SD"), ingest("HD"), rotate(2), rotate(3), assign(4), assign(0)]),
        st.builds(named, st.sampled_from(KIDS), st.booleans(), st.sampled_from(["SD", "HD"])),
    ),
    st.sampled_from(ASSETS),
)
HARM = ("tombstone", "junk", "forge", "stale", "misplace", "mend", "letter", "stranger", "claim")
HARMED = st.tuples(st.sampled_from(HARM), st.integers(0, 61))
NEXT = st.lists(
    st.one_of(
        st.tuples(st.just("event"), EVENTS),
        st.tuples(st.just("event"), EVENTS),
        st.tuples(st.just("broken"), st.sampled_from(ASSETS)),
        st.tuples(st.just("work"), st.integers(1, 4)),
        st.tuples(st.just("work"), st.integers(1, 4)),
        st.tuples(st.just("lose"), st.integers(0, 7)),
        HARMED,
        HARMED,
    ),
    max_size=16,
)
FIRST = st.lists(st.tuples(st.just("event"), EVENTS), min_size=1, max_size=5)
STEPS = st.builds(lambda first, after: [*first, ("work", 3), *after], FIRST, NEXT)


def placed(key: bytes) -> int:
    return topics.partition_of(topics.ASSETS, key, PARTITIONS)


class History:
    """What was appended to every log, in order; also the `Lookup` of the processor that is at work."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.events: list[list[RawRecord]] = [[] for _ in range(PARTITIONS)]
        self.done = [0] * PARTITIONS
        self.right: dict[bytes, bytes] = {}
        self.made: list[tuple[bytes, bytes]] = []
        self.claims: dict[tuple[str, bytes], Claim] = {}
        self.decider = Decider(KEYRING, framing.decode_event, partitions=PARTITIONS, generation=0)

    def asset(self, organization: str, asset: str) -> AssetRecord | None:
        value = self.right.get(asset_key(organization, asset))
        return None if value is None else decode(value, AssetRecord)

    def has(self, record_key: bytes) -> bool:
        return record_key in self.right

    def claim(self, organization: str, kid: bytes) -> Claim | None:
        return self.claims.get((organization, kid))

    def owner(self, _organization: str, _kid: bytes) -> KeyRecord | None:
        return None

    def do(self, step: tuple[str, Any]) -> None:
        """One step of somebody."""
        what, given = step
        match what:
            case "event":
                self.append(asset_key("demo", given.asset), encode(given))
            case "broken":
                self.append(asset_key("demo", given), b"junk")
            case "work":
                for _ in range(given):
                    for partition in range(PARTITIONS):
                        self.work(partition)
            case "lose":
                self.work(given % PARTITIONS, lost=given // PARTITIONS)
            case "letter":
                partition = given % PARTITIONS
                self.entries.append(("letters", partition, given % (len(self.events[partition]) + 1)))
            case "claim":
                claim = Claim(
                    organization="demo", kid=KIDS[given % 2], asset=ASSETS[given % 3], key_version=1, label="SD",
                    scheme=Scheme.CBCS, root_version=1, fp=None,
                    event=LogPosition(generation=0, offset=given % 5),
                )  # fmt: skip
                self.claimed(claim)
            case _ if self.made:
                self.harm(what, *self.made[given // 2 % len(self.made)], away=given % 2 and what != "mend")

    def append(self, key: bytes, value: bytes) -> None:
        partition = placed(key)
        event = RawRecord(topics.ASSETS.name, partition, len(self.events[partition]), NOW, 1, key, value, ())
        self.events[partition].append(event)
        self.entries.append(("events", partition, event))

    def work(self, partition: int, lost: int = 0) -> None:
        """The processor decides its next event; *lost* are bits: 1 the first record, 2 all others."""
        if self.done[partition] == len(self.events[partition]):
            return
        event = self.events[partition][self.done[partition]]
        while (decided := self.decided(event)).claims:
            for claim in decided.claims.values():
                self.claimed(claim)
        self.done[partition] += 1
        self.entries += [("letters", partition, letter.offset) for letter in decided.dead_letters]
        made = [*decided.key_records.items(), *((key, encode(asset)) for key, asset in decided.assets.items())]
        self.right |= dict(made)
        self.made += made
        kept = [entry for number, entry in enumerate(made) if not lost & (2 if number else 1)]
        self.entries += [("made", partition, entry) for entry in kept]
        if self.done[partition] % 2:  # it commits now and then
            self.entries.append(("done", partition, self.done[partition]))

    def decided(self, event: RawRecord) -> Decided:
        run = Run(event.topic, event.partition, 0, 0, event.offset, event.offset + 1, (event,), 0)
        decided = self.decider.begin(run)
        self.decider.record(event, decided, self)
        return decided

    def claimed(self, claim: Claim) -> None:
        self.claims.setdefault((claim.organization, claim.kid), claim)
        self.entries.append(("claims", 0, claim))

    def harm(self, what: str, key: bytes, value: bytes, *, away: bool) -> None:
        """Somebody writes where nobody may, or writes again what is right."""
        partition = (placed(partition_key(key)) + away) % PARTITIONS
        match what:
            case "tombstone":
                entry: tuple[bytes, bytes | None] = key, None
            case "junk":
                entry = key, b"\xc3\x01junk"
            case "forge":
                entry = key, forged(key, value)
            case "stale":
                entry = key, value
            case "misplace":
                partition, entry = 1 - partition, (key, value)
            case "stranger":
                entry = b"demo/eee" + key[8:], value
            case _:
                entry = key, self.right[key]
        self.entries.append(("made", partition, entry))


def forged(key: bytes, value: bytes) -> bytes:
    """Another KID, another fingerprint or policy under the same record key."""
    if not is_key_set(key):
        return encode(msgspec.structs.replace(decode(value, AssetRecord), policy_id=9))
    record = decode(value, KeyRecord)
    track = msgspec.structs.replace(record.tracks[0], fp=b"f" * 16)
    return encode(msgspec.structs.replace(record, tracks=(track, *record.tracks[1:])))


def opened(record: KeyRecord) -> object:
    return unwrap_keys(KEYRING.kek("demo", record.kek_epoch), KEYRING.k_fp("demo"), record)


BEFORE = Ledger()
BEFORE.add("demo", [(KIDS[0], b"f" * 16), (b"g" * 16, b"f" * 16)])


class Auditor:
    """An audit in memory, as `keymill.ops.audit_pass` goes about it."""

    def __init__(self) -> None:
        self.audit = Audit(PARTITIONS, opened, BEFORE)
        self.partitions = [AssetPartition(number, 0) for number in range(PARTITIONS)]
        self.decider = Verifier(KEYRING, framing.decode_event, partitions=PARTITIONS, generation=0)

    def look(self, entries: list[Entry]) -> None:
        """At what came."""
        for log, _, claim in entries:
            if log == "claims":
                self.audit.claims.add(claim)
        came = bool(self.audit.claims.new)
        for number, each in enumerate(self.partitions):
            here = partial(chosen, entries, number)
            each.step(
                News(here("made"), here("letters"), here("events"), came, max(here("done"), default=0)), self.audit,
                self.decider, self.audit.claims.winners,
            )  # fmt: skip
        self.audit.open_again()
        self.audit.check(self.accepted)

    def accepted(self, claim: Claim) -> bool:
        return self.partitions[placed(asset_key("demo", claim.asset))].accepted(claim)

    def found(self) -> tuple[Any, ...]:
        result = self.audit.result()
        differences = sorted((each["kind"], each["record_key"], each["detail"]) for each in result.pop("differences"))
        return result, differences, [*map(str, self.audit.ledger().entries())]


def counted(audit: Audit) -> Counter[tuple[str, str, str]]:
    """How often each difference is told."""
    return Counter((each.kind, each.record_key, each.detail) for each in audit.findings.listed())


def chosen(entries: list[Entry], partition: int, log: str) -> list[Any]:
    return [what for name, number, what in entries if (name, number) == (log, partition)]


def cut(entries: list[Entry], looks: int, data: st.DataObject) -> Iterator[list[Entry]]:
    """The entries of every look: each log in its order, each cut by itself."""
    logs = sorted({entry[:2] for entry in entries})
    parts: list[list[Entry]] = [[] for _ in range(looks)]
    for log in logs:
        whole = [entry for entry in entries if entry[:2] == log]
        ends = sorted(data.draw(st.lists(st.integers(0, len(whole)), min_size=looks - 1, max_size=looks - 1)))
        for part, start, end in zip(parts, [0, *ends], [*ends, len(whole)], strict=True):
            part.extend(whole[start:end])
    yield from parts


@examples(3)
@given(STEPS, st.integers(2, 5), st.data())
def test_any_number_of_looks_ends_with_what_one_look_finds(
    steps: list[tuple[str, Any]], looks: int, data: st.DataObject
) -> None:
    """The same differences, word for word, the same numbers and fingerprints; and no others stay behind."""
    history = History()
    for step in steps:
        history.do(step)
    note(repr(history.entries))
    whole, again = Auditor(), Auditor()
    whole.look(history.entries)
    for part in cut(history.entries, looks, data):
        again.look(part)
    assert whole.found() == again.found()
    again.look([])
    assert whole.found() == again.found()


@given(STEPS)
def test_one_look_finds_what_a_replay_finds(steps: list[tuple[str, Any]]) -> None:
    """Asset by asset, or a partition at once: the same is missing, different and unexpected."""
    history, report = History(), Report()
    for step in steps:
        history.do(step)
    whole = Auditor()
    whole.look(history.entries)
    for number in range(PARTITIONS):
        held, here = Held(number), partial(chosen, history.entries, number)
        for key, value in here("made"):
            held.add(key, value, report)
        compare(
            here("events"), held, whole.decider, 0, report, frozenset(here("letters")),
            winners=whole.audit.claims.winners, done=max(here("done"), default=0),
        )  # fmt: skip
    alone = Auditor()
    alone.audit.judged(("replay",), report)
    assert counted(alone.audit) <= counted(whole.audit)
    assert alone.audit.numbers == whole.audit.numbers
