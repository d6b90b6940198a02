"""The fence against a real broker: handlers that raise or hang, workers that come and go, topics that vanish."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker import embedded_kafka, running_broker
from tests.transport_workers import Broker, CommitWatch, WorkerProcess, wait_for, workers

SESSION_S = 6
"""The broker's lower limit (group.min.session.timeout.ms)."""


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with running_broker() as bootstrap:
        yield Broker(bootstrap)


def numbered(count: int, partitions: int = 12) -> dict[int, list[str]]:
    return {p: [f"{p}/{n}" for n in range(count)] for p in range(partitions)}


def offsets_of(runs: list[dict[str, object]], topic: str) -> set[tuple[int, int]]:
    return {(run["partition"], offset) for run in runs if run["topic"] == topic for offset in run["offsets"]}


@pytest.mark.parametrize(
    "no_cython", [pytest.param("", id="cython"), pytest.param("1", id="python", marks=pytest.mark.soak)]
)
def test_a_raising_handler_ends_the_worker(broker: Broker, tmp_path: Path, no_cython: str):
    """The process exits non-zero, nothing at or beyond the failed run is committed, and a restart does it all again."""
    topic = f"raise{no_cython}"
    broker.create(topic)
    broker.produce(topic, numbered(100))
    env = {"NO_CYTHON": no_cython} if no_cython else None
    with workers(tmp_path, bootstrap=broker.bootstrap, group=topic, topics=[topic], run_records_max=10) as start:
        watch = CommitWatch(broker, topic)
        worker = start(fault=f"raise:{topic}:55", env=env, work_s=0.02)
        assert worker.wait(20) == 1, worker.log()
        watch.close()
        watch.check(worker.runs())
        failed = worker.lines("start")[-1]
        assert all(at <= 100 for at in broker.committed(topic).values())
        assert broker.committed(topic).get((topic, failed["partition"]), 0) <= 50
        again = start(env=env)
        wait_for(
            lambda: offsets_of(worker.runs() + again.runs(), topic) == {(p, o) for p in range(12) for o in range(100)}
        )
        assert again.stop() == 0
    assert set(broker.committed(topic).values()) == {100}


def test_nothing_is_committed_after_a_failure(broker: Broker, tmp_path: Path):
    """Once one handler has failed, the other topic's finished runs are not committed either, nor on the way out."""
    broker.create("fails", "works")
    broker.produce("works", numbered(20))
    common = {"topics": ["fails", "works"], "run_records_max": 5, "commit_interval_s": 60}
    with workers(tmp_path, bootstrap=broker.bootstrap, group="after", **common) as start:
        worker = start(fault="raise:fails:0")
        wait_for(lambda: worker.handled() == 240)
        broker.produce("fails", {0: ["bad"]})
        assert worker.wait(20) == 1, worker.log()
        assert broker.committed("after") == {}
        again = start()
        wait_for(lambda: again.handled() == 241)
        assert again.stop() == 0
    assert sum(broker.committed("after").values()) == 241


@pytest.mark.parametrize("blocked", [False, True], ids=["idle", "blocked"])
def test_sigterm_ends_in_bounded_time(broker: Broker, tmp_path: Path, blocked: bool):
    """An idle worker ends at once, one with a blocked handler after the drain; both exit 0, the run stays un-acked."""
    topic = f"term-{blocked}"
    broker.create(topic)
    broker.produce(topic, numbered(3))
    with workers(tmp_path, bootstrap=broker.bootstrap, group=topic, topics=[topic]) as start:
        worker = start(fault=f"block:{topic}:{1 if blocked else 99}")
        wait_for(lambda: worker.lines("start") if blocked else worker.handled() == 36)
        time.sleep(0.2)
        begun = time.monotonic()
        assert worker.stop() == 0, worker.log()
        assert time.monotonic() - begun < (9 if blocked else 4)
        assert [line["what"] for line in worker.lines()[-3:]] == ["stopping", "revoked", "exit"]
        assert sum(broker.committed(topic).values()) == (0 if blocked else 36)


@pytest.mark.parametrize("heard", [[True], [False, True]], ids=["before", "while it starts"])
def test_a_signal_before_the_worker_is_not_lost(broker: Broker, tmp_path: Path, heard: list[bool]):
    """A program that was asked to stop before it started the worker, or while Faust starts, ends with exit code 0."""
    group = f"early{len(heard)}"
    broker.create(group)
    with workers(tmp_path, bootstrap=broker.bootstrap, group=group, topics=[group]) as start:
        crew = [start(stop_asked=heard) for _ in range(3)]  # at once: on a busy machine a start is easily overtaken
        assert [worker.wait(30) for worker in crew] == [0, 0, 0], crew[0].log()


