"""
The Faust application, as the processor uses it; `streams.worker` runs it.

Everything of Faust that is not wanted is off: web server, tables, reply topics, leader topic, producer, topic
declaration, autodiscovery, data folder, its command line and its reading of the environment.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import faust
from aiokafka.errors import IllegalStateError
from faust.app.base import BootStrategy
from faust.types import TP
from mode.supervisors import CrashingSupervisor

from streams.fence import Fence, Handler, HandlerEnded, PartitionsCallback
from streams.runs import Run
from streams.transport import SCHEME, register

COMMIT_INTERVAL_S = 0.5
SESSION_TIMEOUT_S = 45.0
"""Longer than the publisher's delivery.timeout.ms, so that a worker's sends end before its partitions can move."""

RUN_RECORDS_MAX = 1000
"""Records of one run at most: about 40 ms of work, so a drain of 5 s never cuts a healthy run."""

FETCH_BYTES_MAX = 1024 * 1024
"""
Bytes the broker sends per partition and fetch, or one record if that is larger: what aiokafka holds ahead of the
transport's own 32 MiB is this times the partitions.
"""

STREAM_QUEUE_MAX = 64
"""Never reached, the transport allows four runs; far above, so that Faust's own pressure callbacks stay silent."""

FIXED_SETTINGS: Mapping[str, Any] = {
    "env": MappingProxyType({}),  # Faust lets its environment variables win over arguments
    "processing_guarantee": "at_least_once",
    "agent_supervisor": CrashingSupervisor,
    "consumer_max_fetch_size": FETCH_BYTES_MAX,
    "consumer_auto_offset_reset": "earliest",
    "stream_buffer_maxsize": STREAM_QUEUE_MAX,
    "stream_wait_empty": True,
    "table_standby_replicas": 0,
    "topic_allow_declare": False,
    "topic_disable_leader": True,
    "reply_create_topic": False,
    "autodiscover": False,
    "web_enabled": False,
    "key_serializer": "raw",
    "value_serializer": "raw",
}


class _Boot(BootStrategy):
    enable_web = False
    enable_kafka_producer = False
    enable_sensors = False

    def kafka_consumer(self) -> Iterable[Any]:
        return [self.app.consumer]  # without the leader assignor and the reply consumer


class _RunSchema(faust.Schema[Any, Any]):
    """Passes a run on as it is: nothing is decoded by Faust."""

    def compile(self, app: Any, **_kwargs: Any) -> Any:
        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return app.create_event(None, message.value, None, message)

        return decode


class App(faust.App):
    """A Faust app with a fence."""

    BootStrategy = _Boot

    fence: Fence
    whole: asyncio.Event
    """Set when every service of the app has begun: what Faust is told to stop before, it leaves behind half-begun."""
    expiring_topics: frozenset[str] = frozenset()

    def behind(self) -> int:
        """Records that wait for a worker's hand, as far as the last fetch of each of its partitions knew the end."""
        waiting = 0
        for tp in self.fence.ledger.assigned():
            with contextlib.suppress(IllegalStateError):  # it was taken away this moment
                end = self.consumer.highwater(TP(*tp))
                waiting += max(0, (end or 0) - (self.fence.ledger.position(tp) or 0))
        return waiting

    def waiting_s(self, now_ms: int) -> float:
        """Return the age of the oldest record that is read and not done with, seconds."""
        oldest = self.fence.ledger.oldest_ms()
        return 0.0 if oldest is None else max(0.0, (now_ms - oldest) / 1000)

    async def on_started(self) -> None:
        """All services have begun; what follows waits for the first assignment."""
        self.whole.set()
        await super().on_started()

    def _create_directories(self) -> None:
        """Nothing: without tables there is nothing to store."""


def build_app(
    *,
    bootstrap: str,
    app_id: str,
    group_instance_id: str | None = None,
    session_timeout_s: float = SESSION_TIMEOUT_S,
    commit_interval_s: float = COMMIT_INTERVAL_S,
    run_records_max: int = RUN_RECORDS_MAX,
    expiring_topics: frozenset[str] = frozenset(),
    on_assigned: PartitionsCallback | None = None,
    on_revoked: PartitionsCallback | None = None,
    ssl_context: ssl.SSLContext | None = None,
    credentials: Any = None,
) -> App:
    """
    Build the app; add agents with `agent`, start it with `streams.worker.run_worker`.

    Args:
        bootstrap: host:port, several separated by commas.
        app_id: the consumer group's id.
        group_instance_id: static membership (KIP-345), one per worker; None for a member that comes and goes.
        expiring_topics: topics whose retention may pass a committed offset; for any other that is `Corrupt`.
        on_assigned: called with the partitions of a new generation, before their runs.
        on_revoked: called before the drain, on rebalance and once on shutdown.
        credentials: Faust's, for SASL.
    """
    register()
    app = App(
        app_id,
        broker=[f"{SCHEME}://{host.strip()}" for host in bootstrap.split(",")],
        broker_credentials=credentials,
        ssl_context=ssl_context,
        broker_commit_interval=commit_interval_s,
        broker_session_timeout=session_timeout_s,
        broker_heartbeat_interval=min(3.0, session_timeout_s / 3),
        broker_request_timeout=max(90.0, session_timeout_s * 2),  # Faust refuses less than the session timeout
        broker_max_poll_records=run_records_max,
        consumer_group_instance_id=group_instance_id,
        **FIXED_SETTINGS,
    )
    callbacks = {"on_assigned": on_assigned, "on_revoked": on_revoked}
    app.fence = Fence(**{name: callback for name, callback in callbacks.items() if callback is not None})
    app.whole = asyncio.Event()
    app.expiring_topics = expiring_topics
    return app


def agent(app: App, topic: str, handler: Handler) -> None:
    """
    Have *handler* process every run of *topic*: one at a time, each partition in order.

    A run is marked done when the handler returns. If the handler raises, or the agent ends for any other reason while
    the worker is not stopping, the worker exits non-zero and commits nothing further.
    """
    channel = app.topic(topic, schema=_RunSchema(), acks=False, internal=False)

    async def handle_runs(stream: Any) -> None:
        try:
            async for event in stream.noack().events():
                run: Run = event.value
                await app.fence.process(run, handler)
        except asyncio.CancelledError:
            if not app.should_stop:
                app.fence.halt(HandlerEnded(f"the agent of {topic} was cancelled"))
                raise
        if not app.should_stop:
            ended = HandlerEnded(f"the agent of {topic} ended by itself")
            app.fence.halt(ended)
            raise ended

    app.agent(channel, name=topic, concurrency=1, supervisor_strategy=CrashingSupervisor)(handle_runs)
