"""
The processor: a Faust worker beside a follower that keeps its view.

A start: (1) settings, keys and topics, (2) the follower's first catch-up, (3) only then the consumer group. It ends
on SIGTERM with 0, on anything unexpected with 1, and what was not committed is read again by the next worker.
"""

import asyncio
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

from keymill import telemetry
from keymill.config import ProcessorSettings
from keymill.errors import Misconfigured
from keymill.http.server import announce, listen, url_of
from keymill.kafka.admin import require_topics
from keymill.kafka.authentication import install
from keymill.kafka.producer import Publisher
from keymill.kafka.reporting import Reporter, held_keks, reporter_of
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.kms.record_keys import record_keys_of
from keymill.snapshot import gauges
from keymill.snapshot.follower import Follower
from keymill.snapshot.observed import Observed
from keymill.snapshot.reader import SnapshotReader
from keymill.snapshot.store import GIB
from schemas import topics
from schemas.records import TopicAdopted
from streams.agents import Agents, agents_of
from streams.app import App, agent, build_app
from streams.health import Health
from streams.owner import Owner
from streams.registry import SchemaRegistry
from streams.runs import TopicPartition
from streams.worker import run_worker

VIEW: Final = (topics.KEYS.name, topics.POLICIES.name, topics.CLAIMS.name)
TOPICS: Final = (
    topics.ASSETS.name, topics.POLICY_CHANGES.name, topics.REQUESTS.name, *VIEW, topics.DEAD_LETTERS.name,
)  # fmt: skip
REPAIR_S: Final = 1.0
"""How often the owner of a partition looks for regressions to repair."""
CATCH_UP_POLL_S: Final = 0.05

log = telemetry.logger("streams.main")


def run(settings: ProcessorSettings) -> int:
    """Run a processor until SIGTERM; returns the exit code."""
    telemetry.configure("processor", settings.log_level)
    # (1)
    _check(settings)
    stop = _Stop()
    install(record_keys_of(settings.keys_path))
    adopted = require_topics(settings.bootstrap, TOPICS)
    keyring = Keyring(KeyFile(settings.keys_path))
    bound = listen(settings.host, settings.processor_port)
    # (2)
    folder = settings.data / "views" / f"processor-{settings.instance_id or 'single'}"
    with (
        Health(settings, bound) as health,
        _follower(settings, folder) as follower,
        SnapshotReader(folder) as reader,
        closing(_publisher(settings, adopted)) as publisher,
        _reporter(settings, folder, keyring, health),
    ):
        stop.tells(health.stopping)
        announce(url_of(bound, settings))
        if not _await_view(reader, follower, stop, health):
            return 0
        # (3)
        health.waits_for = "the group has not assigned partitions yet"
        registry = SchemaRegistry(settings.registry_url) if settings.registry_url else None
        if registry:
            health.trouble = lambda: registry.trouble
        agents = agents_of(settings, adopted, keyring, reader, publisher, registry)
        app = _app(settings, agents, reader, follower, health)
        return run_worker(app, stop_asked=lambda: stop.asked, on_stop=health.stopping)


def _reporter(settings: ProcessorSettings, folder: Path, keyring: Keyring, health: Health) -> Reporter:
    view = Observed(SnapshotReader(folder))
    return reporter_of(settings, "processor", lambda: view.look(health.reason(), held_keks(keyring.hold_all())))


def _follower(settings: ProcessorSettings, folder: Path) -> Follower:
    size = settings.map_size_gib * GIB
    return Follower(
        folder, VIEW, _client(settings), key_file=settings.keys_path, map_size=size, log_level=settings.log_level
    )


def _client(settings: ProcessorSettings) -> dict[str, str | int | bool]:
    return {"bootstrap.servers": settings.bootstrap}


def _publisher(settings: ProcessorSettings, adopted: Mapping[str, TopicAdopted]) -> Publisher:
    partitions = {name: topic.partitions for name, topic in adopted.items()}
    publisher = Publisher(settings.bootstrap, partitions, delivery_timeout_s=settings.delivery_timeout_s)
    publisher.start()
    return publisher


def _check(settings: ProcessorSettings) -> None:
    if not settings.bootstrap:
        raise Misconfigured("bootstrap (KEYMILL_BOOTSTRAP) is empty: name the Kafka brokers, or run `keymill up`")
    if settings.delivery_timeout_s >= settings.session_timeout_s:
        raise Misconfigured(
            "delivery_timeout_s must be below session_timeout_s: a send must end before its partition moves"
        )


class _Stop:
    """SIGTERM while the view catches up, before Faust has handlers of its own."""

    def __init__(self) -> None:
        self.asked = False
        self._told: Callable[[], None] = lambda: None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def tells(self, told: Callable[[], None]) -> None:
        """Have *told* called at the signal, or now if it came already."""
        self._told = told
        if self.asked:
            told()

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        self._told()


def _await_view(reader: SnapshotReader, follower: Follower, stop: _Stop, health: Health) -> bool:
    while not (state := reader.state()).live:
        if stop.asked:
            return False
        health.waits_for = state.error or f"the view is catching up, {state.behind} records behind"
        follower.tend()
        _require_following(follower, state.error)
        time.sleep(CATCH_UP_POLL_S)
    return True


def _require_following(follower: Follower, error: str | None) -> None:
    if follower.failure or error:
        raise Misconfigured(f"the view of {' and '.join(VIEW)} has stopped: {error or follower.failure}")


def _app(
    settings: ProcessorSettings, agents: Agents, reader: SnapshotReader, follower: Follower, health: Health
) -> App:
    owners = {each.owner for each in agents}

    def assigned(tps: frozenset[TopicPartition]) -> None:
        health.waits_for = None
        for owner in owners:
            owner.assigned(tps)

    def revoked(_tps: frozenset[TopicPartition]) -> None:
        for owner in owners:
            owner.revoked()

    app = build_app(
        bootstrap=settings.bootstrap,
        app_id=settings.group,
        group_instance_id=settings.instance_id or None,
        session_timeout_s=settings.session_timeout_s,
        expiring_topics=frozenset({topics.REQUESTS.name}),  # a request that nobody executed in 30 days is asked again
        on_assigned=assigned,
        on_revoked=revoked,
    )
    for each in agents:
        agent(app, each.source.name, each.handle)
    app.task(partial(_tend, app, owners, reader, follower, health))
    return app


async def _tend(app: App, owners: set[Owner[Any]], reader: SnapshotReader, follower: Follower, health: Health) -> None:
    """About once a second: say that the loop goes on, look after the follower, repair regressions."""
    while not app.should_stop:
        await asyncio.sleep(REPAIR_S)
        health.beat()
        follower.tend()
        state = reader.state()
        gauges.show(state)
        health.view_trouble = state.degraded()
        telemetry.CONSUMER_BEHIND.set(app.behind())
        telemetry.CONSUMER_WAITING.set(app.waiting_s(time.time_ns() // 1_000_000))
        _require_following(follower, state.error)
        for owner in owners:
            await owner.repair()
