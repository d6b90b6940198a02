"""The owner's agent beside the provisioner, over one real view and an in-memory log: re-wrapping and repair."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from keymill.core.envelope import unwrap_keys
from keymill.core.view import identity_of
from keymill.errors import Misconfigured, NotReady
from keymill.kms.keyring import Keyring
from schemas import framing, topics
from schemas.codec import decode, encode
from schemas.events import AssetEvent, TrackWish
from schemas.ids import asset_key, is_key_set
from schemas.operations import OwnerRequest, RequestKind
from schemas.records import DeadLetter, KeyRecord
from streams import decide, decide_requests, policies, policy_repairs
from streams.provision import Provisioner
from streams.requests import PolicyRequester, Requester
from streams.reread import clusters
from streams.runs import RawRecord, Run
from tests.agent_rig import PARTITIONS, AgentRig, bounded, under_way
from tests.authentic import authentic
from tests.builders import NOW, assign, folded, imported, ingest, rotate
from tests.fakes import MemoryKms

KEYS, LETTERS, ASSETS, REQUESTS = (
    topic.name for topic in (topics.KEYS, topics.DEAD_LETTERS, topics.ASSETS, topics.REQUESTS)
)
KEY = asset_key("demo", "bbb")
HERE = topics.partition_of(topics.KEYS, KEY, PARTITIONS)


class Rig(AgentRig):
    """A provisioner and the agent for requests, which share an owner; `events` is their partition of the asset log."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, topics.KEYS)
        self.kms = MemoryKms()
        self.keyring = Keyring(self.kms)
        self.events: list[RawRecord] = []
        self.asked: list[list[int]] = []
        owner = self.owner_by(topics.ASSETS)
        decider = decide.Decider(self.keyring, framing.decode_event, partitions=PARTITIONS, generation=0)
        self.provisioner = Provisioner(decider=decider, owner=owner, partitions=PARTITIONS, claimant=self.claimant())
        self.requester = Requester(
            decider=decide_requests.Decider(
                self.keyring, decider, partitions=PARTITIONS, generation=0, asset_generation=0
            ),
            owner=owner,
            partitions=PARTITIONS,
            read=self.read,
            of_policies=self.of_policies(),
        )
        owner.assigned([(ASSETS, partition) for partition in range(PARTITIONS)])

    def of_policies(self) -> PolicyRequester:
        """The agent that no request here reaches."""
        decider = policies.Decider(self.keyring, partitions=PARTITIONS, generation=0)
        return PolicyRequester(
            decider=policy_repairs.Decider(decider, generation=0, change_generation=0),
            owner=self.owner_by(topics.POLICY_CHANGES),
            partitions=PARTITIONS,
            read=lambda _partition, _offsets: {},
        )

    def read(self, partition: int, offsets: list[int]) -> dict[int, RawRecord]:
        self.asked.append(list(offsets))
        return {offset: self.events[offset] for offset in offsets if offset < len(self.events)}

    def log(self, *events: AssetEvent) -> None:
        """Append to the asset log."""
        for event in events:
            key = asset_key("demo", event.asset)
            self.events.append(RawRecord(ASSETS, HERE, len(self.events), NOW, 1, key, encode(event), ()))

    def provision(self, *events: AssetEvent, follow: bool = True) -> None:
        """Append and handle, and have the view read it."""
        start = len(self.events)
        self.log(*events)
        records = self.events[start:]
        bounded(self.provisioner.handle(Run(ASSETS, HERE, 1, 1, start, len(self.events), records, 1)))
        if follow:
            self.follow()

    def ask(self, *values: OwnerRequest | bytes, key: bytes = KEY) -> list[DeadLetter]:
        """Handle a run of requests; the dead letters that it gave."""
        before = len(self.sent(LETTERS))
        bounded(self.requester.handle(requests(*values, key=key)))
        return [decode(each.value or b"", DeadLetter) for each in self.sent(LETTERS)[before:]]

    def key_records(self) -> list[KeyRecord]:
        return self.reader.key_records("demo", "bbb")


