"""
A folder of JSON-lines files as a source of asset events.

A line is the body of `POST …/assets` with a member `organization`. Files are read by name, each from where it was
left, and may grow. A line that is refused goes with its number and reason to `NAME.rejected.jsonl`, and the file goes
on. Exactly resumable: a line's event id is made of file, line number and content, and a batch holds at most as many
lines of one asset as its record remembers ids, so sending a batch again has no second effect.
"""

import codecs
import fcntl
import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from connectors.contract import Batch, Item, Name
from connectors.progress import Progress, head_of, is_same_file, load_progress, save_progress, take_over_progress
from keymill import telemetry
from keymill.core.bodies import ManifestLine, event_body_of, event_time_of, read_body, request_hash
from keymill.core.identity import canonical
from keymill.disk import waiting_for_room
from keymill.durable import own_file, own_folder
from keymill.errors import InvalidRecord, Misconfigured, Reject, Unavailable
from keymill.kafka.outgoing import Outgoing
from schemas import topics
from schemas.codec import encode
from schemas.events import AssetEvent
from schemas.ids import asset_key
from schemas.values import MAX_RECENT

SUFFIX: Final = ".jsonl"
REJECTED: Final = ".rejected.jsonl"
BATCH_LINES: Final = 500
MAX_LINE: Final = 1_000_000
"""Bytes, as at the gateway."""
SETTLED_S: Final = 10.0
"""A last line without line feed that is no whole JSON is given up when the file has not changed for so long."""

log = telemetry.logger("connectors.manifest")


class _Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a `.rejected.jsonl` file; the refused line's content is not repeated."""

    line: int
    code: str
    field: str
    message: str


class Manifest:
    """
    A `Source`. Raises `Misconfigured` when the folder is missing, or another connector reads it.

    Args:
        state: the connector's own folder, where it notes how far it has come; nobody else writes there.
    """

    def __init__(self, folder: Path, state: Path) -> None:
        if not folder.is_dir():
            raise Misconfigured(f"manifest_dir {folder} is no folder: create it, or name another")
        self._folder = folder
        self._state = own_folder(state)
        self._lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # the folder itself: no file to plant
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise Misconfigured(f"another connector reads {folder}: one is enough") from None
        take_over_progress(folder, state)
        self._progress = load_progress(state)
        self._refused: list[_Refusal] = []
        for path in folder.glob(f"*{REJECTED}"):
            self._cut_refusals(path)

    def read(self) -> Batch | None:
        """See `Source`; the lines of one file."""
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            if path.name.endswith(REJECTED) or not path.is_file():
                continue
            self._refused = []
            try:
                items, upto = self._read_file(path)
            except FileNotFoundError:
                continue  # it was moved away meanwhile
            if upto != self._progress.get(path.name, Progress()):
                return Batch(items=tuple(items), upto=(path, upto))
        return None

    def refuse(self, item: Item, error: Reject) -> None:
        """See `Source`."""
        assert isinstance(item.name, int), "a line's number"
        self._refused.append(_Refusal(line=item.name, code=error.code, field=error.field, message=str(error)))

    def release(self) -> None:
        """See `Source`; a file is read again from where it was left."""

    def acknowledge(self, batch: Batch, offsets: Mapping[Name, int]) -> None:
        """See `Source`. Raises `Unavailable` while the disk is full: the batch is read again."""
        path, upto = _place_of(batch)
        if self._refused:
            log.warning("lines refused", file=path.name, lines=[each.line for each in self._refused][:10])
        refusals = b"".join(
            msgspec.json.encode(each) + b"\n" for each in sorted(self._refused, key=lambda each: each.line)
        )
        try:
            with waiting_for_room(f"the progress of {path}"):
                size = _append(_rejected(path), refusals)
                progress = self._progress | {path.name: msgspec.structs.replace(upto, rejected=size)}
                save_progress(self._state, progress)
        except Unavailable:
            with suppress(OSError):
                self._cut_refusals(_rejected(path))
            raise
        self._progress = progress
        log.info("lines sent", file=path.name, events=len(batch.items), line=upto.line)

    def close(self) -> None:
        """See `Source`."""
        os.close(self._lock)

    def _read_file(self, path: Path) -> tuple[list[Item], Progress]:
        held = self._progress.get(path.name, Progress())
        with open(path, "rb") as file:
            state = path.stat()
            begin = held
            if not is_same_file(file, state.st_size, held):
                log.warning("file was replaced and is read from its begin", file=path.name)
                begin = Progress(rejected=held.rejected)
            if state.st_size == begin.offset:
                return [], held
            file.seek(begin.offset)
            settled = time.time() - state.st_mtime > SETTLED_S
            items, end, number = self._lines(path.name, _lines_of(file.readline, settled), begin)
            return items, (
                Progress(offset=end, line=number, head_sha256=head_of(file, end), rejected=begin.rejected)
                if end > begin.offset
                else held
            )

    def _lines(self, name: str, lines: Iterator[tuple[bytes, int]], begin: Progress) -> tuple[list[Item], int, int]:
        items: list[Item] = []
        end, number = begin.offset, begin.line
        assets: Counter[bytes] = Counter()
        for line, size in lines:
            end, number = end + size, number + 1
            if not line.strip():
                continue
            try:
                item = Item(number, record_of(name, number, line))
            except Reject as error:
                self._refused.append(_Refusal(line=number, code=error.code, field=error.field, message=str(error)))
                continue
            items.append(item)
            assets[item.record.record_key] += 1
            if len(items) == BATCH_LINES or assets[item.record.record_key] == MAX_RECENT:
                break
        return items, end, number

    def _cut_refusals(self, path: Path) -> None:
        """Forget refusals of a batch that was not acknowledged; it is read again."""
        name = path.name.removesuffix(REJECTED) + SUFFIX
        size = self._progress.get(name, Progress()).rejected
        with own_file(path, "r+b") as file:
            if os.fstat(file.fileno()).st_size > size:
                file.truncate(size)


