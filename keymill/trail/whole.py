"""The whole trail of a program that is one process: what records, and what sends."""

from pathlib import Path
from types import TracebackType

from keymill.trail import spool_folder
from keymill.trail.recorder import Recorder, instance_name
from keymill.trail.sender import sender_of
from keymill.trail.spool import Spool


class Trail:
    """A `Recorder` for the block; what it has taken is on its way, or in the spool, at the end."""

    def __init__(self, data: Path, program: str, bootstrap: str, *, limit: int) -> None:
        folder = spool_folder(data, program)
        self._recorder = Recorder(Spool(folder, instance_name(), limit=limit))
        self._sender = sender_of(folder, bootstrap)

    def __enter__(self) -> Recorder:
        self._recorder.start()
        self._sender.start()
        return self._recorder

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._recorder.close()
        self._sender.close()
