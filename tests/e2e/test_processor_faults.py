"""
Processors that are killed, frozen, fooled and left without a broker: nothing is lost, no key changes, no early commit.

All tests work on one cluster and one history, which each of them has checked as a whole at its end.
"""

import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from keymill.kafka.producer import Outgoing, Publisher
from keymill.snapshot.reader import SnapshotReader
from schemas import topics
from schemas.codec import encode
from schemas.ids import asset_key
from streams.faults import POINTS
from tests.drawn import ORGANIZATION
from tests.e2e.load import Driver
from tests.e2e.player import Player
from tests.e2e.programs import Program, rng, wait_for
from tests.e2e.rig import PARTITIONS, SESSION_S, Rig

pytestmark = pytest.mark.timeout(150)
MANY = 5000
KILLS = 6


def test_killed_at_every_crash_point(rig: Rig) -> None:
    """SIGKILL before and after publishing and after dead letters: each time the next one finishes the job."""
    driver = rig.driver("points", titles=40, broken=0.2)
    processor: Program | None = None
    for point in POINTS:
        for count in (1, 3):
            armed = {"KEYMILL_TEST_CRASH_AT": f"{point}:{count}"}
            driver.emit(60)
            if processor is None:
                processor = rig.processor("points", **armed)
            else:
                processor.again(**armed)
            while processor.process.poll() is None:
                driver.emit(5)
                time.sleep(0.1)
            assert -signal.SIGKILL == processor.wait(), processor.tail()
    assert processor is not None
    processor.again()
    rig.settle(processor)
    assert 0 == processor.stop(), processor.tail()
    rig.verdict()


def test_killed_at_random_during_many_events(rig: Rig) -> None:
    """5,000 events, a processor that is killed again and again, and a player that asks all the while."""
    draw = rng("random kills")
    driver = rig.driver("many", titles=600)
    proxy = rig.program("proxy", "proxy")
    proxy.wait_ready()
    player = Player(proxy.url, rig.data, rig.observer, rig.served)
    processor = rig.processor("many")
    load = threading.Thread(target=driver.emit, args=(MANY,), kwargs={"per_s": 300.0})
    before = len(rig.observer.written)
    load.start()
    with player.asking(lambda: driver.names, draw):
        for _ in range(KILLS):
            seen = len(rig.observer.written)
            wait_for(lambda: len(rig.observer.written) > seen)
            time.sleep(draw.uniform(0, 0.6))
            processor.kill()
            processor.again()
        load.join()
        rig.settle(processor)
    assert 0 == processor.stop(), processor.tail()
    print(f"{KILLS} kills, {len(rig.observer.written) - before} records written for {MANY} events")
    assert len(rig.served) > 50
    rig.verdict()


def test_processors_join_leave_and_die_under_load(rig: Rig) -> None:
    """One to four processors, one ended by SIGTERM and one by SIGKILL: no commit passes what is not durable."""
    draw = rng("crew")
    driver = rig.driver("crew", titles=300)
    stop = threading.Event()
    load = threading.Thread(target=driver.emit, args=(50_000,), kwargs={"per_s": 150.0, "stop": stop})
    load.start()
    try:
        crew = [rig.processor("crew-0"), rig.processor("crew-1")]
        for program in crew:
            program.wait_ready()
        crew += [rig.processor("crew-2"), rig.processor("crew-3")]
        for program in crew[2:]:
            program.wait_ready()
        wait_for(lambda: all(program.metric("keymill_events_total") > 0 for program in crew), 30)
        time.sleep(draw.uniform(0, 1))
        assert 0 == crew[1].stop(), crew[1].tail()
        time.sleep(draw.uniform(0, 1))
        crew[2].kill()
        time.sleep(draw.uniform(SESSION_S, SESSION_S + 2))
        crew[2].again()
        crew[2].wait_ready()
    finally:
        stop.set()
        load.join()
    rig.settle()
    assert [None, 0, None, None] == [program.process.poll() for program in crew]
    assert [0, 0, 0] == [program.stop() for program in (crew[0], crew[2], crew[3])]
    rig.verdict()


@pytest.mark.parametrize("spoilt", ["damaged", "missing"])
def test_a_raising_agent_skips_nothing(rig: Rig, spoilt: str) -> None:
    """The key file becomes unusable midway: the processor ends non-zero; repaired, a new one finishes."""
    key_file = rig.data.with_name("copied-keys.json")
    shutil.copy2(rig.data / "keys.json", key_file)
    driver = rig.driver(f"raise-{spoilt[0]}", titles=60)
    processor = rig.processor("raise", KEYMILL_KEY_FILE=str(key_file))
    processor.wait_ready()
    driver.emit(100)
    rig.settle()
    if spoilt == "missing":
        key_file.unlink()
    else:
        key_file.write_text("{}")
    driver.emit(100)
    assert 1 == processor.wait(40), processor.tail()
    assert "copied-keys.json" in processor.tail()
    time.sleep(0.2)
    committed = dict(rig.watch.offsets)
    processor.again()
    assert 2 == processor.wait(40), processor.tail()
    assert committed == rig.watch.offsets
    shutil.copy2(rig.data / "keys.json", key_file)
    processor.again()
    rig.settle()
    assert 0 == processor.stop(), processor.tail()
    rig.verdict()


