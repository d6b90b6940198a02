"""
Everything of Faust, mode and aiokafka that the transport replaces or leans on.

After an upgrade the hashes name what has changed. Read each of those functions against `streams/fetch.py`,
`streams/transport.py`, `streams/app.py` and `streams/worker.py`, run tests/kafka, and only then write the new hashes:
`python tests/unit/test_faust_pins.py`.
"""

import asyncio
import hashlib
import inspect
import json
import os
import subprocess
import sys
from collections import OrderedDict
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.cluster import ClusterMetadata
from aiokafka.consumer.fetcher import Fetcher, FetchResult
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from faust.transport.drivers import TRANSPORTS
from faust.types import TP, ConsumerMessage
from mode.supervisors import CrashingSupervisor

from streams.app import agent, build_app
from streams.fetch import FETCH_WAIT_MS, RunThread
from streams.runs import RawRecord, Run
from streams.transport import OPEN_RUNS_MAX, SCHEME, RunConsumer, Transport

VERSIONS = {"faust-streaming": "0.15.3", "mode-streaming": "0.7.1", "aiokafka": "0.14.0"}
HASHES = Path(__file__).with_name("faust_pins.json")

PINNED = {
    # What decides about delivery, positions and commits, and is overridden.
    "faust.transport.consumer:Consumer": (
        "getmany _wait_next_records _drain_messages perform_seek seek stop_flow resume_flow pause_partitions "
        "resume_partitions _set_active_tps _reset_state on_buffer_full on_buffer_drop wait_empty commit force_commit "
        "_commit_tps _commit_offsets _new_offset ack on_task_error on_stop on_partitions_revoked "
        "on_partitions_assigned commit_and_end_transactions verify_event_path _commit_handler"
    ),
    "faust.transport.consumer:Fetcher": "_fetcher on_stop",
    "faust.transport.consumer:ThreadDelegateConsumer": (
        "_getmany _commit threadsafe_partitions_revoked threadsafe_partitions_assigned _seek"
    ),
    "faust.transport.drivers.aiokafka:Consumer": "_new_consumer_thread _to_message on_stop",
    "faust.transport.drivers.aiokafka:ConsumerRebalanceListener": "on_partitions_revoked on_partitions_assigned",
    "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread": (
        "__post_init__ on_start on_thread_stop _create_worker_consumer subscribe seek_to_committed commit _commit "
        "getmany _fetch_records assignment seek _ensure_consumer"
    ),
    # Who calls it, in which order.
    "faust.app.base:App": (
        "_on_partitions_revoked _on_partitions_assigned _stop_consumer _consumer_wait_empty _stop_fetcher "
        "on_started on_rebalance_start on_rebalance_end on_stop _create_directories _on_agent_error create_event"
    ),
    "faust.app.base:BootStrategy": "server kafka_producer kafka_consumer web_server _should_enable_web sensors",
    "faust.tables.recovery:Recovery": "_resume_streams _restart_recovery on_rebalance",
    "faust.transport.conductor:ConductorCompiler": "build",
    "faust.transport.conductor:Conductor": "_compile_message_handler acks_enabled_for _subscriber",
    "faust.streams:Stream": "__aiter__ _c_aiter _py_aiter noack events",
    "faust.agents.agent:Agent": "_execute_actor _prepare_actor on_stop cancel",
    "faust.agents.manager:AgentManager": "stop cancel on_stop",
    "faust.serializers.schemas:Schema": "compile",
    "faust.types.settings.base:SettingsRegistry": "_init_settings",
    "faust.types.settings.settings:Settings": "_init_env_prefix getenv",
    # How the worker starts, crashes and ends.
    "faust.worker:Worker": "__init__ on_start on_startup_finished _flag_as_shutdown_by_signal on_worker_shutdown",
    "mode.worker:Worker": (
        "default_on_first_start install_signal_handlers _install_signal_handlers_unix _schedule_shutdown "
        "_stop_on_signal execute_from_commandline stop_and_shutdown _shutdown_loop on_started"
    ),
    "mode.supervisors:CrashingSupervisor": "_contribute_to_service wakeup",
    "mode.services:Service": "crash _crash stop wait_first _execute_task",
    "mode.threads:ServiceThread": "_serve stop _shutdown_thread _gather_remaining_tasks",
    "mode.threads:QueueServiceThread": "call_thread on_thread_stop",
    "mode.utils.queues:FlowControlQueue": "put_nowait_enhanced in_pressure_high_state",
    # aiokafka's private parts that `streams.fetch` names.
    "aiokafka.consumer.fetcher:Fetcher": (
        "fetched_records _create_fetch_waiter seek_to _get_actions_per_node _proc_fetch_request close _notify"
    ),
    "aiokafka.consumer.fetcher:FetchResult": "check_assignment _update_position getall has_more",
    "aiokafka.consumer.fetcher:PartitionRecords": "_unpack_records",
    "aiokafka.consumer.subscription_state:SubscriptionState": "fetch_context reassignment_in_progress is_assigned",
    "aiokafka.consumer.subscription_state:TopicPartitionState": "consumed_to reset_to seek position",
    "aiokafka.consumer.consumer:AIOKafkaConsumer": "start stop commit committed seek assignment beginning_offsets",
    "aiokafka.consumer.group_coordinator:GroupCoordinator": (
        "commit_offsets _do_commit_offsets _on_join_prepare _do_heartbeat reset_generation"
    ),
    "aiokafka.coordinator.assignors.range:RangePartitionAssignor": "assign",
}
CYTHON_SOURCES = ("_cython/streams.pyx", "transport/_cython/conductor.pyx")


