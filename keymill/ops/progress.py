"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere; both on stderr."""

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S: Final = 10.0


class Advance:
    """
    A context manager over one piece of long work.

    Args:
        what: what is done, as "replaying assets".
        total: steps in all; None while unknown.
    """

    def __init__(self, what: str, total: int | None, *, console: Console | None = None) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._console = console or Console(stderr=True)
        self._began = self._said = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(
            *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self._console, transient=True,
            disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task(what, total=total)

    def step(self, count: int = 1) -> None:
        """*count* more steps are done."""
        self._done += count
        if self._console.is_terminal:
            self._bar.advance(self._task, count)
        elif time.monotonic() - self._said >= LINE_EVERY_S:
            self._said = time.monotonic()
            self._console.print(self._line(), soft_wrap=True, markup=False, highlight=False)

    def _line(self) -> str:
        whole = f" of {self._total}" if self._total is not None else ""
        return f"{self._what}: {self._done}{whole}, {time.monotonic() - self._began:.0f} s"

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
