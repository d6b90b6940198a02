"""One writer's part of a spool: lines appended to segments, within the bytes that the whole folder may take."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from keymill.durable import own_folder
from keymill.trail import segments

SEGMENT_BYTES: Final = 1 << 20
SEGMENT_S: Final = 1.0
"""A segment is complete after this; while complete ones wait, the brokers are away, and it grows to its full size."""


class Spool:
    """
    Appends; one per process, used by one thread.

    What `append` has counted as taken is on disk and survives the process, the machine too. Writers share the bound:
    each looks at the folder before it writes, so that together they pass it by one batch each at most.
    """

    def __init__(self, folder: Path, instance: str, *, limit: int) -> None:
        self.folder = folder
        self.instance = instance
        self._limit = limit
        self._descriptor = -1
        self._path = folder
        self._number = 0
        self._size = 0
        self._begun = 0.0

    def append(self, lines: Sequence[bytes]) -> int:
        """
        Take *lines*, each without its end, in their order; returns how many.

        Fewer than all when the bound is reached; `OSError` when the disk refuses, and then none.
        """
        self._turn()
        own_folder(self.folder)
        room = self._limit - segments.usage(self.folder).size
        if self._descriptor < 0 and room < segments.BLOCK:
            return 0
        taken = 0
        for line in lines:
            room -= len(line) + 1
            if room < 0:
                break
            taken += 1
        if taken:
            self._write(b"".join([line + b"\n" for line in lines[:taken]]))
        return taken

    def turn(self) -> None:
        """Complete the segment when it is old enough; call it now and then also when there is nothing to append."""
        if self._descriptor >= 0:
            self._turn()

    def close(self) -> None:
        """Complete the segment at hand."""
        if self._descriptor < 0:
            return
        try:
            with suppress(FileNotFoundError):  # somebody emptied the folder
                segments.seal(self._path)
        finally:
            os.close(self._descriptor)
            self._descriptor = -1

    def _turn(self) -> None:
        if self._descriptor < 0:
            return
        old = time.monotonic() - self._begun >= SEGMENT_S and not segments.usage(self.folder).waiting
        if old or self._size >= SEGMENT_BYTES:
            self.close()

    def _write(self, data: bytes) -> None:
        if self._descriptor < 0:
            self._number += 1
            self._descriptor, self._path = segments.create(self.folder, self.instance, self._number)
            self._size, self._begun = 0, time.monotonic()
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            os.fdatasync(self._descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            self.close()  # a line that stays torn all the same is the segment's last
            raise
        self._size += len(data)
