"""
The life of a worker: started, told to stop, crashed, and in every case ended in bounded time.

Knows Faust's worker from the inside, like `streams.app`; `tests/unit/test_faust_pins.py` pins what it relies on.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from faust.worker import Worker

from keymill.telemetry import logger
from streams.app import App
from streams.fence import HandlerEnded

START_GRACE_S = 10.0
"""What a start that is asked to stop may take to become whole; nothing was handled before that, so nothing is lost."""

EXIT_DEADLINE_S = 20.0
"""From the first signal, or a failure, to the end of the process, whatever still hangs."""

log = logger("streams.worker")


class _Worker(Worker):
    """Faust's worker with our signals, without its console decoration and its logging setup."""

    def __init__(self, app: App, stop_asked: Callable[[], bool], on_stop: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(app, quiet=True, override_logging=False, **kwargs)
        self.spinner = None
        self._stop_asked = stop_asked
        self._on_stop = on_stop
        self._app = app
        self._fence = app.fence
        self._watchdog: threading.Timer | None = None

    def _install_signal_handlers_unix(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.loop.add_signal_handler(number, self._on_signal, number)

        if self._stop_asked():
            self._on_signal(signal.SIGTERM)

    def _on_signal(self, number: int) -> None:
        if self._signal_stop_time:
            log.warning("second_signal", message="exit at once; runs in flight are abandoned un-acked")
            os._exit(128 + number)
        self._on_stop()
        self.arm_watchdog()
        self._flag_as_shutdown_by_signal()
        self._schedule_shutdown(signal.Signals(number))

    async def _stop_on_signal(self, number: signal.Signals) -> None:
        if not await self._is_whole():
            log.warning("stopped_while_starting", message="the brokers do not answer; nothing was handled")
            os._exit(0)
        await super()._stop_on_signal(number)

    async def _is_whole(self) -> bool:
        """Wait until the start is whole, or has failed and ends by itself; False when neither comes in time."""
        whole: asyncio.Future[Any] = asyncio.ensure_future(self._app.whole.wait())
        start = self._starting_fut
        assert start is not None
        await asyncio.wait({whole, start}, timeout=START_GRACE_S, return_when=asyncio.FIRST_COMPLETED)
        decided = whole.done() or start.done()
        whole.cancel()
        return decided

    def on_worker_shutdown(self) -> None:
        """Faust is about to stop its services, after a signal or a crash."""
        self.arm_watchdog()

    def on_halt(self) -> None:
        """The fence has closed: the worker ends too, whatever Faust makes of the error."""
        self.arm_watchdog()
        self.add_future(self.crash(self._fence.failure or HandlerEnded("the fence has closed")))

    def arm_watchdog(self) -> None:
        """From now on the process ends within `EXIT_DEADLINE_S`, whatever hangs."""
        if self._watchdog is None:
            self._watchdog = threading.Timer(EXIT_DEADLINE_S, os._exit, [1])
            self._watchdog.daemon = True
            self._watchdog.start()

    def disarm_watchdog(self) -> None:
        """Faust is done; while a thread still hangs the interpreter would wait for ever, so then it stays armed."""
        hanging = [t for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]
        if self._watchdog is not None and not hanging:
            self._watchdog.cancel()


def run_worker(
    app: App, *, stop_asked: Callable[[], bool] = lambda: False, on_stop: Callable[[], None] = lambda: None
) -> int:
    """
    Run the app until SIGTERM or SIGINT, or until something fails; returns the exit code.

    0 after a signal, 1 after any failure. A second signal, or a shutdown longer than `EXIT_DEADLINE_S`, ends the
    process at once.

    Args:
        stop_asked: true if a signal came before; asked first, and again when the worker's own handlers are in place.
        on_stop: called in the event loop at the first signal.
    """
    if stop_asked():
        return 0
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    worker = _Worker(app, stop_asked, on_stop, loop=loop)
    app.fence.bind_halt(worker.on_halt)
    code = 1
    try:
        worker.execute_from_commandline()
    except SystemExit as exit_:
        code = 0 if exit_.code in (0, None) else 1
    except BaseException as error:  # noqa: BLE001 the top of the program
        log.error("worker_crashed", error=repr(error))
    worker.disarm_watchdog()
    return 1 if app.fence.failure is not None else code
