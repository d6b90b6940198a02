"""Whatever is lost of policies and assets, a repair gives back just that, and refuses where anything differs."""

from collections.abc import Iterable

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from keymill.core.policy_changes import Policies
from keymill.core.view import KidOwner
from keymill.kms.keyring import Keyring
from schemas import framing, topics
from schemas.codec import decode, encode
from schemas.events import PolicyChange
from schemas.ids import asset_key, is_key_set
from schemas.operations import RepairRequest
from schemas.partition import partition_for
from schemas.records import AssetRecord, KeyRecord, PolicyRecord
from streams import decide, decide_requests, policies, policy_repairs
from streams.runs import RawRecord, Run
from tests.authentic import authentic
from tests.builders import NOW, assign, create_policy, delete_policy, ingest, rotate, update_policy
from tests.fakes import MemoryKms

PARTITIONS = 4
CHANGES = topics.POLICY_CHANGES.name
HERE = partition_for(b"demo", PARTITIONS)
KEYRING = Keyring(MemoryKms())
KEEPER = policies.Decider(KEYRING, partitions=PARTITIONS, generation=0)
REPAIRS = policy_repairs.Decider(KEEPER, generation=0, change_generation=0)
IDS = st.integers(0, 4)
ASSETS, FILM = topics.ASSETS.name, asset_key("demo", "bbb")
PROVISIONER = decide.Decider(KEYRING, framing.decode_event, partitions=PARTITIONS, generation=0)
OWNER = decide_requests.Decider(KEYRING, PROVISIONER, partitions=PARTITIONS, generation=0, asset_generation=0)
EVENTS = (ingest("SD"), ingest("HD"), rotate(2), rotate(3), assign(4), assign(5), b"no event")
LOGS = st.lists(
    st.one_of(
        st.just(create_policy()), IDS.map(update_policy), st.integers(1, 4).map(delete_policy), st.just(b"no change")
    ),
    min_size=1,
    max_size=12,
)


class Held:
    """A `Lookup` of both policy agents over records."""

    def __init__(self, records: dict[bytes, PolicyRecord]) -> None:
        self.records = records

    def folded(self, _organization: str) -> Policies:
        return Policies(self.records.values())

    def policies(self, _organization: str) -> list[PolicyRecord]:
        return list(self.records.values())


class View:
    """A `streams.decide_requests.Lookup` over the records of one asset."""

    def __init__(self, values: dict[bytes, bytes]) -> None:
        self.values = values

    def asset(self, organization: str, asset: str) -> AssetRecord | None:
        value = self.values.get(asset_key(organization, asset))
        return None if value is None else decode(value, AssetRecord)

    def has(self, record_key: bytes) -> bool:
        return record_key in self.values

    def key_records(self, _organization: str, _asset: str) -> dict[bytes, KeyRecord]:
        return {key: decode(value, KeyRecord) for key, value in self.values.items() if is_key_set(key)}

    def owners(self, _organization: str, _kids: Iterable[bytes]) -> dict[bytes, KidOwner]:
        return {}

    def claim(self, _organization: str, _kid: bytes) -> None:
        return None

    def owner(self, _organization: str, _kid: bytes) -> None:
        return None


def run_of(log: list[PolicyChange | bytes]) -> Run:
    """The log as the keeper reads it."""
    values = [value if isinstance(value, bytes) else encode(value) for value in log]
    records = [
        authentic(RawRecord(CHANGES, HERE, offset, NOW, 1, b"demo", value, ())) for offset, value in enumerate(values)
    ]
    return Run(CHANGES, HERE, 1, 1, 0, len(records), records, 1)


def decided(run: Run) -> policies.Decided:
    """What the keeper made of it."""
    made = KEEPER.begin(run)
    for record in run.records:
        KEEPER.record(record, made, Held({}))
    return made


def repaired(run: Run, accepted: list[int], refused: list[int], held: Held) -> policy_repairs.Decided:
    """What a repair that names these gives."""
    request = RepairRequest(
        topic=CHANGES, partition=HERE, generation=0, offsets=tuple(accepted), refused=tuple(refused),
        request_id="r-1", requested=NOW,
    )  # fmt: skip
    record = RawRecord(topics.REQUESTS.name, HERE, 0, NOW, 1, f"{CHANGES}/{HERE}".encode(), encode(request), ())
    record = authentic(record)
    given = REPAIRS.begin(run)
    given.named = {each.offset: each for each in run.records}
    REPAIRS.record(record, given, held)
    return given


