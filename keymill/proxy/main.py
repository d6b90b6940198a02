"""
The license proxy as a program: one follower that fills the local copy, and HTTP workers that read it.

A start: (1) settings and key file, (2) the socket, (3) the follower, (4) the workers, which answer at once and say 503
until the copy has caught up. Brokers that are away keep none of it from starting: what the copy holds is served.
"""

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Final, TypeVar

from keymill import telemetry
from keymill.config import ProxySettings
from keymill.durable import own_folder
from keymill.errors import Misconfigured
from keymill.http.admin import listen_admin
from keymill.http.server import announce, listen, url_of
from keymill.kafka.authentication import install
from keymill.kafka.reporting import Observation, Reporter, held_keks, reporter_of
from keymill.kms.keyfile import KeyFile
from keymill.kms.record_keys import record_keys_of
from keymill.proxy.frozen import FrozenFile
from keymill.proxy.life import VIEW
from keymill.proxy.pool import Pool
from keymill.snapshot.follower import Follower
from keymill.snapshot.observed import Observed
from keymill.snapshot.reader import SnapshotReader
from keymill.snapshot.store import GIB
from keymill.trail import spool_folder
from keymill.trail.sender import sender_of
from schemas import topics

TOPICS: Final = tuple(
    topic.name for topic in (topics.KEYS, topics.POLICIES, topics.ENTITLEMENTS, topics.SERVICES, topics.CREDENTIALS)
)
S = TypeVar("S", bound=socket.socket | None)
TEND_S: Final = 0.05
PORT_WAIT_S: Final = 3.0
"""The workers of a proxy that was killed let go of its port within this."""


def run(settings: ProxySettings) -> int:
    """Run the proxy until SIGTERM; returns the exit code."""
    telemetry.configure("proxy", settings.log_level)
    stop = _stop_on_signal()
    # (1)
    settings.require_tls()
    if not settings.bootstrap:
        raise Misconfigured("bootstrap (KEYMILL_BOOTSTRAP) is empty: name the Kafka brokers, or run `keymill up`")
    KeyFile(settings.keys_path)
    install(record_keys_of(settings.keys_path))
    # (2)
    with _patiently(lambda: listen(settings.host, settings.proxy_port), stop) as bound:
        admin = _patiently(lambda: listen_admin(settings, settings.proxy_admin_port, bound), stop)
        with admin or nullcontext():
            _serve(settings, bound, admin, stop)
    return 0


def _serve(settings: ProxySettings, bound: socket.socket, admin: socket.socket | None, stop: threading.Event) -> None:
    folder = settings.data / "views" / VIEW
    client: dict[str, str | int | bool] = {"bootstrap.servers": settings.bootstrap}
    size = settings.map_size_gib * GIB
    # (3)
    key_file, level = settings.keys_path, settings.log_level
    with Follower(folder, TOPICS, client, key_file=key_file, map_size=size, log_level=level) as follower:
        # (4)
        pool = Pool(settings, bound, admin, parent=os.getpid(), environment=_environment(settings))
        counted = FrozenFile(pool.folder)
        counted.write()
        sender = sender_of(spool_folder(settings.data, VIEW), settings.bootstrap)
        with _reporter(settings, folder, pool, stop):
            try:
                pool.start()
                sender.start()
                pool.tend()
                announce(url_of(bound, settings), url_of(admin, settings) if admin else "")
                while not stop.wait(TEND_S):
                    follower.tend()
                    pool.tend()
                    counted.write()
            finally:
                pool.stop()
                sender.close()  # after the workers, whose last events it sends


def _reporter(settings: ProxySettings, folder: Path, pool: Pool, stop: threading.Event) -> Reporter:
    view = Observed(SnapshotReader(folder))

    def observe() -> Observation:
        standing = pool.standing()
        return view.look("the program is stopping" if stop.is_set() else standing.waits_for, held_keks(standing.keks))

    return reporter_of(settings, VIEW, observe)


def _patiently(listens: Callable[[], S], stop: threading.Event) -> S:
    deadline = time.monotonic() + PORT_WAIT_S
    while True:
        try:
            return listens()
        except Misconfigured:
            if time.monotonic() >= deadline or stop.wait(TEND_S):
                raise


def _environment(settings: ProxySettings) -> dict[str, str]:
    """The workers' environment: several of them share their metrics through files, which one does not need."""
    environment = {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    if settings.workers > 1:
        folder = settings.data / "views" / f"{VIEW}-metrics"
        _empty(folder)
        environment["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    return environment


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    own_folder(folder)


def _stop_on_signal() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