def requests(*values: OwnerRequest | bytes, key: bytes = KEY) -> Run:
    """A run of requests."""
    raw = [value if isinstance(value, bytes) else encode(value) for value in values]
    records = [authentic(RawRecord(REQUESTS, HERE, offset, NOW, 1, key, value, ())) for offset, value in enumerate(raw)]
    return Run(REQUESTS, HERE, 1, 1, 0, len(records), records, 1)


def rewrap(epoch: int | None) -> OwnerRequest:
    return _request(RequestKind.REWRAP, kek_epoch=epoch)


def repair(*offsets: int, generation: int = 0) -> OwnerRequest:
    return _request(RequestKind.REPAIR, offsets=offsets, generation=generation)


def _request(kind: RequestKind, **what) -> OwnerRequest:
    return OwnerRequest(organization="demo", asset="bbb", kind=kind, request_id="r-1", requested=NOW, **what)


@pytest.fixture
def rig(tmp_path: Path):
    rig = Rig(tmp_path / "view")
    yield rig
    rig.close()


@pytest.fixture
def gone(tmp_path: Path, rig: Rig):
    """The same asset log under an empty view."""
    rig.provision(ingest("SD", "HD"), rotate(2), assign(4))
    lost = Rig(tmp_path / "gone")
    lost.events = rig.events
    yield lost
    lost.close()


def test_key_records_are_wrapped_again_and_hold_the_same_keys(rig: Rig) -> None:
    """Only epoch and wrapping differ, the view takes them, and a repeat writes nothing."""
    rig.provision(ingest("SD", "HD"), rotate(2))
    before = rig.key_records()
    rig.kms.kek_epochs = (1, 2)
    assert [] == rig.ask(rewrap(2))
    rig.follow()
    after = rig.key_records()
    assert [(2, identity_of(each), each.event) for each in before] == [
        (each.kek_epoch, identity_of(each), each.event) for each in after
    ]
    for old, new in zip(before, after, strict=True):
        assert _opened(rig, old) == _opened(rig, new)
    batches = len(rig.publisher.batches)
    assert [] == rig.ask(rewrap(2), rewrap(1))
    assert batches == len(rig.publisher.batches)


def _opened(rig: Rig, record: KeyRecord) -> list[tuple[bytes, bytes]]:
    kek, k_fp = rig.keyring.kek("demo", record.kek_epoch), rig.keyring.k_fp("demo")
    return [(key.cek.reveal(), key.iv.reveal()) for key in unwrap_keys(kek, k_fp, record)]


def test_a_record_that_the_view_has_not_read_back_is_wrapped_again_too(rig: Rig) -> None:
    """The agent waits for the view to hold all that this worker wrote, while nothing else is written."""
    rig.provision(ingest("SD"), follow=False)
    rig.kms.kek_epochs = (1, 2)

    async def asked() -> None:
        async with under_way(rig.requester.handle(requests(rewrap(2)))) as task:
            assert not task.done()
            rig.follow()
            await task

    bounded(asked())
    rig.follow()
    assert [2] == [each.kek_epoch for each in rig.key_records()]


