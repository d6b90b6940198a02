"""What the fault tests send at running processors, decided in memory: just what is drawn as broken is refused."""

import random
import time
from functools import partial
from itertools import islice

import pytest

from keymill.kms.keyring import Keyring
from schemas import framing, topics
from schemas.records import KeyRecord
from streams.decide import Decided, Decider
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


class Indexed(MemoryKnown):
    """Finds a KID's owner without looking through all keys."""

    def __init__(self) -> None:
        super().__init__()
        self.owners: dict[bytes, KeyRecord] = {}

    def owner(self, organization: str, kid: bytes) -> KeyRecord | None:
        return self.owners.get(kid)

    def take(self, decided: Decided) -> None:
        super().take(decided)
        for key in decided.key_records:
            for track in self.keys[key].tracks:
                self.owners.setdefault(track.kid, self.keys[key])


@pytest.mark.parametrize("seed", [*range(10), 11, 12, 22, 29, 42, 51])
def test_just_what_is_broken_is_refused(seed: int) -> None:
    """However the log is cut into runs, and in whichever order the partitions get their turn."""
    draw, drawn, known = random.Random(seed), Logs(seed), Indexed()
    for _ in range(EVENTS):
        drawn.next()
    decode = partial(framing.decode_event, registry=None)
    decider = Decider(Keyring(MemoryKms()), decode, partitions=PARTITIONS, generation=0)
    left = [iter(log) for log in drawn.logs]
    refused = set()
    while left:
        log = draw.choice(left)
        run = list(islice(log, draw.choice(RUNS)))
        if not run:
            left.remove(log)
            continue
        refused |= {(letter.partition, letter.offset) for letter in decide(decider, known, *run).dead_letters}
    assert drawn.to_refuse == refused