def hashes() -> dict[str, str]:
    """SHA-256 of the source of everything pinned."""
    found = {}
    for owner, names in PINNED.items():
        module, _, cls = owner.partition(":")
        for name in names.split():
            member = inspect.getattr_static(getattr(import_module(module), cls), name)
            member = getattr(member, "fun", member)  # mode's @Service.task
            member = getattr(member, "__func__", getattr(member, "fget", member))
            source = inspect.getsource(inspect.unwrap(member))
            found[f"{owner}.{name}"] = hashlib.sha256(source.encode()).hexdigest()
    folder = Path(inspect.getfile(import_module("faust"))).parent
    for name in CYTHON_SOURCES:
        found[f"faust/{name}"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return found


def test_the_versions_are_the_ones_that_were_read():
    """Another version of Faust, mode or aiokafka must be read before it is used."""
    assert {name: version(name) for name in VERSIONS} == VERSIONS


def test_no_function_we_rely_on_has_changed():
    """The sources are those that were read; the difference names what to read again."""
    pinned = json.loads(HASHES.read_text())
    found = hashes()
    assert {name for name in pinned.keys() | found.keys() if pinned.get(name) != found.get(name)} == set()


def test_faust_finds_the_transport_by_its_scheme():
    """`keymill+kafka://` is ours; so is the consumer that the app makes."""
    app = build_app(bootstrap="127.0.0.1:9,127.0.0.1:10", app_id="pins")
    assert TRANSPORTS.by_url(f"{SCHEME}://127.0.0.1:9") is Transport
    assert isinstance(app.transport, Transport)
    assert [(url.host, url.port) for url in app.transport.url] == [("127.0.0.1", 9), ("127.0.0.1", 10)]


def test_the_environment_does_not_reach_faust(monkeypatch: pytest.MonkeyPatch):
    """Faust lets its environment variables win over arguments; ours pass it an empty environment."""
    for name in ("WEB_ENABLED", "BROKER_URL", "PROCESSING_GUARANTEE", "STREAM_WAIT_EMPTY", "TOPIC_ALLOW_DECLARE"):
        monkeypatch.setenv(name, "exactly_once" if name == "PROCESSING_GUARANTEE" else "1")
    app = build_app(bootstrap="127.0.0.1:9", app_id="pins")
    assert not app.conf.web_enabled
    assert not app.conf.topic_allow_declare
    assert app.conf.processing_guarantee.value == "at_least_once"
    assert str(app.conf.broker[0]) == f"{SCHEME}://127.0.0.1:9"


def test_the_app_starts_nothing_but_consumer_agents_and_conductor():
    """No web server, no producer, no leader or reply topic; agents crash the worker; no data folder."""

    async def services() -> list[str]:
        app = build_app(bootstrap="127.0.0.1:9", app_id="pins")
        agent(app, "topic", lambda run: asyncio.sleep(0))
        agents = list(app.agents.values())
        assert [a.supervisor_strategy for a in agents] == [CrashingSupervisor]
        assert [a.concurrency for a in agents] == [1]
        assert agents[0].channel.acks is False
        app._create_directories()
        assert not app.conf.datadir.exists()
        return [type(service).__name__ for service in app.boot_strategy.server()]

    assert asyncio.run(services()) == ["RunConsumer", "AgentManager", "Conductor", "TableManager"]


@pytest.mark.parametrize(("env", "expected"), [({}, "True"), ({"NO_CYTHON": "1"}, "False")], ids=["cython", "python"])
def test_both_stream_iterators_are_in_reach(env: dict[str, str], expected: str):
    """Faust takes the Cython iterator and conductor where they were built, unless NO_CYTHON is set."""
    program = (
        "import faust.streams as s, faust.transport.conductor as c;"
        "print(s._CStreamIterator is not None and c.ConductorHandler is not None)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **env}, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == expected


def in_loop(check: Any) -> None:
    """Build an app with its consumer inside a running loop and hand it to *check*."""

    async def scenario() -> None:
        app = build_app(bootstrap="127.0.0.1:9", app_id="pins", group_instance_id="one", session_timeout_s=30)
        app.finalize()
        check(app, app.consumer)
        app.consumer._thread.thread_loop.close()

    asyncio.run(scenario())


def test_the_consumer_is_set_up_as_we_need_it():
    """Range assignment, read_committed, a short long poll, static membership: settings that aiokafka reads at start."""

    def check(app: Any, consumer: Any) -> None:
        assert isinstance(consumer, RunConsumer)
        assert isinstance(consumer._thread, RunThread)
        kafka = consumer._thread._create_worker_consumer(app.transport)
        assert [assignor.name for assignor in kafka._partition_assignment_strategy] == ["range"]
        assert kafka._isolation_level == "read_committed"
        assert kafka._fetch_max_wait_ms == FETCH_WAIT_MS
        assert kafka._group_instance_id == "one"
        assert kafka._session_timeout_ms == 30_000
        assert kafka._max_poll_records == 1000
        assert kafka._enable_auto_commit is False
        source = inspect.getsource(type(kafka).start)
        for name in ("_partition_assignment_strategy", "_isolation_level", "_fetch_max_wait_ms"):
            assert f"self.{name}" in source

    in_loop(check)


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 12, 13])
def test_equal_partition_numbers_are_one_workers(workers: int):
    """Requests reach the worker that writes the keys: range hands out each topic alike, whoever the members are."""
    names = ("drm.assets.v1", "drm.policy-changes.v1", "drm.requests.v1")
    members = {f"member-{n}": ConsumerProtocolMemberMetadata(0, list(names), b"") for n in range(workers)}
    cluster = ClusterMetadata()
    cluster.partitions_for_topic = lambda _topic: set(range(12))  # type: ignore[method-assign]
    for assigned in RangePartitionAssignor.assign(cluster, members).values():
        mine = {topic: sorted(partitions) for topic, partitions in assigned.assignment}
        assert all(mine.get(name, []) == mine.get(names[0], []) for name in names)


