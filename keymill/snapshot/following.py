"""
What the follower's process does: tail into view, batch by batch, and say how it goes.

A topic that was created again is neither read nor given up: the view says so and serves on, and when the new one is
adopted it is read from its first record over what the view holds, whose fingerprints and versions go on guarding.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from keymill import telemetry
from keymill.core.view import Fate
from keymill.errors import Corrupt, Misconfigured, Retry, Stop, Unavailable
from keymill.kafka.authentication import RecordKeys, authenticator_of, install, trust_before
from keymill.kafka.positions import Checkpoint, Incoming
from keymill.kafka.scan import Scanner
from keymill.kafka.succession import Succession, spelt, succession
from keymill.kafka.tail import STALL_S, Tail
from keymill.kafka.vigil import STRIKES
from keymill.kms.record_keys import record_keys_of
from keymill.snapshot import store
from keymill.snapshot.state import Heartbeat, HeartbeatFile, boot_id
from keymill.snapshot.writer import SnapshotWriter, keys_come
from schemas.values import Record

POLL_S: Final = 0.1
"""A record wakes it at once; this is how long it takes to notice anything else."""
GATE_POLL_S: Final = 0.01
BEAT_EVERY_S: Final = 0.2
READER_CHECK_S: Final = 10.0
KEYS_LOOK_S: Final = 1.0
"""How soon the keys of an organization are seen of which records came before them."""
AGAIN_RECORDS: Final = 2_000
"""Records that are read again in one transaction."""
COLD_WAIT_S: Final = 30.0
"""How long a view that has nothing to serve waits for the brokers before its process ends."""
RECONNECT_S: Final = 0.5
MUTE_S: Final = 5.0
"""How long a follower may give no sign of life, before its parent kills it as frozen."""
ROOM_EVERY_S: Final = 0.5
"""Between two tries of a write that the disk has refused."""
SUCCESSOR_EVERY_S: Final = 1.0
ERROR_SHOWN_S: Final = 3.0
"""A topic that changes under a running program is told for at least so long: processors look once a second, and end."""
log = telemetry.logger("snapshot.follower")
T = TypeVar("T")


class FollowerSettings(Record, frozen=True, kw_only=True):
    """
    What a follower is told.

    `client` holds librdkafka settings that reach the brokers, credentials perhaps among them. `key_file` is the KMS
    provider's, for the keys that authenticate records; those below `authenticated_from` are older than authenticators.
    `parent` is the process to die with, 0 for none.
    """

    folder: str
    key_file: str
    topics: tuple[str, ...]
    client: dict[str, str | int | bool]
    map_size: int = store.MAP_SIZE
    log_level: str = "info"
    stall_s: float = STALL_S
    parent: int = 0
    authenticated_from: dict[str, tuple[int, ...]] = {}


class Following:
    """One run of a follower over an open view."""

    def __init__(
        self, writer: SnapshotWriter, keys: RecordKeys, settings: FollowerSettings, stopping: Callable[[], bool]
    ) -> None:
        self._writer = writer
        self._keys = keys
        self._settings = settings
        self._stopping = stopping
        self._tail = Tail(settings.client, settings.topics, stall_s=settings.stall_s, pulse=self._write_beat)
        self._file = HeartbeatFile(writer.folder, write=True)
        self._beat = self._first_beat(self._file.read())
        self._beaten = self._checked = self._looked = 0.0
        self._epochs: frozenset[tuple[str, int]] = frozenset()
        self._notice: str | None = None
        self._adopted: dict[str, str] = {}
        self._takeovers = 0

    def run(self) -> None:
        """
        Follow until told to stop.

        Raises:
            Misconfigured: the topics are not what was read, and have no successor; the heartbeat says so too.
            Unavailable: there were no brokers, and nothing to serve.
        """
        try:
            self._write_beat()
            while not self._stopping():
                try:
                    self._follow()
                except Misconfigured as error:
                    if not self._await_successor(error):
                        raise
        except Stop as error:
            self._tell(error)
            raise
        finally:
            self._beat = msgspec.structs.replace(self._beat, live=False)
            self._write_beat()
            self._tail.close()
            self._file.close()

    def _follow(self) -> None:
        if self._connect():
            while not self._stopping():
                self._step()

    def _bind(self, started: dict[str, Checkpoint]) -> None:
        for name, topic_id in self._adopted.items():
            if spelt(started[name].topic.topic_id) != topic_id:
                raise Misconfigured(f"the topic {name} was created anew once more: run `keymill topics adopt`")
        self._writer.bind(started)
        self._notice, self._adopted, self._takeovers = None, {}, 0
        self._beat = msgspec.structs.replace(self._beat, stopped=None)

    def _known(self) -> dict[str, Checkpoint]:
        """What was read, without the topics that have an adopted successor."""
        return {name: each for name, each in self._writer.checkpoints().items() if name not in self._adopted}

    def _await_successor(self, error: Misconfigured) -> bool:
        """Wait until every topic that was replaced is adopted, or to stop; False when the trouble is another one."""
        shown_until = time.monotonic() + (ERROR_SHOWN_S if self._tail.contact or self._takeovers else 0.0)
        unchanged = 0
        while not self._stopping():
            found = self._beating(self._succession)
            unchanged = unchanged + 1 if found and not found.replaced else 0
            if unchanged >= STRIKES:
                return False
            if found and found.complete() and time.monotonic() >= shown_until:
                if self._takeovers == STRIKES:
                    return False  # all are adopted, and something else is wrong
                self._succeed(found)
                break
            if self._beat.error is None:
                log.error("view waits for an adoption", folder=str(self._writer.folder), reason=str(error))
            self._tell(error)
            self._pause(SUCCESSOR_EVERY_S)
        return True

    def _succession(self) -> Succession | None:
        """What became of the topics; None while nobody can say."""
        try:
            return succession(str(self._settings.client["bootstrap.servers"]), self._writer.checkpoints())
        except Unavailable:
            return None

    def _succeed(self, found: Succession) -> None:
        log.warning("topics were replaced and adopted: they are read anew", topics=sorted(found.adopted))
        self._adopted, self._takeovers = found.adopted, self._takeovers + 1
        self._tail.close()
        self._tail = Tail(
            self._settings.client, self._settings.topics, stall_s=self._settings.stall_s, pulse=self._write_beat
        )
        self._beat = msgspec.structs.replace(self._beat, error=None)

    def _pause(self, seconds: float) -> None:
        """Wait, and go on beating."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._stopping():
            time.sleep(BEAT_EVERY_S)
            self._write_beat()

    def _beating(self, work: Callable[[], T]) -> T:
        """Do in a thread what may wait for brokers or disk, and go on beating: a silent one is killed as frozen."""
        with ThreadPoolExecutor(1) as pool:
            doing = pool.submit(work)
            while not wait((doing,), BEAT_EVERY_S).done:
                self._write_beat()
            return doing.result()

    def _tell(self, error: Stop) -> None:
        self._beat = msgspec.structs.replace(self._beat, error=str(error), live=False)
        self._write_beat()

    def _connect(self) -> bool:
        """Begin to read; without brokers a view that was ready waits for them, any other gives up after a while."""
        began = time.monotonic()
        while not self._stopping():
            try:
                started = self._tail.start(self._known())
            except Unavailable as error:
                if not self._writer.facts.ready and time.monotonic() - began > COLD_WAIT_S:
                    raise
                if self._notice != str(error):
                    log.warning("waiting for the brokers", reason=str(error))
                self._notice = str(error)
                self._refresh()
                time.sleep(RECONNECT_S)
            else:
                self._written(partial(self._bind, started))
                return True
        return False

    def _step(self) -> None:
        tail, writer = self._tail, self._writer
        batch = tail.poll(POLL_S if tail.caught_up else GATE_POLL_S)
        if batch or not writer.has_reached(tail.slots):
            fates = self._written(partial(writer.apply, batch, tail.slots))
            if fates and fates[Fate.APPLIED]:
                self._beat = msgspec.structs.replace(self._beat, progress_s=time.time())
        if tail.caught_up and not self._beat.live:
            if not writer.facts.ready:
                self._written(partial(self._beating, writer.mark_ready))
            log.info("view is caught up", folder=str(writer.folder), behind=tail.behind)
            self._refresh()
        now = time.monotonic()
        if now - self._beaten >= BEAT_EVERY_S:
            self._refresh()
        if now - self._checked >= READER_CHECK_S:
            self._checked = now
            writer.reader_check()
        if writer.facts.keyless and now - self._looked >= KEYS_LOOK_S:
            self._looked = now
            self._beating(self._judge_keyless)

    def _written(self, write: Callable[[], T]) -> T | None:
        """What *write* gives, as soon as the disk takes it; None when told to stop before."""
        began = 0.0
        while not self._stopping():
            try:
                written = write()
            except Unavailable as error:
                if not began:
                    began = time.monotonic()
                    log.error("the view waits for room on its disk", reason=str(error))
                self._beat = msgspec.structs.replace(self._beat, live=False, notice=str(error))
                self._pause(ROOM_EVERY_S)
            else:
                if began:
                    log.warning("the view is written again", after_s=round(time.monotonic() - began, 1))
                return written
        return None

    def _judge_keyless(self) -> None:
        """Read again what was refused for want of the keys of organizations that are known by now."""
        epochs = self._keys.epochs()
        found, whose = keys_come(self._writer.facts.keyless, self._keys, self._epochs)
        if not whose:
            return
        log.warning("keys have come: what was refused is judged again", organizations=sorted(whose))
        prefixes = tuple(f"{each}/".encode("ascii") for each in whose)
        try:
            with Scanner(str(self._settings.client["bootstrap.servers"])) as scanner:
                for topic, checkpoint in self._writer.checkpoints().items():
                    for partition, slot in checkpoint.slots.items():
                        self._judge_again(scanner, topic, partition, slot.offset, prefixes)
        except (Retry, Corrupt) as error:
            log.warning("what was refused cannot be read again yet", reason=str(error))
        else:
            self._epochs = epochs
            self._written(partial(self._writer.found_keys, found))

    def _judge_again(self, scanner: Scanner, topic: str, partition: int, end: int, prefixes: tuple[bytes, ...]) -> None:
        batch: list[Incoming] = []
        for count, message in enumerate(scanner.read(topic, partition, end=end)):
            if (message.key() or b"").startswith(prefixes):
                place = (topic, partition, message.offset() or 0)
                batch.append(Incoming(*place, message.key(), message.value(), authenticator_of(message)))
            if count % AGAIN_RECORDS == 0:
                self._writer.apply_again(batch)
                batch.clear()
        self._writer.apply_again(batch)

    def _refresh(self) -> None:
        tail, facts = self._tail, self._writer.facts
        # A view is as old as the moment at which it held all there was: one that lags is stale by as many seconds.
        current = bool(tail.contact) and not tail.behind
        contact = tail.contact if current else self._beat.contact_boot_s
        wall = time.time() - (time.monotonic() - contact) if current else self._beat.contact_s
        self._beat = msgspec.structs.replace(
            self._beat,
            ready=facts.ready,
            live=tail.caught_up,
            contact_boot_s=contact,
            contact_s=wall,
            behind=tail.behind,
            quarantined=facts.quarantined,
            stale=facts.stale,
            notice=self._notice or tail.notice,
        )
        self._write_beat()

    def _write_beat(self) -> None:
        self._beaten = time.monotonic()
        self._file.write(self._beat)

    def _first_beat(self, last: Heartbeat | None) -> Heartbeat:
        facts = self._writer.facts
        beat = Heartbeat(
            environment=self._writer.manifest.environment,
            boot=boot_id(),
            ready=facts.ready,
            quarantined=facts.quarantined,
            stale=facts.stale,
            stopped=(last.error or last.stopped) if last else None,
        )
        if last is None or last.environment != beat.environment or not facts.ready:
            return beat
        # Contact is as old as it was; of another boot only the wall clock tells.
        boot_s = last.contact_boot_s if last.boot == boot_id() else time.monotonic() - (time.time() - last.contact_s)
        return msgspec.structs.replace(
            beat, contact_boot_s=boot_s, contact_s=last.contact_s, progress_s=last.progress_s, behind=last.behind
        )