def _append(path: Path, refusals: bytes) -> int:
    """Append to a file of refusals, durably; its size. One that would be empty is not kept."""
    with own_file(path, "ab") as file:
        if refusals:
            file.write(refusals)
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    if not size:
        path.unlink()
    return size


def record_of(name: str, number: int, line: bytes) -> Outgoing:
    """The asset event that a line says; raises `InvalidRecord` naming the field."""
    if number == 1:
        line = line.removeprefix(codecs.BOM_UTF8)  # as some editors and exports begin a file
    if len(line) > MAX_LINE:
        raise InvalidRecord(f"the line has more than {MAX_LINE} bytes", field="body", code="too_large")
    body = read_body(line.strip(), ManifestLine)
    digest = hashlib.sha256(canonical("keymill/manifest/v1", name, number, line.strip()))
    event = AssetEvent(
        organization=body.organization,
        asset=body.asset_id,
        event_id=f"m-{digest.hexdigest()[:40]}",
        request_hash=request_hash("manifest", body.organization, body.asset_id, body),
        event_time=event_time_of(body, time.time_ns() // 1_000_000),
        body=event_body_of(body, lambda: 1),
    )
    key = asset_key(event.organization, event.asset)
    return Outgoing(topic=topics.ASSETS.name, record_key=key, value=encode(event))


def _lines_of(readline: Callable[[int], bytes], settled: bool) -> Iterator[tuple[bytes, int]]:
    """Whole lines with their sizes. Of one that is too long only the begin is kept, which is refused."""
    while line := readline(MAX_LINE + 2):
        size, last = len(line), line
        while not last.endswith(b"\n") and size > MAX_LINE and (last := readline(MAX_LINE)):
            size += len(last)
        if last.endswith(b"\n") or settled or _is_json(line):
            yield line, size
        else:
            return


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _rejected(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(SUFFIX) + REJECTED)


def _place_of(batch: Batch) -> tuple[Path, Progress]:
    match batch.upto:
        case (Path() as path, Progress() as upto):
            return path, upto
    raise TypeError("a batch of another source")
