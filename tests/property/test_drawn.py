"""What the fault tests send at running processors, decided in memory: just what is drawn as broken is refused."""

import random
import time
from functools import partial
from itertools import islice
from typing import Any

import pytest

from keymill.kms.keyring import Keyring
from keymill.ops.held import Held
from keymill.ops.replaying import compare
from keymill.ops.report import Report
from keymill.ops.verifying import Verifier
from schemas import framing, topics
from schemas.codec import encode
from schemas.ids import asset_key
from schemas.partition import partition_for
from streams.decide import Decider
from streams.runs import RawRecord
from tests.drawn import Draw, Drawn
from tests.fakes import MemoryKms
from tests.known import MemoryKnown, decide

PARTITIONS = 6
EVENTS = 900
RUNS = (1, 3, 20, 100, 300)
"""Records that a fetch may bring."""


class Logs(Draw):
    """Keeps what it draws, as a broker would."""

    def __init__(self, seed: int) -> None:
        super().__init__(PARTITIONS, seed, "points", titles=40, broken=0.2)
        self.logs: list[list[RawRecord]] = [[] for _ in range(PARTITIONS)]
        self.to_refuse: set[tuple[int, int]] = set()

    def put(self, drawn: Drawn) -> None:
        log = self.logs[drawn.partition]
        place = (drawn.partition, len(log))
        headers = tuple((name, value) for name, value in drawn.headers if not isinstance(value, str))
        log.append(
            RawRecord(topics.ASSETS.name, *place, time.time_ns() // 1_000_000, 1, drawn.key, drawn.value, headers)
        )
        if drawn.refuse:
            self.to_refuse.add(place)


class Decided:
    """A drawn log, decided in runs of any size, the partitions taking turns in any order."""

    def __init__(self, seed: int) -> None:
        draw, self.drawn, self.known = random.Random(seed), Logs(seed), MemoryKnown()
        for _ in range(EVENTS):
            self.drawn.next()
        self.refused: set[tuple[int, int]] = set()
        decider, left = made(Decider), [iter(log) for log in self.drawn.logs]
        while left:
            log = draw.choice(left)
            if run := list(islice(log, draw.choice(RUNS))):
                letters = decide(decider, self.known, *run).dead_letters
                self.refused |= {(letter.partition, letter.offset) for letter in letters}
            else:
                left.remove(log)

    def topic(self, partition: int) -> dict[bytes, bytes]:
        """What the key topic holds there."""
        records = {**self.known.assets, **self.known.keys}
        return {
            record_key: encode(record)
            for record_key, record in records.items()
            if partition_for(asset_key(record.organization, record.asset), PARTITIONS) == partition
        }

    def replayed(self, partition: int, kind: type[Decider], held: Held, **options: Any) -> Report:
        """What a replay finds of it."""
        report = Report()
        for record_key, value in self.topic(partition).items() if kind is Verifier else ():
            held.add(record_key, value, report)
        refused = frozenset(offset for number, offset in self.refused if number == partition)
        winners = {(claim.organization, claim.kid): claim for claim in self.known.claims.values()}
        compare(self.drawn.logs[partition], held, made(kind), 0, report, refused, winners=winners, **options)
        return report


def made(kind: type[Decider]) -> Decider:
    """A decider over the tests' keys."""
    decode = partial(framing.decode_event, registry=None)
    return kind(Keyring(MemoryKms()), decode, partitions=PARTITIONS, generation=0)


@pytest.mark.parametrize("seed", [*range(10), 11, 12, 22, 29, 42, 51])
def test_just_what_is_broken_is_refused_and_a_replay_agrees(seed: int) -> None:
    """Event by event, a replay of the same logs finds every record as it is, and a rebuild makes the same bytes."""
    decided = Decided(seed)
    assert decided.drawn.to_refuse == decided.refused
    for partition in range(PARTITIONS):
        topic = decided.topic(partition)
        report = decided.replayed(partition, Verifier, Held(partition), done=EVENTS)
        assert (report.clean(), report.pending, report.identical) == (True, 0, len(topic)), report.differences
        rebuilt: dict[bytes, bytes] = {}
        decided.replayed(partition, Decider, Held(partition), all_due=True, lacking=rebuilt.__setitem__)
        assert topic == rebuilt