def test_a_view_that_stands_still_keeps_only_requests_waiting(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """They leave the provisioner its turn, and are executed when the view goes on."""
    monkeypatch.setattr("streams.requests.TURN_S", 0.05)
    rig.provision(ingest("SD"), follow=False)
    rig.kms.kek_epochs = (1, 2)
    rig.log(rotate(2))

    async def stuck() -> None:
        async with under_way(rig.requester.handle(requests(rewrap(1)))) as task:
            await rig.provisioner.handle(Run(ASSETS, HERE, 1, 1, 1, 2, rig.events[1:], 1))
            assert not task.done()
            rig.follow()
            await task

    bounded(stuck())
    assert 2 == len(rig.publisher.batches)


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (rewrap(None), "invalid_record", "kek_epoch"),
        (rewrap(2), "kek_epoch_not_active", "kek_epoch"),
        (repair(), "invalid_record", "offsets"),
        (repair(1, 0), "invalid_record", "offsets"),
        (repair(0, generation=1), "wrong_generation", "generation"),
        (repair(0, 9), "event_missing", "offsets"),
        (repair(0, 1), "event_of_another_asset", "offsets"),
        (b"nonsense", "invalid_record", "value"),
    ],
)
def test_a_request_that_cannot_be_executed_becomes_a_dead_letter(rig: Rig, request_, code: str, field: str) -> None:
    """It names reason and field, costs the run's other requests nothing, and writes nothing."""
    rig.provision(ingest("SD"))
    rig.log(ingest("SD", asset="other"))
    written = len(rig.sent())
    (letter,) = rig.ask(request_, repair(0))
    assert (REQUESTS, 0, code, field) == (letter.topic, letter.offset, letter.reason, letter.field)
    assert written == len(rig.sent())


def test_a_record_that_does_not_open_is_left_and_told(rig: Rig) -> None:
    """The asset's other records are wrapped again."""
    rig.provision(ingest("SD"), rotate(2))
    key, held = next((each.record_key, each.value) for each in rig.sent() if is_key_set(each.record_key))
    broken = decode(held or b"", KeyRecord)
    broken = msgspec.structs.replace(broken, kek_epoch=2, wrapped=bytes(len(broken.wrapped)))
    rig.append(key, encode(broken), HERE)
    rig.follow()
    rig.kms.kek_epochs = (1, 2, 3)
    (letter,) = rig.ask(rewrap(3))
    rig.follow()
    assert "key_record_does_not_open" == letter.reason
    assert [2, 3] == sorted(each.kek_epoch for each in rig.key_records())


def test_a_repair_gives_back_what_is_gone(gone: Rig, rig: Rig) -> None:
    """Record for record what the provisioner wrote, key records first; a repeat writes nothing."""
    assert [] == gone.ask(repair(0, 1, 2), repair(0, 1, 2))
    latest = {each.record_key: each.value for each in rig.sent()}
    assert latest == {each.record_key: each.value for each in gone.sent()}
    assert KEY == gone.sent()[-1].record_key
    assert [[0, 1, 2]] == gone.asked
    gone.follow()
    assert [] == gone.ask(repair(0, 1, 2))
    assert 1 == len(gone.publisher.batches)


def test_a_repair_publishes_only_what_is_missing(gone: Rig, rig: Rig) -> None:
    """A record that is there under another KEK epoch is there; an older asset record is brought up to date."""
    sent = [each for each in rig.sent() if is_key_set(each.record_key)]
    gone.append(sent[0].record_key, sent[0].value or b"", HERE)
    gone.append(KEY, encode(folded(ingest("SD", "HD"), rotate(2))), HERE)
    gone.follow()
    gone.kms.kek_epochs = (1, 2)
    assert [] == gone.ask(repair(0, 1, 2))
    assert [sent[1].record_key, KEY] == [each.record_key for each in gone.sent()]


@pytest.mark.parametrize("held", ["of other events", "with another key", "of another asset"])
def test_a_repair_that_contradicts_the_view_writes_nothing(gone: Rig, rig: Rig, held: str) -> None:
    """A key never changes, and an event that was left out of a repair is not left out of the record."""
    key, record = next(
        (each.record_key, decode(each.value or b"", KeyRecord)) for each in rig.sent() if is_key_set(each.record_key)
    )
    tracks = tuple(msgspec.structs.replace(track, fp=bytes(16)) for track in record.tracks)
    match held:
        case "of other events":
            gone.append(KEY, encode(folded(ingest("SD", "HD"), assign(3))), HERE)
        case "with another key":
            gone.append(key, encode(msgspec.structs.replace(record, tracks=tracks)), HERE)
        case _:
            other = msgspec.structs.replace(record, asset="other")
            elsewhere = key.replace(b"bbb", b"other")
            gone.append(elsewhere, encode(other), topics.partition_of(topics.KEYS, elsewhere, PARTITIONS))
    gone.follow()
    (letter,) = gone.ask(repair(0, 1, 2))
    assert ("repair_contradicted", []) == (letter.reason, gone.sent())