def follow(settings: FollowerSettings, stopping: Callable[[], bool]) -> None:
    """Open the view of *settings*, follow until *stopping*, close it cleanly."""
    keys = record_keys_of(Path(settings.key_file))
    install(keys)
    trust_before(settings.authenticated_from)
    writer = SnapshotWriter(Path(settings.folder), keys, map_size=settings.map_size)
    try:
        if _open(writer, stopping):
            Following(writer, keys, settings, stopping).run()
    finally:
        writer.close()


def _open(writer: SnapshotWriter, stopping: Callable[[], bool]) -> bool:
    """Open the view as soon as its disk takes it; False when told to stop before. What it holds is served meanwhile."""
    began = told = 0.0
    while not stopping():
        try:
            writer.open()
            return True
        except Unavailable as error:
            now = time.monotonic()
            began = began or now
            if not told:
                log.error("the view waits for room on its disk", reason=str(error))
            told = now
            if not _beat_closed(writer.folder, str(error)) and now - began > MUTE_S:
                raise
            time.sleep(BEAT_EVERY_S)
    return False


def _beat_closed(folder: Path, notice: str) -> bool:
    """Give a sign of life for a view that cannot be opened; False where there has been none to go on from."""
    try:
        file = HeartbeatFile(folder, write=True)
    except OSError:
        return False
    try:
        if (last := file.read()) is None:
            return False
        file.write(msgspec.structs.replace(last, live=False, notice=notice))
        return True
    finally:
        file.close()
