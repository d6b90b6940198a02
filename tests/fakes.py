"""Small real things for tests: a log with Kafka's compaction, a clock that only tests move, a license server."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from keymill.errors import UnknownKey
from keymill.kafka.outgoing import Outgoing
from keymill.kms.provider import KekEpoch, KekState, RootActivation
from keymill.proxy.request import Answer, Refusal
from keymill.proxy.upstream.clearkey import ClearKey
from keymill.proxy.upstream.contract import Asked, Granted, Upstream
from keymill.secret import Secret
from schemas.topics import Topic
from schemas.values import DrmSystem


@dataclass(frozen=True)
class LogRecord:
    """One record of a `MemoryLog`."""

    offset: int
    key: bytes
    value: bytes
    timestamp: int


@dataclass
class Clock:
    """Epoch ms; never goes back."""

    now_ms: int = 1_800_000_000_000

    def advance(self, ms: int) -> int:
        """Move on and return the time."""
        assert ms >= 0
        self.now_ms += ms
        return self.now_ms


@dataclass
class MemoryLog:
    """
    One partition: appends get ascending offsets and the log's own time.

    Compaction keeps the last record of each key below `clean_to` and never reuses or moves an offset.
    """

    clock: Clock = field(default_factory=Clock)
    records: list[LogRecord] = field(default_factory=list)
    end: int = 0

    def append(self, key: bytes, value: bytes) -> int:
        """Append and return the offset."""
        self.records.append(LogRecord(self.end, key, value, self.clock.now_ms))
        self.end += 1
        return self.end - 1

    def read(self, start: int = 0) -> Iterator[LogRecord]:
        """Every record from offset *start* that compaction has left."""
        return iter([record for record in self.records if record.offset >= start])

    def compact(self, clean_to: int) -> int:
        """Drop records below *clean_to* that a later record of the same key supersedes; return how many."""
        last = {record.key: record.offset for record in self.records}
        kept = [r for r in self.records if r.offset >= clean_to or last[r.key] == r.offset]
        dropped = len(self.records) - len(kept)
        self.records = kept
        return dropped


class Made:
    """A `Changes` that keeps what it is given."""

    def __init__(self) -> None:
        self.records: list[Outgoing] = []

    def make(self, record: Outgoing, why: str) -> None:
        """See `Changes`."""
        self.records.append(record)

    def finish(self) -> None:
        """See `Changes`."""


class Trusting:
    """Record keys by which every record verifies: for tests in which nobody forges any."""

    def authenticate(self, topic: Topic, record_key: bytes, value: bytes) -> bytes:
        """Nothing."""
        return b""

    def judge(self, topic: str, record_key: bytes, value: bytes, authenticator: bytes | None) -> str:
        """See `RecordKeys`."""
        return ""

    def knows(self, organization: str, epoch: int) -> bool:
        """See `RecordKeys`."""
        return True

    def epochs(self) -> frozenset[tuple[str, int]]:
        """See `RecordKeys`."""
        return frozenset()


TRUSTING = Trusting()


@dataclass
class MemoryKms:
    """A KMS whose roots and KEKs follow from a name: real cryptography, nothing to keep."""

    names: tuple[str, ...] = ("demo",)
    kek_epochs: tuple[int, ...] = (1,)
    announced: tuple[int, ...] = ()
    retired: tuple[int, ...] = ()
    activations: tuple[RootActivation, ...] = (RootActivation(root_version=1, activates=0),)

    def hmac(self, organization: str, root_version: int, message: bytes) -> Secret:
        """HMAC under the root."""
        if organization not in self.names:
            raise UnknownKey(f"no organization {organization}")
        if root_version not in [each.root_version for each in self.activations]:
            raise UnknownKey(f"no root version {root_version}")
        return Secret(hmac.digest(self._bytes(f"root {organization} {root_version}", 32), message, "sha256"))

    def installation_hmac(self, message: bytes) -> Secret:
        """HMAC under the installation's own key."""
        return Secret(hmac.digest(self._bytes("installation", 32), message, "sha256"))

    def kek(self, organization: str, epoch: int) -> Secret:
        """The KEK of an epoch."""
        return Secret(self._bytes(f"kek {organization} {epoch}", 64))

    def epochs(self, organization: str) -> tuple[KekEpoch, ...]:
        """Every epoch, active unless something else is said of it."""
        return tuple(KekEpoch(epoch=epoch, state=self._state(epoch)) for epoch in self.kek_epochs)

    def _state(self, epoch: int) -> KekState:
        if epoch in self.announced:
            return KekState.ANNOUNCED
        return KekState.RETIRED if epoch in self.retired else KekState.ACTIVE

    def schedule(self, organization: str) -> tuple[RootActivation, ...]:
        """Every activation."""
        if organization not in self.names:
            raise UnknownKey(f"no organization {organization}")
        return self.activations

    def intake_kek(self, epoch: int | None = None) -> tuple[int, Secret]:
        """The one intake KEK."""
        return epoch or 1, Secret(self._bytes("intake", 64))

    def organizations(self) -> tuple[str, ...]:
        """Every organization."""
        return self.names

    @staticmethod
    def _bytes(name: str, size: int) -> bytes:
        return hashlib.shake_256(name.encode()).digest(size)


@dataclass
class LicenseServer:
    """
    A license server in process: its license is the challenge and the keys' hashes, so that a test can tell it.

    `asked` is what it was handed; `refusal`, where given, is its answer to everything.
    """

    content_type: str = "application/x-license"
    refusal: Refusal | None = None
    delay_s: float = 0.0
    asked: list[Granted] = field(default_factory=list)
    certificates: list[bytes] = field(default_factory=list)

    def read(self, challenge: bytes) -> Asked | Refusal:
        """It alone can read its challenges."""
        return Asked(kids=None)

    async def license(self, granted: Granted) -> Answer | Refusal:
        """A license for these keys."""
        self.asked.append(granted)
        await asyncio.sleep(self.delay_s)
        if self.refusal is not None:
            return self.refusal
        if granted.parse_only:
            told = {"status": "OK", "platform": "test", "size": len(granted.challenge)}
            return Answer(body=json.dumps(told).encode(), content_type="application/json")
        return Answer(body=license_of(granted), content_type=self.content_type)

    async def certificate(self, challenge: bytes) -> Answer | Refusal:
        """Its certificate."""
        self.certificates.append(challenge)
        return self.refusal or Answer(body=b"certificate", content_type="application/x-certificate")


def license_of(granted: Granted) -> bytes:
    """What `LicenseServer` answers."""
    hashes = [hashlib.sha256(key.kid + key.clear.cek.reveal()).digest() for key in granted.keys]
    return b"license\0" + granted.challenge + b"".join(hashes)


@dataclass
class LicenseServers:
    """Who serves whom: (organization, DRM system, name) to a server; ClearKey is the proxy's own."""

    servers: dict[tuple[str, DrmSystem, str | None], Upstream] = field(default_factory=dict)

    def find(self, organization: str, drm_system: DrmSystem, name: str | None = None) -> Upstream | None:
        """See `Upstreams`."""
        if drm_system is DrmSystem.CLEARKEY and name is None:
            return ClearKey()
        return self.servers.get((organization, drm_system, name))
