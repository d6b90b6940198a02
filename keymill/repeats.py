"""
Log lines that say the same again, as Kafka clients do many times a second while a broker is away.

What a client complains of is told once, when it begins. What follows is counted, and once the client has had nothing to
complain of for a while, one line says how much was left out; of trouble that stays, one says so every ten minutes.
Complaints differ by their kind, never by a number in them, and clients by theirs: of one kind a program has several to
the same brokers, and some are made anew at each try.
"""

import logging
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

QUIET_S: Final = 15.0
"""A client without a complaint for so long is well again: librdkafka and aiokafka try again within 10 s."""
REMIND_S: Final = 600.0
MOST: Final = 3
"""Kinds of complaint that are told of a client while it is in trouble: more of them are its ways to say the same."""
LOOK_S: Final = 1.0
LIBRDKAFKA: Final = "keymill.kafka.client"
"""The logger that every client of librdkafka gets."""
CLIENTS: Final = frozenset({"aiokafka", "kafka", "faust", "mode"})
"""Roots of the loggers of other clients, and of what runs on them."""
AGAIN: Final = frozenset(
    {
        "the address cannot be noted, and commands may not find this cluster",
        "child_ended", "kafka_ended", "kafka_restart_failed", "follower ended and is started again",
        "worker died and is started again",
    }
)  # fmt: skip
"""Events of our own that come again with every restart of a child that cannot start, and with every try to note it."""
_RDKAFKA: Final = re.compile(
    r"(?P<what>\w+) \[rdkafka#(?P<kind>\w+)-\d+\] (?:\[thrd:[^\]]*\]: )?(?P<text>.*)", re.DOTALL
)
_NUMBER: Final = re.compile(r"\d+")


class Complaint(NamedTuple):
    """Who complains, and of what: two lines with the same say the same."""

    client: str
    what: str


class Left(NamedTuple):
    """Lines that were left out of the log, and since when (s); *over* when the client is well again."""

    client: str
    lines: int
    for_s: float
    over: bool


def complaint_of(logger: str, message: object) -> Complaint | None:
    """Return what a line complains of; None for a line that is not of the kind that repeats itself."""
    if isinstance(message, dict):
        event = message.get("event")
        who = message.get("child") or message.get("folder") or logger
        return Complaint(f"{who}", f"{event} {message.get('status')}") if event in AGAIN else None
    text = str(message)
    if logger == LIBRDKAFKA:
        found = _RDKAFKA.match(text)
        if found is None:
            return Complaint("rdkafka", _NUMBER.sub("#", text))
        reason = found["text"].partition(" (")[0].rpartition(": ")[2]
        return Complaint(f"rdkafka {found['kind']}", _NUMBER.sub("#", f"{found['what']} {reason}"))
    root = logger.partition(".")[0]
    return Complaint(root, f"{logger} {_NUMBER.sub('#', text)}") if root in CLIENTS else None


@dataclass(slots=True)
class _Trouble:
    began: float
    last: float
    reminded: float
    told: set[str] = field(default_factory=set)
    left_out: int = 0


class Troubles:
    """Decides which complaints are told; a function of what came when."""

    def __init__(self) -> None:
        self._of: dict[str, _Trouble] = {}

    def __bool__(self) -> bool:
        return bool(self._of)

    def tells(self, complaint: Complaint, now: float) -> bool:
        """Take a complaint that came *now* (s); False when it says the same again."""
        trouble = self._of.setdefault(complaint.client, _Trouble(now, now, now))
        trouble.last = now
        if complaint.what in trouble.told or len(trouble.told) >= MOST:
            trouble.left_out += 1
            return False
        trouble.told.add(complaint.what)
        return True

    def due(self, now: float) -> list[Left]:
        """Return what is to be said of lines left out: of clients that are well again, and of long trouble."""
        said = []
        for client, trouble in list(self._of.items()):
            over = now - trouble.last >= QUIET_S
            if over:
                del self._of[client]
            elif now - trouble.reminded < REMIND_S:
                continue
            if trouble.left_out:
                said.append(Left(client, trouble.left_out, round(trouble.last - trouble.began, 1), over))
            trouble.reminded, trouble.left_out = now, 0
        return said


class Repeats(logging.Filter):
    """A filter of a handler: what says the same again does not pass, and is counted."""

    def __init__(self, log: Any) -> None:
        super().__init__()
        self._log = log
        self._troubles = Troubles()
        self._lock = threading.Lock()
        self._watching = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the line passes."""
        by_template = record.msg if isinstance(record.msg, dict) or record.args else record.getMessage()
        message = record.getMessage() if record.name == LIBRDKAFKA else by_template
        complaint = complaint_of(record.name, message)
        if complaint is None:
            return True
        with self._lock:
            told = self._troubles.tells(complaint, time.monotonic())
            if not self._watching:
                self._watching = True
                threading.Thread(target=self._watch, name="repeats", daemon=True).start()
        return told

    def _watch(self) -> None:
        """Say what was left out, until there is no trouble any more."""
        while self._watching:
            time.sleep(LOOK_S)
            with self._lock:
                said = self._troubles.due(time.monotonic())
                self._watching = bool(self._troubles)
            for left in said:
                text = "a client has nothing to complain of any more" if left.over else "a client complains on"
                self._log.warning(text, client=left.client, left_out=left.lines, for_s=left.for_s)