def test_a_zombies_late_write_is_repaired(rig: Rig) -> None:
    """Frozen before it publishes, beyond its session; another takes over; what it then writes late is put right."""
    driver = rig.driver("zombie", titles=20, broken=0)
    zombie = rig.processor("zombie", KEYMILL_TEST_CRASH_AT="before_publish:4:SIGSTOP")
    zombie.wait_ready()
    names = [f"zombie-{number}" for number in range(20)]
    for name in names:
        driver.ingest(name)
    driver.flush()
    while not _is_stopped(zombie.process.pid):
        _rotate(driver, names[:5])
        time.sleep(0.3)
    heir = rig.processor("heir")
    heir.wait_ready()
    for _ in range(2):
        _rotate(driver, names)
    rig.settle()
    seen = {name: len(rig.observer.assets[name]) for name in names}
    newest = {name: rig.observer.newest(name) for name in names}
    zombie.signal(signal.SIGCONT)
    late = wait_for(
        lambda: [
            name
            for name in names
            if any(record.applied < newest[name].applied for record in rig.observer.assets[name][seen[name] :])
        ]
    )
    print(f"written late: {late}")
    wait_for(lambda: all(rig.observer.newest(name) == newest[name] for name in names), 15)
    _rotate(driver, names)
    rig.settle(zombie)
    assert all(len(rig.observer.newest(name).versions) == len(newest[name].versions) + 1 for name in names)
    assert 0 == heir.stop()
    assert zombie.stop() in (0, 1)
    rig.verdict()


def test_a_forged_regression_is_repaired_by_the_owner(rig: Rig) -> None:
    """An old asset record, written again by somebody else, is superseded by the partition's owner within seconds."""
    driver = rig.driver("forged", titles=6, broken=0)
    owners = [rig.processor("owner-0"), rig.processor("owner-1")]
    for owner in owners:
        owner.wait_ready()
    names = [f"forged-{number}" for number in range(6)]
    for name in names:
        driver.ingest(name)
        driver.rotate(name)
        driver.flush()
        wait_for(lambda: name in rig.observer.assets)
        driver.rotate(name)
        driver.flush()
    rig.settle()
    publisher = Publisher(rig.bootstrap, {topics.KEYS.name: PARTITIONS})
    newest = {name: rig.observer.newest(name) for name in names}
    old = {name: rig.observer.assets[name][0] for name in names}
    assert all(len(old[name].versions) < len(newest[name].versions) for name in names)
    forged = [
        Outgoing(topic=topics.KEYS.name, record_key=asset_key(ORGANIZATION, name), value=encode(record))
        for name, record in old.items()
    ]
    publisher.flush_all([publisher.send_batch(forged)])
    began = time.monotonic()
    rig.observer.read_to_end()
    wait_for(lambda: all(rig.observer.newest(name) == newest[name] for name in names), 15)
    print(f"repaired after {time.monotonic() - began:.1f} s")
    assert 6 == sum(owner.metric("keymill_repairs_total") for owner in owners)
    time.sleep(2.5)
    assert 6 == sum(owner.metric("keymill_repairs_total") for owner in owners)
    assert [] == _regressions(rig, "owner-0")
    assert [0, 0] == [owner.stop() for owner in owners]
    publisher.close()
    rig.verdict()


def test_a_killed_broker_costs_only_time(rig: Rig) -> None:
    """The broker is killed and started again twice under load; processors go on, or end and are started again."""
    draw = rng("broker")
    driver = rig.driver("broker", titles=200)
    crew = [rig.processor("broker-0"), rig.processor("broker-1")]
    for program in crew:
        program.wait_ready()
    load = threading.Thread(target=driver.emit, args=(3000,), kwargs={"per_s": 200.0})
    load.start()
    assert rig.kafka is not None
    for _ in range(2):
        time.sleep(draw.uniform(1, 3))
        rig.kafka.kill()
        rig.kafka.restart()
    load.join()
    rig.settle(*crew)
    assert [0, 0] == [program.stop() for program in crew]
    rig.verdict()


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _rotate(driver: Driver, names: list[str]) -> None:
    for name in names:
        driver.rotate(name)
    driver.flush()


def _regressions(rig: Rig, instance: str) -> list[object]:
    with SnapshotReader(rig.data / "views" / f"processor-{instance}") as reader, reader.at_once() as view:
        return list(view.regressions())
