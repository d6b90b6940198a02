"""A view whose follower is the test: it says, or does not say, that the view is live."""

import time
from pathlib import Path

from keymill.snapshot.reader import SnapshotReader
from keymill.snapshot.state import Heartbeat, HeartbeatFile, ViewState, boot_id
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

    def state(self) -> ViewState:
        """Count the looks at the view."""
        self.looks += 1
        return self.reader.state()

    def close(self) -> None:
        """Let go of everything."""
        self.reader.close()
        self.beats.close()
        self.writer.close()
