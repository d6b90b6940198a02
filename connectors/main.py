"""`keymill connect NAME`: one connector as a program."""

import signal
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Final

from connectors.contract import Source
from connectors.manifest import Manifest
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
from keymill.kafka.producer import Publisher
from keymill.kafka.whole import WholeTail
from schemas import topics

log = telemetry.logger("connectors.main")


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
    if not settings.bootstrap:
        raise Misconfigured("bootstrap (KEYMILL_BOOTSTRAP) is empty: name the Kafka brokers, or run `keymill up`")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if once:  # it ends by itself, says nothing of itself where one that stays does, and stdout is its command's
        CONNECTORS[name](settings, stop, once)
    else:
        with standing(name, settings, stop) as url:
            announce(url)
            CONNECTORS[name](settings, stop, once)
    log.info("connector stopped", connector=name)
    return 0


def _manifest(settings: ConnectSettings, stop: threading.Event, once: bool) -> None:
    if settings.manifest_dir is None:
        raise Misconfigured("manifest_dir (KEYMILL_MANIFEST_DIR) is empty: name the folder of *.jsonl files")
    folder = settings.manifest_dir
    _relay(settings, lambda _partitions: Manifest(folder), settings.poll_s, stop, once)


def _outbox(settings: ConnectSettings, stop: threading.Event, once: bool) -> None:
    text = settings.outbox_url.get_secret_value()
    if not text:
        raise Misconfigured("outbox_url (KEYMILL_OUTBOX_URL) is empty: name the database that has the outbox's table")
    url = sql.parse_url(text, "outbox_url")

    def outbox(partitions: int) -> Source:
        return SqlOutbox(url, settings.outbox_table, partitions=partitions, batch=settings.outbox_batch)

    _relay(settings, outbox, settings.outbox_poll_ms / 1000, stop, once)


def _relay(
    settings: ConnectSettings, make: Callable[[int], Source], poll_s: float, stop: threading.Event, once: bool
) -> None:
    assets = require_topics(settings.bootstrap, [topics.ASSETS.name])[topics.ASSETS.name]
    publisher = Publisher(settings.bootstrap, {assets.topic: assets.partitions})
    with closing(publisher), closing(make(assets.partitions)) as source:
        publisher.start()
        log.info("connector started")
        relay(source, publisher, stop=stop, poll_s=poll_s, once=once)


def _archive(settings: ConnectSettings, stop: threading.Event, once: bool) -> None:
    adopted = require_topics(settings.bootstrap, ARCHIVED)
    url = archive_url(settings.archive_url.get_secret_value(), settings.data)
    tail = WholeTail({"bootstrap.servers": settings.bootstrap}, ARCHIVED, most=settings.archive_batch)
    with closing(tail), closing(SqlArchive(ArchiveWriter(url, adopted))) as sink:
        log.info("connector started", archive=sql.name_of(url))
        drain(tail, sink, stop=stop, once=once)


CONNECTORS: Final[dict[str, Callable[[ConnectSettings, threading.Event, bool], None]]] = {
    "manifest": _manifest,
    "sql-archive": _archive,
    "sql-outbox": _outbox,
}
