"""Whatever is lost of an organization's policies, a repair gives back just that, and refuses where anything differs."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from keymill.kms.keyring import Keyring
from schemas import topics
from schemas.codec import encode
from schemas.events import PolicyChange
from schemas.operations import RepairRequest
from schemas.partition import partition_for
from schemas.records import PolicyRecord
from streams import policies, policy_repairs
from streams.runs import RawRecord, Run
from tests.builders import NOW, create_policy, delete_policy, update_policy
from tests.fakes import MemoryKms

PARTITIONS = 4
CHANGES = topics.POLICY_CHANGES.name
HERE = partition_for(b"demo", PARTITIONS)
KEEPER = policies.Decider(Keyring(MemoryKms()), partitions=PARTITIONS, generation=0)
REPAIRS = policy_repairs.Decider(KEEPER, generation=0, change_generation=0)
IDS = st.integers(0, 4)
LOGS = st.lists(
    st.one_of(
        st.just(create_policy()), IDS.map(update_policy), st.integers(1, 4).map(delete_policy), st.just(b"no change")
    ),
    min_size=1,
    max_size=12,
)


class Held:
    """A `streams.policies.Lookup` over records."""

    def __init__(self, records: dict[bytes, PolicyRecord]) -> None:
        self.records = records

    def policies(self, _organization: str) -> list[PolicyRecord]:
        return list(self.records.values())


def run_of(log: list[PolicyChange | bytes]) -> Run:
    """The log as the keeper reads it."""
    values = [value if isinstance(value, bytes) else encode(value) for value in log]
    records = [RawRecord(CHANGES, HERE, offset, NOW, 1, b"demo", value, ()) for offset, value in enumerate(values)]
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
    given = REPAIRS.over({each.offset: each for each in run.records})
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
