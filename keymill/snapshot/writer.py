"""The one writer of a view: a batch of messages becomes one LMDB transaction with records, indices and checkpoint."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import lmdb
import msgspec

from keymill import telemetry
from keymill.core.record_authentication import NO_RECORD_KEY, read_head
from keymill.core.view import APPLIED, SAME, Fate, Verdict, quarantined
from keymill.errors import NotReady, Unavailable
from keymill.kafka.authentication import RecordKeys
from keymill.kafka.positions import Checkpoint, Described, Incoming, Slot
from keymill.snapshot import layout, store
from keymill.snapshot.batch import Batch, put_new
from keymill.snapshot.incoming import Candidate, Examined, Examiner
from keymill.snapshot.layout import CHECKPOINT, META, REJECTED, Rejection
from keymill.snapshot.refusals import forget, report
from keymill.snapshot.state import HeartbeatFile
from keymill.snapshot.store import Environment, Manifest
from schemas.values import Record

MAX_REJECTED: Final = 10_000
"""Refused records kept for ops; the oldest go first, the counters count all."""
BULK_RECORDS: Final = 500
MAX_KEYLESS: Final = 1000
"""Keys that are waited for by name; whoever may write to a topic can invent any number of them."""
ANYBODY: Final = "*"
"""Stands for those that were too many: then every key that comes is waited for."""
PATIENCE: Final = 16
"""Big batches that are judged one by one after one that was not all new; each failed attempt costs a batch's writes."""
_FACTS: Final = b"facts"
_NUMBER: Final = 8
log = telemetry.logger("snapshot")


class Facts(Record, frozen=True, kw_only=True):
    """What a view knows of itself."""

    topics: dict[str, Described] = {}
    ready: bool = False
    quarantined: int = 0
    stale: int = 0
    rejections: int = 0
    keyless: tuple[str, ...] = ()
    """
    ORGANIZATION/EPOCH of the keys that nobody here had, so that records were refused; `ANYBODY` for more of them.

    With its epoch: else a record that names one for ever unknown would have all of its organization's read again.
    """


