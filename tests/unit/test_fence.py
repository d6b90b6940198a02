"""The fence: which handlers may start, what is marked, what happens when they fail, hang or come too late."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from keymill.errors import NotReady
from streams.fence import Fence, HandlerEnded
from streams.runs import RawRecord, Run, TopicPartition

TP: TopicPartition = ("drm.assets.v1", 0)
Handler = Callable[[Run], Awaitable[None]]


def delivered(fence: Fence, *, generation: int = 1, position: int = 0, end: int = 3) -> Run:
    """Assign the partition and deliver one run."""
    stamp = fence.ledger.assign(TP, generation=generation, position=position)
    records = [RawRecord(*TP, offset, 0, 1, None, b"v", ()) for offset in range(position, end)]
    run = Run(*TP, stamp.generation, stamp.epoch, position, end, records, len(records))
    assert fence.ledger.deliver(run)
    return run


def committable(fence: Fence) -> list[int]:
    return [commit.end for commit in fence.committable()]


async def nothing(_run: Run) -> None:
    return None


def raising(error: BaseException) -> Handler:
    async def handler(_run: Run) -> None:
        raise error

    return handler


async def hanging(_run: Run) -> None:
    await asyncio.sleep(3600)


def test_a_run_is_done_when_its_handler_returns():
    """Only then may its end be committed."""
    fence = Fence()
    run = delivered(fence)
    assert committable(fence) == []
    asyncio.run(fence.process(run, nothing))
    assert committable(fence) == [3]


def test_an_error_halts_for_good():
    """The error is raised; nothing, not even what was done before, is committed or marked from then on."""
    halted = []
    fence = Fence()
    fence.bind_halt(lambda: halted.append(1))
    asyncio.run(fence.process(delivered(fence), nothing))
    with pytest.raises(RuntimeError):
        asyncio.run(fence.process(delivered(fence, position=3, end=5), raising(RuntimeError("no"))))
    assert (committable(fence), halted) == ([], [1])
    run = delivered(fence, position=3, end=5)
    assert [fence.is_current(run), fence.mark_done(run)] == [False, False]


def test_a_handler_that_cancels_itself_is_a_failure():
    """Nobody asked it to stop, so the worker must not go on as if nothing had happened."""
    fence = Fence()
    with pytest.raises(HandlerEnded):
        asyncio.run(fence.process(delivered(fence), raising(asyncio.CancelledError())))
    assert isinstance(fence.failure, HandlerEnded)


def test_a_foreign_run_is_not_handled():
    """A run that waited in the queue while its partition was revoked never reaches the handler."""
    fence = Fence()
    run = delivered(fence)
    delivered(fence, generation=2)
    asyncio.run(fence.process(run, raising(AssertionError("handled"))))
    assert committable(fence) == []


def test_no_run_is_started_while_draining():
    """Between revoke and assignment runs are left alone, un-acked."""
    fence = Fence()
    run = delivered(fence)
    fence.revoking(frozenset({TP}))
    asyncio.run(fence.process(run, raising(AssertionError("handled"))))
    assert committable(fence) == []


def test_a_handler_that_outlives_its_generation_is_not_marked():
    """It may finish, but its run belongs to another generation by then."""

    async def scenario() -> list[int]:
        fence = Fence()
        go = asyncio.Event()

        async def slow(_run: Run) -> None:
            await go.wait()

        task = asyncio.create_task(fence.process(delivered(fence), slow))
        await asyncio.sleep(0)
        delivered(fence, generation=2)
        go.set()
        await task
        return committable(fence)

    assert asyncio.run(scenario()) == []


def test_the_drain_lets_a_quick_handler_finish():
    """A run in flight gets the time left, and is committed."""

    async def scenario() -> list[int]:
        fence = Fence()

        async def quick(_run: Run) -> None:
            await asyncio.sleep(0.05)

        task = asyncio.create_task(fence.process(delivered(fence), quick))
        await asyncio.sleep(0)
        fence.revoking(frozenset({TP}))
        await fence.drain(5)
        await task
        return committable(fence)

    assert asyncio.run(scenario()) == [3]


def test_the_drain_abandons_a_hanging_handler():
    """After the time left it is cancelled, un-acked; that is no failure, the agent goes on."""

    async def scenario() -> tuple[list[int], BaseException | None]:
        fence = Fence()
        task = asyncio.create_task(fence.process(delivered(fence), hanging))
        await asyncio.sleep(0)
        fence.revoking(frozenset({TP}))
        await asyncio.wait_for(fence.drain(0.05), 2)
        await asyncio.wait_for(task, 2)
        return committable(fence), fence.failure

    assert asyncio.run(scenario()) == ([], None)


def test_a_handler_may_give_up_while_draining():
    """An error of fate retry after the revocation abandons the run; the same error at any other time is a failure."""

    async def scenario(revoked: bool) -> BaseException | None:
        fence = Fence()
        go = asyncio.Event()

        async def gives_up(_run: Run) -> None:
            await go.wait()
            raise NotReady("revoked while waiting for the view")

        task = asyncio.create_task(fence.process(delivered(fence), gives_up))
        await asyncio.sleep(0)
        if revoked:
            fence.revoking(frozenset({TP}))
        go.set()
        await asyncio.wait({task})
        return task.exception()

    assert asyncio.run(scenario(True)) is None
    assert isinstance(asyncio.run(scenario(False)), NotReady)


def test_callbacks_learn_of_assignment_and_revocation():
    """They are called with the partitions; an empty revocation, as before the first join, is not announced."""
    calls: list[tuple[str, frozenset[TopicPartition]]] = []
    fence = Fence(
        on_assigned=lambda tps: calls.append(("assigned", tps)), on_revoked=lambda tps: calls.append(("revoked", tps))
    )
    fence.revoking(frozenset())
    fence.assigned(frozenset({TP}))
    fence.revoking(frozenset({TP}))
    assert calls == [("assigned", frozenset({TP})), ("revoked", frozenset({TP}))]


def test_the_generation_is_known_while_the_partition_is_owned():
    """None before the assignment and after the revocation."""
    fence = Fence()
    assert fence.current_generation(TP) is None
    delivered(fence, generation=7)
    assert fence.current_generation(TP) == 7
    fence.ledger.revoke([TP])
    assert fence.current_generation(TP) is None
