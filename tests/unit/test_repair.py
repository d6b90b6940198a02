"""The owner of a partition writes the right record over a wrong one, and only while it is the owner."""

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

import streams.owner
from keymill.errors import UnknownKey
from keymill.kafka.outgoing import Outgoing
from keymill.kafka.positions import Incoming
from keymill.kms.keyring import Keyring
from keymill.snapshot.reader import SnapshotReader
from keymill.snapshot.state import Heartbeat, HeartbeatFile, boot_id
from keymill.snapshot.writer import SnapshotWriter
from schemas import framing, topics
from schemas.codec import encode
from streams.claimant import Claimant
from streams.decide import Decider
from streams.provision import Provisioner
from tests.fakes import TRUSTING, MemoryKms
from tests.view_records import PARTITIONS, Log, asset_record, key_record

MAP = 64 << 20
FILM = asset_record("film", 9)
PLACE = topics.partition_of(topics.KEYS, FILM[0], PARTITIONS)


class Owner:
    """A provisioner over a real view, whose publisher appends to a log that the view reads when told."""

    def __init__(self, folder: Path) -> None:
        self.log = Log()
        self.sent: list[Incoming] = []
        self.lost = b""
        self.ends = dict.fromkeys(range(PARTITIONS), 0)
        self.writer = SnapshotWriter(folder, TRUSTING, map_size=MAP).open()
        self.writer.bind(self.log.checkpoints())
        HeartbeatFile(folder, write=True).write(Heartbeat(environment=self.writer.manifest.environment, boot=boot_id()))
        self.reader = SnapshotReader(folder).open()
        decode = partial(framing.decode_event, registry=None)
        self.provisioner = Provisioner(
            decider=Decider(Keyring(MemoryKms()), decode, partitions=PARTITIONS, generation=0),
            owner=streams.owner.Owner(
                topics.KEYS,
                source=topics.ASSETS,
                reader=self.reader,
                publisher=self,  # type: ignore[arg-type]
                end_offset=self.ends.__getitem__,
            ),
            partitions=PARTITIONS,
            claimant=Claimant(self.reader, self, key_ends=dict, partitions=PARTITIONS),  # type: ignore[arg-type]
        )

    async def publish(self, records: Sequence[Outgoing]) -> list[int]:
        """Append; what is about an organization without keys cannot be authenticated."""
        for each in records:
            if each.record_key.partition(b"/")[0] == self.lost:
                raise UnknownKey("organization lost has no roots")
        sent = [
            self.log.put_raw(topics.KEYS, each.record_key, each.value, partition=each.partition) for each in records
        ]
        self.sent += sent
        return [message.offset for message in sent]

    def take(self, *messages: Incoming) -> None:
        """The view reads on."""
        self.writer.apply(messages, self.log.slots)
        for partition in self.ends:
            self.ends[partition] = self.log.slots[topics.KEYS.name][partition].offset

    def repair(self) -> list[tuple[bytes | None, bytes | None]]:
        """What one look at the view writes."""
        self.sent.clear()
        asyncio.run(self.provisioner.owner.repair())
        return [(message.key, message.value) for message in self.sent]


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    """An owner of every partition, whose view holds one film."""
    made = Owner(tmp_path)
    made.take(made.log.put(FILM), made.log.put(key_record("film")))
    made.provisioner.owner.assigned([(topics.ASSETS.name, partition) for partition in range(PARTITIONS)])
    yield made
    made.reader.close()
    made.writer.close()


def test_a_zombie_and_a_rogue_are_written_over_once(owner: Owner) -> None:
    """However many wrong records a key has: one right one, and none more until the view has read it back."""
    key, record = key_record("film")
    owner.take(*(owner.log.put(asset_record("film", applied)) for applied in (7, 8)))
    owner.take(owner.log.put_raw(topics.KEYS, key, None))
    assert sorted(owner.repair()) == sorted([(FILM[0], encode(FILM[1])), (key, encode(record))])
    written = list(owner.sent)
    assert owner.repair() == []
    owner.take(*written)
    assert owner.repair() == []


def test_an_organization_without_keys_costs_no_other_its_repair(owner: Owner) -> None:
    """Its record stays superseded until the keys are back, and every other one is written again."""
    theirs, others = asset_record("film", 9, organization="lost"), FILM
    owner.take(owner.log.put(theirs))
    owner.lost = b"lost"
    for key, _ in (theirs, others):
        owner.take(owner.log.put_raw(topics.KEYS, key, None))
    assert owner.repair() == [(others[0], encode(others[1]))]
    owner.take(*owner.sent)
    assert owner.repair() == []
    owner.lost = b""
    assert owner.repair() == [(theirs[0], encode(theirs[1]))]


def test_a_view_behind_the_former_owner_repairs_nothing(owner: Owner) -> None:
    """What it holds may be older than what the former owner wrote last."""
    owner.take(owner.log.put(asset_record("film", 7)))
    owner.ends[PLACE] += 1
    assert owner.repair() == []
    owner.ends[PLACE] -= 1
    assert owner.repair() == [(FILM[0], encode(FILM[1]))]


def test_a_partition_that_left_is_left_alone(owner: Owner) -> None:
    """Between the look and the turn to write, the partition may become another's."""
    owner.take(owner.log.put(asset_record("film", 7)))

    async def revoked_meanwhile() -> None:
        async with owner.provisioner.owner.lock:
            looking = asyncio.create_task(owner.provisioner.owner.repair())
            await asyncio.sleep(0.2)
            owner.provisioner.owner.revoked()
        await looking

    asyncio.run(revoked_meanwhile())
    assert owner.sent == []
