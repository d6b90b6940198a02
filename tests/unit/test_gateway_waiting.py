"""What counts as settled, and how waits end."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.core.idempotency import accepted_before
from keymill.errors import NotReady
from keymill.gateway.answers import dashed, rfc3339
from keymill.gateway.waiting import Published, Settled, Waiter, settled
from schemas.records import AcceptedEvent, AssetRecord, AssetState
from schemas.values import MAX_RECENT, LogPosition


def at(offset: int) -> LogPosition:
    """A place in generation 0."""
    return LogPosition(generation=0, offset=offset)


def published(offset: int, event_id: str | None) -> Published:
    """An event of the asset."""
    return Published(organization="acme", asset="a", event_id=event_id, partition=0, position=at(offset))


def record(applied: int, *recent: tuple[str, int]) -> AssetRecord:
    """An asset record that remembers these events."""
    return AssetRecord(
        organization="acme",
        asset="a",
        state=AssetState.ACTIVE,
        applied=at(applied),
        policy_id=0,
        versions=(),
        recent=tuple(
            AcceptedEvent(event_id=name, request_hash=bytes(32), at=at(offset), timestamp=0) for name, offset in recent
        ),
    )


def test_event_is_settled_when_the_record_remembers_it() -> None:
    """Below `applied` nothing is; with the id there, the first place of the id is told."""
    assert settled(published(5, "e"), None) is None
    assert settled(published(5, "e"), record(4, ("e", 3))) is None
    held = record(5, ("e", 3))
    assert settled(published(5, "e"), held) == Settled(asset=held, at=at(3))


def test_applied_past_a_refused_event_does_not_settle_it() -> None:
    """A later event is applied, this one's id is missing: it went to the dead letters, whose tail may be behind."""
    assert settled(published(5, "refused"), record(9, ("later", 9))) is None


def test_forgotten_event_is_settled() -> None:
    """When 32 later ids have pushed it out, `applied` has to do."""
    held = record(99, *((f"e{offset}", offset) for offset in range(50, 50 + MAX_RECENT)))
    assert settled(published(49, "old"), held) is not None
    assert settled(published(60, "refused"), held) is None


def test_event_without_id_is_settled_by_its_place() -> None:
    """A packager's event has no id."""
    assert settled(published(5, None), record(5)) is not None
    assert settled(published(6, None), record(5)) is None


def test_idempotency_id_is_found() -> None:
    """By id, or not at all."""
    before = accepted_before(record(5, ("e", 3)), "e")
    assert before is not None and before.at == at(3)
    assert accepted_before(record(5), "e") is None and accepted_before(None, "e") is None


class Counting:
    """A view that changes when told to: the one method that waits look at."""

    def __init__(self) -> None:
        self.txn = 0

    def txn_id(self) -> int:
        """As `SnapshotReader.txn_id`."""
        return self.txn


def test_wait_ends_with_the_change_the_deadline_or_the_stop() -> None:
    """Woken within milliseconds of a change; None at the deadline; None at once when the program stops."""

    async def run() -> None:
        view = Counting()
        waiter = Waiter(view)  # type: ignore[arg-type]
        waiter.start()

        async def change() -> None:
            await asyncio.sleep(0.05)
            view.txn = 1

        task = asyncio.create_task(change())
        began = time.monotonic()
        assert await waiter.until(lambda: "there" if view.txn else None, began + 5) == "there"
        assert 0.04 < time.monotonic() - began < 0.2
        never: list[str] = []
        assert await waiter.until(lambda: never or None, time.monotonic() + 0.1) is None
        await task
        pending = [asyncio.create_task(waiter.until(lambda: never or None, time.monotonic() + 60)) for _ in range(100)]
        await asyncio.sleep(0.01)
        waiter.stop()
        assert await asyncio.wait_for(asyncio.gather(*pending), 1) == [None] * 100

    asyncio.run(run())


@given(st.integers(min_value=0, max_value=253_402_300_799_999))
def test_times_are_rfc3339(time_ms: int) -> None:
    """UTC with Z, and the same moment."""
    from datetime import UTC, datetime, timedelta

    text = rfc3339(time_ms)
    assert text is not None and text.endswith("Z")
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    assert (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1) == time_ms


def test_kid_is_dashed() -> None:
    """Lower-case, with dashes, big-endian."""
    assert dashed(bytes(range(16))) == "00010203-0405-0607-0809-0a0b0c0d0e0f"


class Changing:
    """A view that changes all the time."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def txn_id(self) -> int:
        return int((time.monotonic() - self.began) * 1000)


def test_waits_are_bounded_and_cost_the_others_little() -> None:
    """Above the most, nothing new begins to wait; and however often the view changes, those who wait look rarely."""

    async def crowd() -> tuple[int, float]:
        waiter, looks = Waiter(Changing(), most=400), 0  # type: ignore[arg-type]
        waiter.start()

        def look() -> None:
            nonlocal looks
            looks += 1

        waits = [asyncio.create_task(waiter.until(look, time.monotonic() + 1.0)) for _ in range(400)]
        await asyncio.sleep(0.1)
        with pytest.raises(NotReady) as refused:
            waiter.require_room()
        assert refused.value.retry_after_s > 0
        waiter.stop()
        await asyncio.gather(*waits)
        waiter.require_room()
        return looks, time.monotonic()

    looks, _ = asyncio.run(crowd())
    assert looks < 400 * 20  # a look at every change would be tens of thousands