def test_a_second_sigterm_ends_at_once(broker: Broker, tmp_path: Path):
    """While the drain waits for a blocked handler, another signal ends the process without it."""
    broker.create("twice")
    broker.produce("twice", numbered(1))
    with workers(tmp_path, bootstrap=broker.bootstrap, group="twice", topics=["twice"]) as start:
        worker = start(fault="block:twice:0")
        wait_for(lambda: worker.lines("start"))
        worker.signal(signal.SIGTERM)
        time.sleep(1)
        begun = time.monotonic()
        worker.signal(signal.SIGTERM)
        assert worker.wait(5) == 128 + signal.SIGTERM
        assert time.monotonic() - begun < 1


def test_a_blocked_handler_does_not_hold_up_a_rebalance(broker: Broker, tmp_path: Path):
    """When another worker joins, a handler that hangs is cancelled after the drain, un-acked; both workers go on."""
    broker.create("hang")
    broker.produce("hang", {0: ["hangs in one"], 11: ["fine"]})
    with workers(tmp_path, bootstrap=broker.bootstrap, group="hang", topics=["hang"]) as start:
        stuck = start(fault="block-once:hang:0", run_records_max=1)
        wait_for(lambda: stuck.lines("start"))
        begun = time.monotonic()
        other = start()
        wait_for(lambda: other.lines("assigned"))
        assert 4 < time.monotonic() - begun < 9
        wait_for(lambda: broker.committed("hang") == {("hang", 0): 1, ("hang", 11): 1})
        assert len([line for line in stuck.lines("start") + other.lines("start") if line["partition"] == 0]) == 2
        assert (stuck.stop(), other.stop()) == (0, 0)


def test_workers_join_and_leave_under_load(broker: Broker, tmp_path: Path):
    """One to three workers, one of them killed: nothing is lost, and no commit ever names an offset not yet durable."""
    broker.create("load")
    common = {"session_timeout_s": SESSION_S, "run_records_max": 20, "work_s": 0.02}
    with workers(tmp_path, bootstrap=broker.bootstrap, group="load", topics=["load"], **common) as start:
        first = start()
        watch = CommitWatch(broker, "load")
        wait_for(lambda: first.lines("assigned"))
        crew: list[WorkerProcess] = [first]
        for step in range(4):
            broker.produce("load", {p: [f"{step}/{p}/{n}" for n in range(250)] for p in range(12)})
            if step < 2:
                crew.append(start())
                wait_for(lambda: len(crew[-1].lines("assigned")) > 0)
            elif step == 2:
                crew[1].process.kill()
            else:
                assert crew[0].stop() == 0
        everything = {(p, o) for p in range(12) for o in range(1000)}
        wait_for(lambda: offsets_of([run for w in crew for run in w.runs()], "load") == everything, 60, 0.2)
        wait_for(lambda: set(broker.committed("load").values()) == {1000})
        watch.close()
        assert crew[2].stop() == 0
        watch.check([run for worker in crew for run in worker.runs()])


def test_a_zombie_commits_nothing(broker: Broker, tmp_path: Path):
    """A worker stopped for longer than its session and then continued neither moves nor resets a committed offset."""
    broker.create("zombie")
    broker.produce("zombie", numbered(50))
    common = {"session_timeout_s": SESSION_S, "run_records_max": 10, "work_s": 0.05}
    with workers(tmp_path, bootstrap=broker.bootstrap, group="zombie", topics=["zombie"], **common) as start:
        zombie = start()
        wait_for(lambda: zombie.handled() > 50)
        zombie.signal(signal.SIGSTOP)
        heir = start()
        watch = CommitWatch(broker, "zombie")
        wait_for(lambda: set(broker.committed("zombie").values()) == {50})
        broker.produce("zombie", numbered(50))
        zombie.signal(signal.SIGCONT)
        wait_for(lambda: len(zombie.lines("assigned")) == 2)
        wait_for(lambda: set(broker.committed("zombie").values()) == {100})
        watch.close()
        assert (zombie.stop(), heir.stop()) == (0, 0)
    watch.check(zombie.runs() + heir.runs())
    for (_, before), (_, after) in zip(watch.samples, watch.samples[1:], strict=False):
        assert all(after[tp] >= at for tp, at in before.items())