def test_a_repair_that_names_a_refused_event_is_refused(gone: Rig) -> None:
    """Without the ingest event the rotation is none of a known asset."""
    (letter,) = gone.ask(repair(1))
    assert ("repair_contradicted", []) == (letter.reason, gone.sent())


def test_requests_of_a_foreign_partition_stop_the_worker(rig: Rig) -> None:
    """Another worker owns the keys: writing them here would make two owners."""
    rig.requester.owner.assigned([(ASSETS, (HERE + 1) % PARTITIONS), (REQUESTS, HERE)])
    with pytest.raises(Misconfigured, match="another worker's"):
        rig.ask(rewrap(1))
    rig.requester.owner.revoked()
    with pytest.raises(NotReady):
        rig.ask(rewrap(1))


def test_events_and_requests_are_written_one_after_the_other(rig: Rig) -> None:
    """The two agents share their turn: what the one has under way, the other waits for."""
    rig.provision(ingest("SD"))
    rig.kms.kek_epochs = (1, 2)
    held: list[bool] = []

    async def check() -> None:
        held.append(rig.provisioner.owner.lock.locked())

    rig.publisher.before_ack = check
    rig.log(rotate(2))

    async def both() -> None:
        run = Run(ASSETS, HERE, 1, 1, 1, 2, rig.events[1:], 1)
        request = asyncio.ensure_future(rig.requester.handle(requests(rewrap(2))))
        event = asyncio.ensure_future(rig.provisioner.handle(run))
        while not (request.done() and event.done()):
            await asyncio.sleep(0.01)
            rig.follow()
        await asyncio.gather(request, event)

    bounded(both())
    rig.follow()
    assert {2} == {each.kek_epoch for each in rig.key_records()}
    assert [True, True] == held
    asset = rig.reader.asset("demo", "bbb")
    assert asset is not None
    assert 2 == len(asset.versions)


def test_offsets_far_apart_are_read_apart() -> None:
    """What lies between two near offsets is read and dropped, between two far ones it is not read."""
    assert [[0, 5], [100, 101], [300]] == list(clusters([0, 5, 100, 101, 300], near=50))
    assert [] == list(clusters([], near=50))


def test_chosen_and_imported_keys_are_published_again_from_claims_and_events(tmp_path: Path, rig: Rig) -> None:
    """After the key topic is lost, byte for byte; without their claims nothing is written."""
    kid, other = b"k" * 16, b"l" * 16
    wishes = (TrackWish(label="SD", kid=kid), TrackWish(label="HD", kid=other, imported=imported(other, b"c" * 16)))
    rig.log(ingest(tracks=wishes), rotate(2))
    rig.follow_until(rig.provisioner.handle(Run(ASSETS, HERE, 1, 1, 0, 2, rig.events, 1)))
    for claims in (rig.sent(topics.CLAIMS.name), []):
        lost = Rig(tmp_path / f"lost-{len(claims)}")
        lost.events = rig.events
        bounded(lost.publisher.publish(claims))
        lost.follow()
        letters = lost.ask(repair(0, 1))
        lost.follow()
        assert bool(letters) == (not claims)
        assert lost.key_records() == (rig.key_records() if claims else [])
        lost.close()


def test_a_repair_against_another_record_of_the_same_event_writes_nothing(gone: Rig) -> None:
    """Neither the asset record nor the key records that are missing beside it."""
    gone.append(KEY, encode(folded(ingest("SD", "HD"), rotate(2), assign(5))), HERE)
    gone.follow()
    (letter,) = gone.ask(repair(0, 1, 2))
    assert ("repair_contradicted", []) == (letter.reason, gone.sent())
