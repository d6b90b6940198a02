"""What a view lacks does not exist only if its follower has said so since somebody asked."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keymill.snapshot.confirmation import CONFIRM_S, Confirmation
from keymill.snapshot.reader import SnapshotReader
from keymill.snapshot.state import Heartbeat, HeartbeatFile, boot_id
from keymill.snapshot.writer import SnapshotWriter
from tests.fakes import TRUSTING
from tests.view_records import Log


class Followed:
    """A view, whose follower's heartbeat the test writes."""

    def __init__(self, folder: Path) -> None:
        self.writer = SnapshotWriter(folder / "view", TRUSTING, map_size=1 << 24).open()
        self.writer.bind(Log().checkpoints())
        self.beats = HeartbeatFile(self.writer.folder, write=True)
        self.reader = SnapshotReader(self.writer.folder)
        self.looks = 0

    def beat(self, *, live: bool = True) -> None:
        """Say that the view is live, or that it is not."""
        now = time.monotonic()
        number = self.writer.manifest.environment
        self.beats.write(
            Heartbeat(environment=number, boot=boot_id(), ready=True, live=live, contact_boot_s=now, contact_s=1.0)
        )

    def state(self):
        """Count the looks at the view."""
        self.looks += 1
        return self.reader.state()


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[Followed]:
    made = Followed(tmp_path)
    made.beat()
    made.reader.open(wait_s=0)
    yield made
    made.reader.close()
    made.beats.close()
    made.writer.close()


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