@given(LOGS, st.data())
def test_what_is_lost_comes_back(log: list, data: st.DataObject) -> None:
    """
    Records that are gone, or stand as they did earlier, and dead letters that are gone: the same bytes, in the order of
    their changes, and nothing that is there. One that differs keeps everything from being written.
    """
    run = run_of(log)
    made = decided(run)
    states: dict[bytes, list[PolicyRecord]] = {}
    for due in made.records:
        if due.record is not None:
            states.setdefault(due.record_key, []).append(due.record)
    letters = {letter.offset: letter for letter in made.dead_letters}
    gone = data.draw(st.sets(st.sampled_from(sorted(letters)))) if letters else set()
    held: dict[bytes, PolicyRecord] = {}
    for key, passed in states.items():
        found = data.draw(st.none() | st.sampled_from(passed))
        held |= {} if found is None else {key: found}
    accepted = [each.offset for each in run.records if each.offset not in letters]
    if not accepted and not gone:
        return
    given_back = repaired(run, accepted, sorted(gone), Held(held))
    assert [] == given_back.dead_letters
    newest = {key: passed[-1] for key, passed in states.items()}
    assert {key: newest[key] for key in newest if held.get(key) != newest[key]} == {
        key: due.record for key, due in given_back.records.items()
    }
    batches = [batch[0] for batch in given_back.batches()]
    assert batches == sorted(batches, key=lambda due: due.record.applied if due.record else None)
    assert {offset: letters[offset] for offset in gone} == given_back.restored
    if held:
        key = data.draw(st.sampled_from(sorted(held)))
        differs = held | {key: msgspec.structs.replace(held[key], name="another")}
        refused = repaired(run, accepted, sorted(gone), Held(differs))
        assert (1, {}, {}) == (len(refused.dead_letters), refused.records, refused.restored)


@given(st.lists(st.sampled_from(EVENTS), min_size=1, max_size=8), st.data())
def test_what_an_asset_lost_comes_back(log: list, data: st.DataObject) -> None:
    """Its record, or later states of it, key records, dead letters: the same bytes, and nothing that is there."""
    place = topics.partition_of(topics.ASSETS, FILM, PARTITIONS)
    values = [value if isinstance(value, bytes) else encode(value) for value in log]
    events = [RawRecord(ASSETS, place, offset, NOW, 1, FILM, value, ()) for offset, value in enumerate(values)]
    made, passed = PROVISIONER.begin(Run(ASSETS, place, 1, 1, 0, len(events), events, 1)), list[bytes]()
    for event in events:
        PROVISIONER.record(event, made, View({}))
        passed += [encode(asset) for asset in made.assets.values()]
    newest = made.key_records | {key: encode(asset) for key, asset in made.assets.items()}
    letters = {letter.offset: letter for letter in made.dead_letters}
    gone = data.draw(st.sets(st.sampled_from(sorted(letters)))) if letters else set()
    held = {key: value for key, value in made.key_records.items() if data.draw(st.booleans())}
    if passed and (found := data.draw(st.none() | st.sampled_from(passed))):
        held[FILM] = found
    accepted = [each.offset for each in events if each.offset not in letters]
    if not accepted and not gone:
        return
    request = RepairRequest(
        topic=ASSETS, partition=place, generation=0, offsets=tuple(accepted), refused=tuple(sorted(gone)),
        request_id="r-1", requested=NOW,
    )  # fmt: skip
    asked = RawRecord(topics.REQUESTS.name, place, 0, NOW, 1, f"{ASSETS}/{place}".encode(), encode(request), ())
    asked = authentic(asked)
    given_back = OWNER.begin(Run(topics.REQUESTS.name, place, 1, 1, 0, 1, [asked], 1))
    given_back.named = {each.offset: each for each in events}
    OWNER.record(asked, given_back, View(held))
    assert [] == given_back.dead_letters
    written = {due.record_key: due.value for batch in given_back.batches() for due in batch}
    assert {key: value for key, value in newest.items() if held.get(key) != value} == written
    assert {offset: letters[offset] for offset in gone} == given_back.restored
