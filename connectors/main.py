"""`keymill connect NAME`: one connector as a program."""

import signal
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Final

from connectors.contract import Source
from connectors.manifest import Manifest
from connectors.runner import relay
from connectors.standing import standing
from keymill import telemetry
from keymill.config import ConnectSettings
from keymill.errors import Misconfigured
from keymill.kafka.admin import require_topics
from keymill.kafka.producer import Publisher
from schemas import topics

log = telemetry.logger("connectors.main")


def run(name: str, settings: ConnectSettings, *, once: bool = False) -> int:
    """
    Run a connector until SIGTERM, or with *once* until its source has nothing more; returns the exit code.

    Raises:
        Misconfigured: there is no such connector, or its settings, folder or topics are not what they must be.
    """
    telemetry.configure(f"connect-{name}", settings.log_level)
    if name not in SOURCES:
        raise Misconfigured(f"there is no connector {name}: one of {', '.join(SOURCES)}")
    if not settings.bootstrap:
        raise Misconfigured("bootstrap (KEYMILL_BOOTSTRAP) is empty: name the Kafka brokers, or run `keymill up`")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    adopted = require_topics(settings.bootstrap, [topics.ASSETS.name])
    publisher = Publisher(settings.bootstrap, {topic: each.partitions for topic, each in adopted.items()})
    with closing(SOURCES[name](settings)) as source, closing(publisher), standing(name, settings, stop):
        log.info("connector started", connector=name)
        relay(source, publisher, stop=stop, poll_s=settings.poll_s, once=once)
    log.info("connector stopped", connector=name)
    return 0


def _manifest(settings: ConnectSettings) -> Source:
    if settings.manifest_dir is None:
        raise Misconfigured("manifest_dir (KEYMILL_MANIFEST_DIR) is empty: name the folder of *.jsonl files")
    return Manifest(settings.manifest_dir)


SOURCES: Final[dict[str, Callable[[ConnectSettings], Source]]] = {"manifest": _manifest}
