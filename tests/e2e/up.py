"""`keymill up` as the e2e tests use it: a process of its own in a folder of its own, its stderr kept in a file."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from keymill.ops.demo.stack import Stack, running


@contextlib.contextmanager
def keymill_up(
    data: Path | None = None, *, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[Stack]:
    """
    Start `keymill up`, give its parsed line, and stop it by SIGTERM.

    Args:
        data: kept when given, so that a test can start a second time on it; otherwise a folder that is thrown away.
            The log lies beside it, and a second start appends to it.
    """
    with contextlib.ExitStack() as cleanup:
        folder = data or Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="keymill-e2e-")), "data")
        log = folder.with_name(f"{folder.name}.up.log")
        yield cleanup.enter_context(running(folder, log=log, arguments=arguments, environment=environment))
