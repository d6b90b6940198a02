"""`keymill connect NAME`: one connector as a program."""

import hashlib
import signal
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Final, NamedTuple

from connectors.contract import Source
from connectors.manifest import Manifest
from connectors.pulse import Pulse
from connectors.runner import drain, relay
from connectors.sql_archive import SqlArchive
from connectors.sql_outbox import SqlOutbox
from connectors.standing import standing
from keymill import sql, telemetry
from keymill.archive.tables import ARCHIVED
from keymill.archive.writing import ArchiveWriter, archive_url
from keymill.config import ConnectSettings
from keymill.errors import Misconfigured
from keymill.http.server import announce
from keymill.kafka.admin import require_topics
from keymill.kafka.authentication import go_without, install
from keymill.kafka.producer import Publisher
from keymill.kafka.whole import WholeTail
from keymill.kms.record_keys import record_keys_of
from schemas import topics

log = telemetry.logger("connectors.main")


class Running(NamedTuple):
    """What a connector is given: `stop` ends it, with `once` it ends by itself, `pulse` says how it is getting on."""

    settings: ConnectSettings
    stop: threading.Event
    once: bool
    pulse: Pulse


def run(name: str, settings: ConnectSettings, *, once: bool = False) -> int:
    """
    Run a connector until SIGTERM, or with *once* until there is nothing more to move; returns the exit code.

    Raises:
        Misconfigured: there is no such connector, or its settings, folder, database or topics are not what they must
            be.
    """
    telemetry.configure(f"connect-{name}", settings.log_level)
    if name not in CONNECTORS:
        raise Misconfigured(f"there is no connector {name}: one of {', '.join(CONNECTORS)}")
    if settings.keys_path.exists():  # a connector writes nothing that is authenticated, and verifies what it can
        install(record_keys_of(settings.keys_path))
    else:
        missing = str(settings.keys_path)
        go_without(lambda: log.warning("what is read is not verified: there is no key file", key_file=missing))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    running = Running(settings, stop, once, Pulse())
    if once:  # it ends by itself, says nothing of itself where one that stays does, and stdout is its command's
        CONNECTORS[name](running)
    else:
        with standing(name, settings, stop, running.pulse) as url:
            announce(url)
            CONNECTORS[name](running)
    log.info("connector stopped", connector=name)
    return 0


def _manifest(running: Running) -> None:
    folder = running.settings.manifest_dir
    if folder is None:
        raise Misconfigured("manifest_dir (KEYMILL_MANIFEST_DIR) is empty: name the folder of *.jsonl files")
    name = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:12]
    state = running.settings.data / "connect" / f"manifest-{name}"
    _relay(running, lambda _partitions: Manifest(folder, state), running.settings.poll_s)


def _outbox(running: Running) -> None:
    settings = running.settings
    text = settings.outbox_url.get_secret_value()
    if not text:
        raise Misconfigured("outbox_url (KEYMILL_OUTBOX_URL) is empty: name the database that has the outbox's table")
    url = sql.parse_url(text, "outbox_url")

    def outbox(partitions: int) -> Source:
        source = SqlOutbox(url, settings.outbox_table, partitions=partitions, batch=settings.outbox_batch)
        running.pulse.watches(source.oldest.age_s)
        return source

    _relay(running, outbox, settings.outbox_poll_ms / 1000)


def _relay(running: Running, make: Callable[[int], Source], poll_s: float) -> None:
    bootstrap = running.settings.bootstrap
    assets = require_topics(bootstrap, [topics.ASSETS.name])[topics.ASSETS.name]
    publisher = Publisher(bootstrap, {assets.topic: assets.partitions})
    with closing(publisher), closing(make(assets.partitions)) as source:
        publisher.start()
        log.info("connector started")
        relay(source, publisher, stop=running.stop, poll_s=poll_s, once=running.once, pulse=running.pulse)


def _archive(running: Running) -> None:
    settings = running.settings
    adopted = require_topics(settings.bootstrap, ARCHIVED)
    url = archive_url(settings.archive_url.get_secret_value(), settings.data)
    tail = WholeTail({"bootstrap.servers": settings.bootstrap}, ARCHIVED, most=settings.archive_batch)
    with closing(tail), closing(SqlArchive(ArchiveWriter(url, adopted))) as sink:
        log.info("connector started", archive=sql.name_of(url))
        drain(tail, sink, stop=running.stop, once=running.once, pulse=running.pulse)


CONNECTORS: Final[dict[str, Callable[[Running], None]]] = {
    "manifest": _manifest,
    "sql-archive": _archive,
    "sql-outbox": _outbox,
}
