"""What a view lacks does not exist only if its follower has said so since somebody asked."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keymill.snapshot.confirmation import CONFIRM_S, Confirmation
from tests.followed_view import Followed


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[Followed]:
    made = Followed(tmp_path)
    made.beat()
    made.reader.open(wait_s=0)
    yield made
    made.close()


def test_a_follower_that_died_a_moment_ago_confirms_nothing(followed: Followed) -> None:
    """Its last heartbeat is fresh, and older than the question."""
    assert followed.reader.state().live
    began = time.monotonic()
    assert not asyncio.run(Confirmation(followed.reader).since(began))
    assert CONFIRM_S <= time.monotonic() - began < 4 * CONFIRM_S


def test_a_view_that_is_not_live_is_not_waited_for(followed: Followed) -> None:
    """Brokers that are away: nobody will say more within half a second."""
    followed.beat(live=False)
    began = time.monotonic()
    assert not asyncio.run(Confirmation(followed.reader).since(began))
    assert time.monotonic() - began < CONFIRM_S


def test_the_next_heartbeat_confirms_for_all_who_wait(followed: Followed) -> None:
    """A thousand wait for one: it is looked for once, not by each of them."""

    async def ask() -> list[bool]:
        confirmation = Confirmation(followed)  # type: ignore[arg-type]
        asked = [asyncio.create_task(confirmation.since(time.monotonic())) for _ in range(1000)]
        await asyncio.sleep(0.2)
        followed.beat()
        return await asyncio.gather(*asked)

    assert [True] * 1000 == asyncio.run(ask())
    assert followed.looks < 5 * 1000
