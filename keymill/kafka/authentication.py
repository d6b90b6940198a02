"""
Who authenticates the records of this process: what it writes gets an authenticator, what it reads is judged by it.

A program installs the keys of its settings once, before it reads or writes; every `Publisher`, scan and tail of the
process uses them. Records of topics without authentication pass as they are (`schemas.topics`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

from confluent_kafka import Message

from keymill.core.record_authentication import HEADER, REASONS, UNAUTHENTICATED
from keymill.errors import Misconfigured
from keymill.kafka.outgoing import Outgoing, name_of
from schemas import topics
from schemas.topics import Authentication, Topic

__all__ = [
    "REASONS",
    "RecordKeys",
    "authenticator_of",
    "go_without",
    "install",
    "installed",
    "is_unverified",
    "refusal_of",
    "with_authenticator",
]

WrittenHeaders = list[tuple[str, str | bytes | None]]
"""As the Kafka client takes them."""


class RecordKeys(Protocol):
    """What `keymill.kms.record_keys` has."""

    def authenticate(self, topic: Topic, record_key: bytes, value: bytes) -> bytes:
        """Return the authenticator of a record; raises what the KMS raises."""
        ...

    def judge(self, topic: str, record_key: bytes, value: bytes, authenticator: bytes | None) -> str:
        """Return why a record is not to be trusted, a code; empty when it is."""
        ...

    def knows(self, organization: str, epoch: int) -> bool:
        """Tell whether the organization's keys of that epoch are here."""
        ...

    def epochs(self) -> frozenset[tuple[str, int]]:
        """Return every (organization, epoch) of which there are keys."""
        ...


class _Process:
    """The keys of this process; a worker that is forked later has them too."""

    keys: RecordKeys | None = None
    since: dict[str, Sequence[int]] = {}
    unverified: bool = False
    tell: Callable[[], None] | None = None


AUTHENTICATED: Final = frozenset(
    topic.name for topic in topics.CATALOGUE if topic.authentication is not Authentication.NONE
)


def install(keys: RecordKeys | None) -> None:
    """Use these keys from now on; None forgets them, and that anything was read without."""
    _Process.keys = keys
    _Process.unverified = _Process.unverified and keys is not None


def go_without(tell: Callable[[], None]) -> None:
    """
    Use no keys: nothing that others trust can be written, and what is read is not verified.

    Args:
        tell: called once, when the first record is read that keys would have judged.
    """
    _Process.keys, _Process.tell = None, tell


def is_unverified() -> bool:
    """Tell whether anything was read that keys would have judged, and there were none."""
    return _Process.unverified


def trust_before(since: Mapping[str, Sequence[int]]) -> None:
    """Let records stand unauthenticated below these offsets, by topic and partition: they are older than the keys."""
    _Process.since = {**_Process.since, **since}


def forget_older() -> None:
    """Let no record stand unauthenticated."""
    _Process.since = {}


def older_below(names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Return what `trust_before` was told of these topics."""
    return {name: tuple(_Process.since[name]) for name in names if name in _Process.since}


def is_older(topic: str, partition: int, offset: int) -> bool:
    """Tell whether a record is older than the authentication of its topic."""
    since = _Process.since.get(topic, ())
    return partition < len(since) and offset < since[partition]


def installed() -> RecordKeys | None:
    """Return the keys of this process."""
    return _Process.keys


def is_authenticated(topic: str) -> bool:
    """Tell whether records of a topic, of any set of topics, have authenticators."""
    return topic in AUTHENTICATED or topic.partition(".")[2] in AUTHENTICATED


def with_authenticator(record: Outgoing) -> WrittenHeaders | None:
    """
    Return the headers that a record is written with; None for none.

    Raises:
        Misconfigured: the record must be authenticated, and no keys are installed.
    """
    headers: WrittenHeaders = [pair for pair in record.headers if pair[0] != HEADER]
    if not is_authenticated(record.topic):
        return headers or None
    if _Process.keys is None:
        if topics.entry_of(record.topic).keyless_writers:
            return headers or None
        message = "records there are authenticated: name the key file (KEYMILL_KEY_FILE), or its folder with --data"
        raise Misconfigured(f"{name_of(record)} cannot be written: {message}")
    authenticator = _Process.keys.authenticate(topics.entry_of(record.topic), record.record_key, record.value or b"")
    headers.append((HEADER, authenticator))
    return headers


def authenticator_of(message: Message) -> bytes | None:
    """Return a message's authenticator, if it has one; of several the last."""
    try:
        pairs: list[tuple[str, bytes | None]] | None = message.headers()  # type: ignore[assignment]
    except (UnicodeDecodeError, SystemError):  # a name that is no UTF-8: nobody of ours wrote it
        return None
    found = None
    for name, value in pairs or ():
        if name == HEADER:
            found = value
    return found


def refusal_of(message: Message, topic: str) -> str:
    """Return why a message of a topic is not to be trusted, a code; empty when it is, or nobody here can tell."""
    if not is_authenticated(topic):
        return ""
    if _Process.keys is None:
        _read_unverified()
        return ""
    reason = _Process.keys.judge(topic, message.key() or b"", message.value() or b"", authenticator_of(message))
    if reason == UNAUTHENTICATED and is_older(topic, message.partition() or 0, message.offset() or 0):
        return ""
    return reason


def _read_unverified() -> None:
    if not _Process.unverified:
        _Process.unverified = True
        if _Process.tell:
            _Process.tell()
