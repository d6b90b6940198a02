"""
The file that `keymill backup` writes (docs/backup.md): a header that anybody may read, and a content that is sealed.

    magic and format | length, header (JSON) | length, envelopes (MessagePack) | chunks

Lengths are 4 bytes, big-endian. The envelopes are bound to everything before them, the chunks to everything before
those, so a byte changed anywhere is refused.
"""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from keymill.durable import sync_folder
from keymill.errors import Corrupt, InvalidRecord, Misconfigured
from keymill.ops import sealing
from keymill.ops.recipients import Identity
from schemas.records import TopicAdopted

MAGIC: Final = b"keymill backup "
FORMAT: Final = 1
MAX_PART: Final = 1 << 24
"""Bytes of header and of envelopes; a thousand organizations take 150 KiB."""


class OrganizationKeys(msgspec.Struct, frozen=True, kw_only=True):
    """What is saved of an organization's keys, by number."""

    organization: str
    root_versions: tuple[int, ...]
    kek_epochs: tuple[int, ...]


class SavedTopic(msgspec.Struct, frozen=True, kw_only=True):
    """A topic as it was; `records` counts what is saved of it, `ends` what was read up to, by partition."""

    topic: str
    topic_id: str
    generation: int
    partitions: int
    ends: tuple[int, ...] = ()
    records: int = 0


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a backup; `created` is epoch ms, and nothing here is secret."""

    created: int
    keymill: str
    recipients: tuple[str, ...]
    quorum: int
    intake_epochs: tuple[int, ...]
    organizations: tuple[OrganizationKeys, ...]
    topics: tuple[SavedTopic, ...]


class SavedRecord(msgspec.Struct, frozen=True, array_like=True):
    """The newest record of a record key with its coordinates; a value of None is a tombstone."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    record_key: bytes
    value: bytes | None


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """The sealed content: the key file as it stands on the disk, the topics' adoptions, the records."""

    key_file: bytes
    adoptions: tuple[TopicAdopted, ...]
    records: tuple[SavedRecord, ...]

    def __repr__(self) -> str:
        return f"Saved({len(self.records)} records)"


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """A backup file as it was read, its content still sealed."""

    header: Header
    envelopes: tuple[sealing.Envelope, ...]
    content: bytes
    envelope_context: bytes
    content_context: bytes
    sha256: str


def write_backup(path: Path, header: Header, saved: Saved) -> str:
    """
    Seal and write, mode 0600, whole or not at all; returns the file's SHA-256 in hex.

    Raises:
        Misconfigured: the file exists; a backup is never overwritten.
    """
    pieces = _pieces(header, saved)
    digest, fresh = hashlib.sha256(), path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
            file.flush()
            os.fsync(file.fileno())
        os.link(fresh, path)  # unlike a rename, it never replaces what has appeared there meanwhile
    except FileExistsError:
        raise taken(path) from None
    finally:
        with suppress(FileNotFoundError):
            fresh.unlink()
    sync_folder(path.absolute().parent)
    return digest.hexdigest()


def read_backup(path: Path, sha256: str | None = None) -> Sealed:
    """
    Read a file and its header.

    Args:
        sha256: hex; what the file must have, as it was noted when it was made.

    Raises:
        Corrupt: it is damaged, cut short, no backup at all, or has another hash.
        Misconfigured: a newer keymill wrote it.
    """
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256.strip().lower():
        raise Corrupt(f"{path} has SHA-256 {found}, not the one given: it is another file, or damaged")
    first, _, rest = data.partition(b"\n")
    number = first.removeprefix(MAGIC)
    if not first.startswith(MAGIC) or not number.isdigit():
        raise Corrupt(f"{path} is no backup of keymill, or its beginning is damaged")
    if number != b"%d" % FORMAT:
        raise Misconfigured(f"{path} has format {number.decode()}, this program reads {FORMAT}")
    try:
        header, rest = _part(rest)
        prelude = len(data) - len(rest)
        envelopes, content = _part(rest)
        return Sealed(
            header=msgspec.json.decode(header, type=Header),
            envelopes=msgspec.msgpack.decode(envelopes, type=tuple[sealing.Envelope, ...]),
            content=content,
            envelope_context=hashlib.sha256(data[:prelude]).digest(),
            content_context=hashlib.sha256(data[: len(data) - len(content)]).digest(),
            sha256=found,
        )
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
        raise Corrupt(f"the header of {path} is damaged or cut short: take another copy") from None


def open_backup(sealed: Sealed, identities: Sequence[Identity]) -> Saved:
    """
    The content.

    Raises:
        Misconfigured: the identities are not those it takes.
        Corrupt: anything in the file was changed.
    """
    header = sealed.header
    try:
        sealing.check_group(header.recipients, header.quorum)
    except InvalidRecord:
        raise Corrupt("the backup's header is damaged: take another copy") from None
    file_key = sealing.open_envelopes(
        sealed.envelopes, header.recipients, header.quorum, identities, sealed.envelope_context
    )
    content = sealing.unseal(file_key, sealed.content, sealed.content_context)
    try:
        return msgspec.msgpack.decode(content, type=Saved)
    except msgspec.DecodeError:
        raise Corrupt("the backup's content is of no form that this program knows") from None


def _pieces(header: Header, saved: Saved) -> list[bytes]:
    told = msgspec.json.encode(header)
    prelude = MAGIC + b"%d\n" % FORMAT + len(told).to_bytes(4, "big") + told
    file_key = sealing.draw_file_key()
    sealed = sealing.envelopes(file_key, header.recipients, header.quorum, hashlib.sha256(prelude).digest())
    listed = msgspec.msgpack.encode(sealed)
    beginning = prelude + len(listed).to_bytes(4, "big") + listed
    context = hashlib.sha256(beginning).digest()
    return [beginning, *sealing.seal(file_key, msgspec.msgpack.encode(saved), context)]


def _part(data: bytes) -> tuple[bytes, bytes]:
    size = int.from_bytes(data[:4], "big")
    if len(data) < 4 + size or size > MAX_PART:
        raise ValueError("cut short")
    return data[4 : 4 + size], data[4 + size :]


def taken(path: Path) -> Misconfigured:
    """What is raised instead of overwriting a backup."""
    return Misconfigured(f"{path} exists: a backup is never overwritten, name a new file")
