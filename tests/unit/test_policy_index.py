"""The index of an organization's policies: it finds what looking through all of them finds, at a fixed price."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.core.policy_changes import Policies, fold
from keymill.core.policy_records import all_policies, requested
from keymill.gateway import policy_lists
from keymill.gateway.policy_lists import PolicyLists
from keymill.snapshot import reads
from keymill.snapshot.reader import SnapshotReader
from keymill.snapshot.reads import Reads
from keymill.snapshot.writer import SnapshotWriter
from schemas.ids import scoped_key
from schemas.records import AcceptedRequest, PolicyRecord, PolicyState
from schemas.values import LogPosition
from streams.overlay import Overlay
from streams.policies import Known
from tests.builders import at, create_policy
from tests.fakes import TRUSTING
from tests.view_records import Log, policy_record

MAP = 64 << 20
MANY = 2_045
REQUESTS = st.none() | st.sampled_from([f"r-{number}" for number in range(6)]).map(
    lambda name: AcceptedRequest(request_id=name)
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["demo", "demo-2", "other"]),
        st.integers(0, 8),
        st.sampled_from(PolicyState),
        REQUESTS,
        REQUESTS,
        st.booleans(),
    ),
    max_size=30,
)


class View:
    """A writer, its log and a reader."""

    def __init__(self, folder: Path) -> None:
        self.log = Log()
        self.writer = SnapshotWriter(folder, TRUSTING, map_size=MAP).open()
        self.writer.bind(self.log.checkpoints())
        self.reader = SnapshotReader(folder).open()

    def put(self, *records: PolicyRecord) -> None:
        """One batch."""
        batch = [self.log.put((scoped_key(each.organization, str(each.policy_id)), each)) for each in records]
        self.writer.apply(batch, self.log.slots)

    def close(self) -> None:
        """Let go."""
        self.reader.close()
        self.writer.close()


@pytest.fixture
def view(tmp_path: Path) -> Iterator[View]:
    """An empty one."""
    made = View(tmp_path / "view")
    yield made
    made.close()


async def listed(lists: PolicyLists, organization: str, **how: int) -> list[PolicyRecord]:
    """All that a list gives."""
    return [record async for record in lists.each(organization, **how)]


@given(STEPS, st.integers(0, 9), st.integers(-1, 9))
def test_the_index_finds_what_looking_through_all_finds(steps: list, skip: int, after: int) -> None:
    """Whatever was written over what, in batches or one by one: by request id, by number, as a list, and the newest."""
    with TemporaryDirectory() as folder:
        view = View(Path(folder))
        try:
            waiting: list[PolicyRecord] = []
            newest: dict[tuple[str, int], PolicyRecord] = {}
            for number, (organization, policy_id, state, created, changed, flush) in enumerate(steps):
                others = [each for name, each in newest.items() if name[0] == organization and name[1] != policy_id]
                if any(requested(each, asked.request_id) for each in others for asked in (created, changed) if asked):
                    continue  # the fold takes a request id that is held for a repeat
                _, plain = policy_record(policy_id, number + 1, applied=number, organization=organization)
                made = msgspec.structs.replace(plain, state=state, created_by=created, changed_by=changed)
                newest[organization, policy_id] = made
                waiting.append(made)
                if flush:
                    view.put(*waiting)
                    waiting.clear()
            if waiting:
                view.put(*waiting)
            for organization in ("demo", "demo-2", "other", "nobody"):
                check(view.reader, organization, skip, after)
        finally:
            view.close()


def check(reader: SnapshotReader, organization: str, skip: int, after: int) -> None:
    """One organization's."""
    held = reader.policies(organization)
    for number in range(6):
        found = [record for record in held if requested(record, f"r-{number}")]
        assert found == [each for each in [reader.policy_of_request(organization, f"r-{number}")] if each]
    head = reader.policy_head(organization)
    assert (head is None) == (not held)
    if head is not None:
        deleted = [record for record in held if record.state is PolicyState.DELETED]
        assert (len(held), len(deleted)) == (head.stored, head.deleted)
        assert max(record.policy_id for record in held) == head.newest
        assert max(record.applied for record in held) == head.applied
    every, lists = all_policies(organization, held), PolicyLists(reader)
    ready = [record for record in every if record.state is PolicyState.READY]
    assert ready[skip:] == asyncio.run(listed(lists, organization, skip=skip))
    behind = [record for record in every if record.policy_id > after]
    assert behind == asyncio.run(listed(lists, organization, deleted=True, after=after))
    if not any(record.policy_id == 0 and record.state is PolicyState.DELETED for record in held):
        assert len(ready) == lists.count(organization)