class SnapshotWriter:
    """
    A view's folder, open for writing; one per folder, which a lock sees to.

    What is written is never ahead of its checkpoint or behind it: both are one transaction.

    Args:
        keys: judge who wrote a record; what does not verify is quarantined, and the record before is kept.
    """

    def __init__(self, folder: Path, keys: RecordKeys, *, map_size: int = store.MAP_SIZE) -> None:
        self.folder = folder
        self._keys = keys
        self._map_size = map_size
        self._lock: IO[str] | None = None
        self._environment: Environment | None = None
        self._slots: dict[str, dict[int, Slot]] = {}
        self._examiner = Examiner({}, keys)
        self.manifest = Manifest(format=0, environment=-1, boot="", clean=False, map_size=0)
        self.facts = Facts()
        self._patience = 0

    def open(self, lock_wait_s: float = store.LOCK_WAIT_S) -> Self:
        """
        Take the folder, keep what lies there if it can be trusted, else begin anew.

        Raises:
            Misconfigured: another process writes it, or it cannot be used.
            Corrupt: it is damaged; the message says what to delete.
            Unavailable: the disk is full.
        """
        self._lock = store.hold(self.folder, lock_wait_s)
        try:
            with store.clear_errors(self.folder):
                self.manifest, reason = store.prepare(self.folder, self._map_size)
                if reason:
                    log.warning("view is rebuilt from the topics", folder=str(self.folder), reason=reason)
                HeartbeatFile(self.folder, write=True).close()  # so that whoever finds the environment finds it too
                path = store.environment_path(self.folder, self.manifest)
                self._environment = store.acquire(path, map_size=self._map_size, write=True)
                self._environment.env.reader_check()
                self._load()
        except BaseException:
            self._release()
            raise
        return self

    def close(self) -> None:
        """Write everything to disk, mark the snapshot clean, let go. May be repeated."""
        try:
            if self._environment:
                with store.clear_errors(self.folder):
                    self._environment.env.sync(True)
                    store.write_manifest(self.folder, msgspec.structs.replace(self.manifest, clean=True))
        except Unavailable as error:
            log.warning("view is not marked clean, and rebuilt after a reboot", reason=str(error))
        finally:
            self._release()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def checkpoints(self) -> dict[str, Checkpoint]:
        """How far each topic that the view follows was read."""
        return {
            name: Checkpoint(topic=known, slots=dict(self._slots[name])) for name, known in self.facts.topics.items()
        }

    def bind(self, checkpoints: Mapping[str, Checkpoint]) -> None:
        """Follow exactly these topics from these places; with a new one among them the view must catch up first."""
        known = self.facts.topics
        succeeded = {name for name, each in checkpoints.items() if name in known and known[name] != each.topic}
        ready = self.facts.ready and set(checkpoints) <= set(known)
        facts = msgspec.structs.replace(
            self.facts, topics={name: checkpoint.topic for name, checkpoint in checkpoints.items()}, ready=ready
        )
        with store.clear_errors(self.folder), self._begin() as txn:
            self._put_facts(txn, facts)
            forget(txn, self._handles[REJECTED], succeeded)  # what was read of them stays and guards
            for name in set(known) - set(checkpoints):
                txn.delete(name.encode("ascii"), db=self._handles[CHECKPOINT])
            for name, checkpoint in checkpoints.items():
                self._put_slots(txn, name, checkpoint.slots, checkpoint.topic.partitions)
        self.facts = facts
        self._slots = {name: dict(checkpoint.slots) for name, checkpoint in checkpoints.items()}
        self._examiner = Examiner({name: topic.partitions for name, topic in facts.topics.items()}, self._keys)

    def mark_ready(self) -> None:
        """The view has caught up with every topic; it stays ready over restarts."""
        facts = msgspec.structs.replace(self.facts, ready=True)
        with store.clear_errors(self.folder), self._begin() as txn:
            self._put_facts(txn, facts)
        self.facts = facts

    def apply(self, batch: Sequence[Incoming], reached: Mapping[str, Mapping[int, Slot]]) -> dict[Fate, int]:
        """
        Take messages into the view and move the checkpoint to *reached*, all in one transaction.

        Messages below the checkpoint are in the view already and are passed over.

        Returns:
            How many messages met which fate.
        """
        before = self._slots
        fresh = [message for message in batch if message.offset >= before[message.topic][message.partition].offset]
        examined = [self._examiner.examine(message) for message in fresh]
        slots = {topic: before[topic] | dict(parts) for topic, parts in reached.items()}
        with store.clear_errors(self.folder):
            fates = self._load_new(examined, slots) or self._judge_each(fresh, examined, slots)
        self._slots = before | slots
        return fates

    def _load_new(self, examined: Sequence[Examined], slots: dict[str, dict[int, Slot]]) -> dict[Fate, int] | None:
        """Take a big batch at once when all of it is new, as on a cold start; None, and no trace, when it is not."""
        if len(examined) < BULK_RECORDS or self._patience:
            self._patience = max(0, self._patience - 1)
            return None
        txn = self._begin()
        try:
            if put_new(txn, self._handles, examined):
                self._put_checkpoint(txn, slots)
                txn.commit()
                return dict.fromkeys(Fate, 0) | {Fate.APPLIED: len(examined)}
        finally:
            txn.abort()  # nothing, after the commit
        self._patience = PATIENCE
        return None

    def _judge_each(
        self, fresh: Sequence[Incoming], examined: Sequence[Examined], slots: dict[str, dict[int, Slot]]
    ) -> dict[Fate, int]:
        fates, facts = dict.fromkeys(Fate, 0), self.facts
        with self._begin() as txn:
            state = Batch(txn, self._handles, [found for found in examined if isinstance(found, Candidate)])
            for message, found in zip(fresh, examined, strict=True):
                verdict = quarantined(found) if isinstance(found, str) else state.take(found)
                fates[verdict.fate] += 1
                if verdict is not APPLIED and verdict is not SAME:
                    facts = self._reject(txn, facts, message, verdict)
                    report(message, found, verdict)
            state.flush()
            self._put_checkpoint(txn, slots)
            if facts is not self.facts:
                self._put_facts(txn, facts)
        self.facts = facts
        return fates

    def apply_again(self, batch: Sequence[Incoming]) -> None:
        """Judge messages below the checkpoint once more, which were refused for want of keys; it stays where it is."""
        with store.clear_errors(self.folder):
            self._judge_each(batch, [self._examiner.examine(message) for message in batch], {})

    def found_keys(self, found: Collection[str]) -> None:
        """Note that what waited for these keys has been judged."""
        keyless = tuple(each for each in self.facts.keyless if each not in found)
        facts = msgspec.structs.replace(self.facts, keyless=keyless)
        with store.clear_errors(self.folder), self._begin() as txn:
            self._put_facts(txn, facts)
        self.facts = facts

    def has_reached(self, slots: Mapping[str, Mapping[int, Slot]]) -> bool:
        """Whether the checkpoint stands there."""
        return self._slots == slots

    def reader_check(self) -> None:
        """Free the slots of readers that were killed, so that their pages can be used again."""
        self._opened().env.reader_check()

    def _reject(self, txn: "lmdb.Transaction[bytes]", facts: Facts, message: Incoming, verdict: Verdict) -> Facts:
        rejection = Rejection(
            fate=verdict.fate.value,
            reason=verdict.reason,
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            record_key=(message.key or b"")[: layout.MAX_KEY],
        )
        handle = self._handles[REJECTED]
        txn.put(facts.rejections.to_bytes(_NUMBER, "big"), layout.pack_rejection(rejection), db=handle, append=True)
        if facts.rejections >= MAX_REJECTED:
            txn.delete((facts.rejections - MAX_REJECTED).to_bytes(_NUMBER, "big"), db=handle)
        keyless = facts.keyless
        if verdict.reason == NO_RECORD_KEY and ANYBODY not in keyless:
            waits_for = _key_named(message) if len(keyless) < MAX_KEYLESS else ANYBODY
            keyless = keyless if waits_for in keyless else (*keyless, waits_for)
        return msgspec.structs.replace(
            facts,
            keyless=keyless,
            rejections=facts.rejections + 1,
            quarantined=facts.quarantined + (verdict.fate is Fate.QUARANTINED),
            stale=facts.stale + (verdict.fate is Fate.STALE),
        )

    def _load(self) -> None:
        with self._opened().env.begin() as txn:
            data = txn.get(_FACTS, db=self._handles[META])
            self.facts = msgspec.msgpack.decode(data, type=Facts) if data else Facts()
            with txn.cursor(self._handles[CHECKPOINT]) as cursor:
                self._slots = {topic.decode("ascii"): layout.unpack_slots(slots) for topic, slots in cursor}
        self._examiner = Examiner({name: known.partitions for name, known in self.facts.topics.items()}, self._keys)

    def _put_facts(self, txn: "lmdb.Transaction[bytes]", facts: Facts) -> None:
        txn.put(_FACTS, msgspec.msgpack.encode(facts), db=self._handles[META])

    def _put_checkpoint(self, txn: "lmdb.Transaction[bytes]", slots: dict[str, dict[int, Slot]]) -> None:
        for topic, parts in slots.items():
            self._put_slots(txn, topic, parts, self.facts.topics[topic].partitions)

    def _put_slots(self, txn: "lmdb.Transaction[bytes]", topic: str, slots: dict[int, Slot], partitions: int) -> None:
        txn.put(topic.encode("ascii"), layout.pack_slots(slots, partitions), db=self._handles[CHECKPOINT])

    def _begin(self) -> "lmdb.Transaction[bytes]":
        return self._opened().env.begin(write=True)

    @property
    def _handles(self) -> dict[bytes, Any]:
        return self._opened().handles

    def _opened(self) -> Environment:
        if self._environment is None:
            raise NotReady(f"the view {self.folder} is not open")
        return self._environment

    def _release(self) -> None:
        if self._environment:
            store.release(self._environment)
            self._environment = None
        if self._lock:
            self._lock.close()
            self._lock = None


def _key_named(message: Incoming) -> str:
    """As `Facts.keyless` has it."""
    head = read_head(message.authenticator or b"")
    organization = (message.key or b"").partition(b"/")[0].decode("ascii", "replace")
    return f"{organization}/{head.epoch if head else 1}"


def keys_come(
    keyless: Collection[str], keys: RecordKeys, before: frozenset[tuple[str, int]]
) -> tuple[list[str], set[str]]:
    """
    Return which entries of `Facts.keyless` have their keys by now, and whose records are to be judged again.

    Args:
        before: what `RecordKeys.epochs` said when they were judged last; nothing after a start.
    """
    named = [(each, *each.partition("/")[::2]) for each in keyless if each != ANYBODY]
    found = [(each, organization) for each, organization, epoch in named if keys.knows(organization, int(epoch or 1))]
    come = {organization for organization, _ in keys.epochs() - before} if ANYBODY in keyless else set()
    return [each for each, _ in found], come | {organization for _, organization in found}
