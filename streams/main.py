"""
The processor: a Faust worker beside a follower that keeps its view.

A start: (1) settings and topics, (2) keys, (3) the follower's first catch-up, (4) only then the consumer group. It ends
on SIGTERM with 0, on anything unexpected with 1, and what was not committed is read again by the next worker.
"""

import asyncio
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from types import FrameType
from typing import Final

from starlette.applications import Starlette

from keymill import telemetry
from keymill.config import ProcessorSettings
from keymill.errors import Misconfigured
from keymill.http.health import Readiness, health_routes
from keymill.http.server import announce, dress, listen, serve_beside, url_of
from keymill.kafka.admin import end_offsets, require_topics
from keymill.kafka.producer import Publisher
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.snapshot import gauges
from keymill.snapshot.follower import Follower
from keymill.snapshot.reader import SnapshotReader
from keymill.snapshot.store import GIB
from schemas import framing, topics
from schemas.records import TopicAdopted
from streams import decide, policies
from streams.app import App, agent, build_app
from streams.policies import PolicyKeeper
from streams.provision import Provisioner
from streams.registry import registry_lookup
from streams.runs import TopicPartition
from streams.worker import run_worker

VIEW: Final = (topics.KEYS.name, topics.POLICIES.name)
TOPICS: Final = (topics.ASSETS.name, topics.POLICY_CHANGES.name, *VIEW, topics.DEAD_LETTERS.name)
Agents = tuple[Provisioner, PolicyKeeper]
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
    adopted = require_topics(settings.bootstrap, TOPICS)
    bound = listen(settings.host, settings.processor_port)
    announce(url_of(bound, settings))
    # (2)
    keyring = Keyring(KeyFile(settings.keys_path))
    # (3)
    folder = settings.data / "views" / f"processor-{settings.instance_id or 'single'}"
    size = settings.map_size_gib * GIB
    with (
        Follower(folder, VIEW, _client(settings), map_size=size, log_level=settings.log_level) as follower,
        SnapshotReader(folder) as reader,
        closing(_publisher(settings, adopted)) as publisher,
    ):
        if not _await_view(reader, follower, stop):
            return 0
        # (4)
        agents = _agents(settings, adopted, keyring, reader, publisher)
        app = _app(settings, agents, reader, follower)
        app.task(partial(_serve_health, app, settings, bound))
        return run_worker(app, stop_asked=lambda: stop.asked)


def _client(settings: ProcessorSettings) -> dict[str, str | int | bool]:
    return {"bootstrap.servers": settings.bootstrap}


def _publisher(settings: ProcessorSettings, adopted: Mapping[str, TopicAdopted]) -> Publisher:
    partitions = {name: topic.partitions for name, topic in adopted.items()}
    publisher = Publisher(settings.bootstrap, partitions, delivery_timeout_s=settings.delivery_timeout_s)
    publisher.start()
    return publisher


def _agents(
    settings: ProcessorSettings,
    adopted: Mapping[str, TopicAdopted],
    keyring: Keyring,
    reader: SnapshotReader,
    publisher: Publisher,
) -> Agents:
    assets, changes = adopted[topics.ASSETS.name], adopted[topics.POLICY_CHANGES.name]
    decoder = partial(framing.decode_event, registry=registry_lookup(settings.registry_url))
    return (
        Provisioner(
            decider=decide.Decider(keyring, decoder, partitions=assets.partitions, generation=assets.generation),
            reader=reader,
            publisher=publisher,
            end_offset=partial(_end_offset, settings.bootstrap, topics.KEYS.name),
            partitions=assets.partitions,
        ),
        PolicyKeeper(
            decider=policies.Decider(keyring, partitions=changes.partitions, generation=changes.generation),
            reader=reader,
            publisher=publisher,
            end_offset=partial(_end_offset, settings.bootstrap, topics.POLICIES.name),
            partitions=changes.partitions,
        ),
    )


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
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True


def _await_view(reader: SnapshotReader, follower: Follower, stop: _Stop) -> bool:
    while not (state := reader.state()).live:
        if stop.asked:
            return False
        follower.tend()
        _require_following(follower, state.error)
        time.sleep(CATCH_UP_POLL_S)
    return True


def _require_following(follower: Follower, error: str | None) -> None:
    if follower.failure or error:
        raise Misconfigured(f"the view of {' and '.join(VIEW)} has stopped: {error or follower.failure}")


def _end_offset(bootstrap: str, topic: str, partition: int) -> int:
    return end_offsets(bootstrap, topic)[partition]


def _app(settings: ProcessorSettings, agents: Agents, reader: SnapshotReader, follower: Follower) -> App:
    def assigned(tps: frozenset[TopicPartition]) -> None:
        for each in agents:
            each.assigned(tps)

    def revoked(tps: frozenset[TopicPartition]) -> None:
        for each in agents:
            each.revoked(tps)

    async def repair() -> None:
        while not app.should_stop:
            await asyncio.sleep(REPAIR_S)
            follower.tend()
            state = reader.state()
            gauges.show(state)
            _require_following(follower, state.error)
            for each in agents:
                await each.repair()

    app = build_app(
        bootstrap=settings.bootstrap,
        app_id=settings.group,
        group_instance_id=settings.instance_id or None,
        session_timeout_s=settings.session_timeout_s,
        on_assigned=assigned,
        on_revoked=revoked,
    )
    for each in agents:
        agent(app, each.source.name, each.handle)
    app.task(repair)
    return app


async def _serve_health(app: App, settings: ProcessorSettings, bound: socket.socket) -> None:
    readiness = Readiness(lambda: None if app.consumer and app.consumer.assignment() is not None else "no group yet")
    web = Starlette(routes=health_routes(readiness))
    await serve_beside(dress(web, program="processor"), settings=settings, bound=bound)