def test_no_request_decodes_all_policies(view: View) -> None:
    """2,045 policies: a request id, known or not, a page and a run of changes decode what they need."""
    records = [policy_record(number, applied=number)[1] for number in range(1, MANY + 1)]
    named = AcceptedRequest(request_id="mine")
    records[MANY // 2] = msgspec.structs.replace(records[MANY // 2], created_by=named)
    view.put(*records)
    lists = PolicyLists(view.reader)

    assert 1 == decoded(lambda: view.reader.policy_of_request("demo", "mine"))
    assert 0 == decoded(lambda: view.reader.policy_of_request("demo", "unknown"))
    assert MANY + 1 == lists.count("demo")

    known = Known(view.reader, Overlay(), 4)

    def decide() -> None:
        made = fold(create_policy(request_id="new"), at=at(MANY + 1), held=known.folded("demo"))
        assert made and (made.policy_id, made.version) == (MANY + 1, 1)

    assert 0 == decoded(decide)


def decoded(act: object) -> int:
    """How many records a call takes from the view's memory of decoded ones, or decodes."""
    before = reads._decoded.cache_info()
    assert callable(act)
    act()
    after = reads._decoded.cache_info()
    return after.hits + after.misses - before.hits - before.misses


def test_a_long_list_lets_others_run(view: View) -> None:
    """Between its pages; and what single requests find decoded is not pushed out by it."""
    view.put(*(policy_record(number, applied=number)[1] for number in range(1, MANY + 1)))
    held = reads._decoded.cache_info().currsize

    async def beside() -> tuple[int, int]:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(count())
        found = await listed(PolicyLists(view.reader), "demo")
        other.cancel()
        return turns, len(found)

    turns, found = asyncio.run(beside())
    assert MANY + 1 == found
    assert turns >= MANY // policy_lists.PAGE
    assert held == reads._decoded.cache_info().currsize


def test_skipped_policies_are_passed_over_by_number(view: View) -> None:
    """The last page of a long list reads its own records alone."""
    view.put(*(policy_record(number, applied=number)[1] for number in range(1, MANY + 1)))
    read: list[int] = []

    class Noting(Reads):
        def policy_afresh(self, organization: str, policy_id: int) -> PolicyRecord | None:
            read.append(policy_id)
            return super().policy_afresh(organization, policy_id)

    class NotingReader(SnapshotReader):
        def at_once(self) -> Reads:
            found = super().at_once()
            return Noting(found._txn, found._handles)

    with NotingReader(view.reader.folder) as reader:
        page = asyncio.run(listed(PolicyLists(reader), "demo", skip=MANY - 9))
    assert list(range(MANY - 9, MANY + 1)) == [record.policy_id for record in page] == read


def test_what_is_written_over_the_view_counts_first() -> None:
    """A record that the view has an older copy of: its old request id is forgotten, its place is the newest."""

    class Stored:
        newest, applied = 3, LogPosition(generation=0, offset=5)
        old = msgspec.structs.replace(policy_record(3)[1], changed_by=AcceptedRequest(request_id="before"))

        def get(self, policy_id: int) -> PolicyRecord | None:
            return self.old if policy_id == 3 else None

        def by_request(self, request_id: str) -> PolicyRecord | None:
            return self.old if request_id == "before" else None

    new = msgspec.structs.replace(Stored.old, version=2, changed_by=AcceptedRequest(request_id="after"))
    new = msgspec.structs.replace(new, applied=LogPosition(generation=0, offset=9))
    held = Policies(stored=Stored())
    assert (held.by_request("before"), held.get(3)) == (Stored.old, Stored.old)
    held.take(new)
    assert (held.by_request("before"), held.by_request("after"), held.get(3)) == (None, new, new)
    assert (held.newest, held.applied) == (3, LogPosition(generation=0, offset=9))