def test_only_the_ledger_moves_commits():
    """Faust's acknowledgements are bookkeeping; its own way to the broker is closed."""

    def check(app: Any, consumer: Any) -> None:
        app.fence.ledger.assign(("t", 0), generation=1, position=0)
        message = ConsumerMessage("t", 0, 5, 0.0, 0, None, None, None, None, 0, 0, TP("t", 0))
        consumer.track_message(message)
        assert consumer.ack(message) is False
        assert (list(consumer._unacked_messages), dict(consumer._acked)) == ([], {})
        assert consumer._new_offset(("t", 0)) is None
        with pytest.raises(RuntimeError):
            consumer._commit({("t", 0): 1}).send(None)

    in_loop(check)


def test_room_is_counted_per_topic():
    """A topic with four open runs is left out of the appetite, another one is not; paused partitions are."""

    def check(app: Any, consumer: Any) -> None:
        wanted: list[Any] = []
        consumer._thread.want = wanted.append
        full, free, paused = TP("full", 0), TP("free", 0), TP("free", 1)
        for tp in (full, free, paused):
            app.fence.ledger.assign(tp, generation=1, position=0)
            consumer._turns[tp] = None
        consumer._active_partitions = {full, free}
        stamp = app.fence.ledger.stamp(full)
        for n in range(OPEN_RUNS_MAX):
            run = Run("full", 0, 1, stamp.epoch, n, n + 1, [RawRecord("full", 0, n, 0, 1, None, b"v", ())], 1)
            assert app.fence.ledger.deliver(run)
        consumer.resume_flow()
        assert set(wanted[-1].stamps) == {free}
        consumer.on_buffer_drop(TP("revoked", 7))
        assert set(wanted[-1].stamps) == {free}
        app.fence.mark_done(run)
        assert set(wanted[-1].stamps) == {free, full}
        assert wanted[-1].slots["full"] == 1
        consumer.stop_flow()
        assert wanted[-1].stamps == {}

    in_loop(check)


def test_a_take_never_suspends():
    """With timeout 0 `fetched_records` returns in one step, so no seek or rebalance of its loop comes in between."""
    fetcher = Fetcher.__new__(Fetcher)
    fetcher._subscriptions = SimpleNamespace(reassignment_in_progress=False, is_assigned=lambda tp: True)
    fetcher._records = OrderedDict()
    fetcher._wait_consume_future = None
    assert _in_one_step(fetcher.fetched_records([("t", 0)], timeout=0, max_records=10)) == {}
    state = SimpleNamespace(paused=False, position=3, consumed_to=lambda position: None)
    assignment = SimpleNamespace(active=True, state_value=lambda tp: state)

    class Records:
        next_fetch_offset = 3

        def __iter__(self) -> Any:
            return iter(("a", "b"))

    fetcher._records["t", 0] = FetchResult(("t", 0), assignment=assignment, partition_records=Records(), backoff=0)
    assert _in_one_step(fetcher.fetched_records([("t", 0)], timeout=0, max_records=10)) == {("t", 0): ["a", "b"]}


def _in_one_step(coroutine: Any) -> Any:
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    return ended.value.value


if __name__ == "__main__":
    HASHES.write_text(json.dumps(hashes(), indent=1, sort_keys=True) + "\n")
