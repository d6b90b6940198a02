"""
The fingerprint ledger: (organization, KID) to fingerprint, as a file that can be compared years later.

    keymill fingerprint ledger 1
    demo 0f6c… 91ab…                 organization, KID, fingerprint; sorted, each KID once
    sha256 4e1f…                     of every byte before this line

It holds no secret: a fingerprint lets anyone compare and nobody invert.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from keymill.durable import own_file, sync_folder
from keymill.errors import Corrupt, InvalidRecord
from schemas.values import FINGERPRINT_SIZE, KID_SIZE

HEADER: Final = "keymill fingerprint ledger 1\n"
_SEAL: Final = "sha256 "
_ENTRY: Final = re.compile(rb"([a-z0-9-]{1,63}) ([0-9a-f]{%d}) ([0-9a-f]{%d})" % (2 * KID_SIZE, 2 * FINGERPRINT_SIZE))


class Entry(NamedTuple):
    """One key, without the key."""

    organization: str
    kid: bytes
    fp: bytes

    def __str__(self) -> str:
        return f"{self.organization} {self.kid.hex()} {self.fp.hex()}"


class Comparison(NamedTuple):
    """What became of the entries of a former ledger, and what is new."""

    missing: list[Entry]
    changed: list[Entry]
    added: list[Entry]

    def kept(self) -> bool:
        """Whether every key of before is there and is the same; new ones are no harm."""
        return not self.missing and not self.changed


class Ledger:
    """Fingerprints as they come; 32 bytes and an entry of a list for each."""

    def __init__(self) -> None:
        self._pairs: dict[str, list[bytes]] = {}

    def add(self, organization: str, tracks: Iterable[tuple[bytes, bytes]]) -> None:
        """Note (KID, fingerprint) pairs of a key record; the same pair may come again."""
        self._pairs.setdefault(organization, []).extend([kid + fp for kid, fp in tracks])

    def entries(self) -> Iterator[Entry]:
        """Every entry once, by organization and KID. A KID with two fingerprints comes twice."""
        for organization in sorted(self._pairs):
            last = b""
            for pair in sorted(self._pairs[organization]):
                if pair != last:
                    yield Entry(organization, pair[:KID_SIZE], pair[KID_SIZE:])
                last = pair

    def contradictions(self) -> Iterator[Entry]:
        """Every further fingerprint of a KID that has one."""
        last: Entry | None = None
        for entry in self.entries():
            if last is not None and last[:2] == entry[:2]:
                yield entry
            last = entry

    def __len__(self) -> int:
        return sum(1 for _ in self.entries())


def compare(before: Ledger, after: Ledger) -> Comparison:
    """Compare two ledgers; of a KID that has two fingerprints now, the one that differs is told."""
    old = {(each.organization, each.kid): each for each in before.entries()}
    found = Comparison([], [], [])
    seen = set()
    for entry in after.entries():
        name = (entry.organization, entry.kid)
        seen.add(name)
        if name not in old:
            found.added.append(entry)
        elif old[name] != entry:
            found.changed.append(entry)
    found.missing.extend(each for name, each in old.items() if name not in seen)
    return found


def write(ledger: Ledger, path: Path) -> int:
    """Write the file whole or not at all, and durably; returns how many entries it has."""
    fresh, digest, count = path.with_name(path.name + ".new"), hashlib.sha256(), 0
    with own_file(fresh, "wb") as file:
        for line in _lines(ledger):
            digest.update(line)
            file.write(line)
            count += 1
        file.write(f"{_SEAL}{digest.hexdigest()}\n".encode("ascii"))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_folder(path.absolute().parent)
    return count - 1


def _lines(ledger: Ledger) -> Iterator[bytes]:
    yield HEADER.encode("ascii")
    for entry in ledger.entries():
        yield f"{entry}\n".encode("ascii")


def read(path: Path) -> Ledger:
    """
    Read a ledger.

    Raises:
        InvalidRecord: it is none.
        Corrupt: it is not whole, or was changed.
    """
    data = path.read_bytes()
    if not data.startswith(HEADER.encode("ascii")):
        raise InvalidRecord(f"{path} is no fingerprint ledger: name a file that `keymill audit --ledger` wrote")
    body, _, seal = data.rpartition(_SEAL.encode("ascii"))
    if seal.strip() != hashlib.sha256(body).hexdigest().encode("ascii"):
        raise Corrupt(f"{path} was cut off or changed since it was written: its SHA-256 is another")
    ledger = Ledger()
    for number, line in enumerate(body.splitlines()[1:], 2):
        found = _ENTRY.fullmatch(line)
        if found is None:
            raise Corrupt(f"{path}:{number} is no entry (organization, KID, fingerprint), though its SHA-256 fits")
        ledger.add(found[1].decode("ascii"), [(bytes.fromhex(found[2].decode()), bytes.fromhex(found[3].decode()))])
    return ledger