def test_a_recreated_topic_stops_the_worker(broker: Broker, tmp_path: Path):
    """A committed offset beyond the log's end ends the worker with a message; the offset is not moved."""
    broker.create("again", partitions=1)
    broker.produce("again", numbered(10, 1))
    with workers(tmp_path, bootstrap=broker.bootstrap, group="again", topics=["again"]) as start:
        worker = start()
        wait_for(lambda: broker.committed("again") == {("again", 0): 10})
        assert worker.stop() == 0
        broker.admin.alter_group_offsets("again", {_tp("again", 0): _offset(99)})
        late = start()
        assert late.wait(20) == 1
        assert "outside of the log" in late.log()
    assert broker.committed("again") == {("again", 0): 99}


def _tp(topic: str, partition: int) -> object:
    from kafka.structs import TopicPartition

    return TopicPartition(topic, partition)


def _offset(offset: int) -> object:
    from kafka.structs import OffsetAndMetadata

    return OffsetAndMetadata(offset, "", -1)


def test_a_static_member_restarts_without_a_rebalance(broker: Broker, tmp_path: Path):
    """With an instance id a worker that restarts within its session gets its partitions back."""
    broker.create("static")
    with workers(
        tmp_path, bootstrap=broker.bootstrap, group="static", topics=["static"], session_timeout_s=20
    ) as start:
        one, two = start(instance="one"), start(instance="two")
        wait_for(lambda: one.lines("assigned") and two.lines("assigned") and len(two.lines("assigned")[-1]["tps"]) == 6)
        wait_for(lambda: len(one.lines("assigned")[-1]["tps"]) == 6)
        mine, theirs = one.lines("assigned")[-1]["tps"], len(two.lines("assigned"))
        assert one.stop() == 0
        one = start(instance="one")
        wait_for(lambda: one.lines("assigned"))
        assert one.lines("assigned")[-1]["tps"] == mine
        assert len(two.lines("assigned")) == theirs


def test_a_callback_that_raises_ends_the_worker(broker: Broker, tmp_path: Path):
    """aiokafka only logs what a rebalance listener raises; the worker must not live on without records."""
    broker.create("callback")
    with workers(tmp_path, bootstrap=broker.bootstrap, group="callback", topics=["callback"]) as start:
        worker = start(fault="assign")
        wait_for(lambda: worker.lines("assigned"))
        assert worker.wait(12) == 1, worker.log()


def test_two_workers_with_one_instance_id_do_not_take_turns_for_ever(broker: Broker, tmp_path: Path):
    """The group forgets one for the other again and again; the first that notices ends and says why."""
    broker.create("namesake")
    with workers(tmp_path, bootstrap=broker.bootstrap, group="namesake", topics=["namesake"], instance="same") as start:
        crew = [start()]
        wait_for(lambda: crew[0].lines("assigned"))  # the broker answers two that join at once with an unknown error
        crew.append(start())
        ended = wait_for(lambda: [worker for worker in crew if worker.process.poll() is not None], 40)
        assert ended[0].wait() == 1
        assert "another worker uses it too" in ended[0].log()


def test_a_broker_that_went_away_does_not_hold_up_the_end(tmp_path: Path):
    """Without a broker SIGTERM still ends the worker well within the deadline of 20 s."""
    with embedded_kafka() as kafka, workers(tmp_path, group="gone", topics=["gone"]) as start:
        Broker(kafka.bootstrap).create("gone")
        worker = start(bootstrap=kafka.bootstrap)
        wait_for(lambda: worker.lines("assigned"))
        kafka.stop()
        time.sleep(2)
        assert worker.process.poll() is None
        begun = time.monotonic()
        assert worker.stop() == 0, worker.log()
        assert time.monotonic() - begun < 12


def test_an_unreachable_broker_at_start_ends_the_worker(tmp_path: Path):
    """Nothing listens there: the worker says so and exits non-zero."""
    with workers(tmp_path, group="nobody", topics=["nobody"]) as start:
        worker = start(bootstrap="127.0.0.1:9")
        assert worker.wait(30) == 1
        assert "127.0.0.1:9" in worker.log() or "127.0.0.1" in worker.log()
