"""The processor's health port: answers from the first moment on, whatever the rest of the program is at."""

import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from starlette.applications import Starlette

from keymill.config import ProcessorSettings
from keymill.disk import DiskSpace
from keymill.http.health import Readiness, health_routes, joined
from keymill.http.server import ServingThread, dress

SILENT_S: Final = 30.0
"""An event loop that has not been heard of for this long hangs: the longest healthy run takes a tenth of it."""


class Health:
    """
    /healthz, /readyz and /metrics in a thread of their own.

    Not ready before the view has caught up and the group has given this worker its partitions, which may be none; not
    while the event loop hangs; and not once the program stops.
    """

    def __init__(self, settings: ProcessorSettings, bound: socket.socket) -> None:
        self.waits_for: str | None = "the program is starting"
        self._heard = 0.0
        self.trouble: Callable[[], str | None] = lambda: None
        """What hinders the agents while they go on trying."""
        self.view_trouble: str | None = None
        """Why the view is old, as whoever looks after it saw it last."""
        self._disk = DiskSpace(settings.data, settings.min_free_mib)
        self._readiness = Readiness(
            lambda: self.waits_for, self._hangs, self._hindered,
            degraded=lambda: joined(self.view_trouble, self._disk.degraded()),
        )  # fmt: skip
        web = Starlette(routes=health_routes(self._readiness))
        self._thread = ServingThread(dress(web, program="processor"), settings=settings, bound=bound)

    def reason(self) -> str | None:
        """What /readyz says; None when ready."""
        return self._readiness.reason()

    def beat(self) -> None:
        """The event loop goes on; call about once a second."""
        self._heard = time.monotonic()
        self._disk.degraded()

    def stopping(self) -> None:
        """Not ready any more, for good."""
        self._readiness.stopping = True

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.close()

    def _hindered(self) -> str | None:
        return self.trouble()

    def _hangs(self) -> str | None:
        silent_s = time.monotonic() - self._heard if self._heard else 0.0
        return f"the event loop has not been heard of for {silent_s:.0f} s" if silent_s > SILENT_S else None
