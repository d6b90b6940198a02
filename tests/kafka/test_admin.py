"""Topics against a real broker: created, checked, refused when they drift, taken over."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from kafka.admin import ConfigResource, ConfigResourceType

from keymill.errors import Misconfigured, Unavailable
from keymill.kafka import cluster
from keymill.kafka.admin import (
    adopt,
    check_topics,
    cluster_reachable,
    configure,
    create_topics,
    describe,
    end_offsets,
    group_offsets,
    group_state,
    load_adoptions,
    plan_adoption,
    plan_configs,
    require_topics,
)
from keymill.kafka.adoption import record_adoptions
from schemas.codec import encode
from schemas.records import TopicAdopted
from schemas.topics import (
    ADOPTIONS,
    ASSETS,
    BY_NAME,
    CATALOGUE,
    KEYS,
    POLICIES,
    POLICY_CHANGES,
    STATUS,
    Topic,
    partition_of,
)
from tests.authentic import installation
from tests.broker import running_broker

pytestmark = pytest.mark.timeout(170)
PARTITIONS = 3
ALL = list(BY_NAME)
_KEY_FILES: list[Path] = []
"""Of the module's installation, for commands."""
NOBODY = "127.0.0.1:1"
"""Port 1 (tcpmux) is nobody's on a test machine."""


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    _KEY_FILES.append(installation(tmp_path_factory.mktemp("keys"), "demo"))
    with running_broker() as address:
        yield address


@pytest.fixture
def bare(bootstrap: str) -> str:
    """The broker without our topics."""
    delete(bootstrap, *describe(bootstrap, ALL))
    return bootstrap


@pytest.fixture
def created(bare: str) -> str:
    """The broker with every topic, adopted."""
    create_topics(bare, PARTITIONS)
    return bare


def delete(bootstrap: str, *names: str) -> None:
    with cluster.connected(bootstrap) as client:
        if names:
            client.delete_topics(list(names))
    until(lambda: not describe(bootstrap, names))


def recreate(bootstrap: str, *names: str, partitions: int = PARTITIONS) -> None:
    delete(bootstrap, *names)
    with cluster.connected(bootstrap) as client:
        cluster.create(client, [BY_NAME[name] for name in names], partitions, 1)


def alter(bootstrap: str, topic: str, config: str, value: str) -> None:
    with cluster.connected(bootstrap) as client:
        client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {config: value})])
    until(lambda: describe(bootstrap, [topic])[topic].configs[config] == value)


def add_partitions(bootstrap: str, topic: str, count: int) -> None:
    with cluster.connected(bootstrap) as client:
        client.create_partitions({topic: count})
    until(lambda: describe(bootstrap, [topic])[topic].partitions == count)


def as_it_is(bootstrap: str, topic: Topic, generation: int = 0) -> TopicAdopted:
    """The adoption of a topic as it now is."""
    state = describe(bootstrap, [topic.name])[topic.name]
    return TopicAdopted(
        topic=topic.name, topic_id=state.topic_id, generation=generation, partitions=state.partitions, adopted=1
    )


def put(bootstrap: str, topic: Topic, record_key: bytes, value: bytes | None) -> None:
    """Write what anybody might have written, where its record key belongs."""
    producer = Producer({"bootstrap.servers": bootstrap})
    producer.produce(topic.name, value, record_key, partition_of(topic, record_key, PARTITIONS))
    assert producer.flush(10) == 0


def write(bootstrap: str, topic: str) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    producer.produce(topic, b"v", b"k", 0)
    assert producer.flush(10) == 0


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def keymill(*arguments: str, bootstrap: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "keymill.ops.cli", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KEYMILL_")}
    environment |= {"KEYMILL_BOOTSTRAP": bootstrap, "KEYMILL_KEY_FILE": str(_KEY_FILES[-1])}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_created_topics_are_as_the_catalogue_says(bare: str) -> None:
    """Every topic is made with every config and adopted as generation 0; a second creation makes nothing."""
    assert create_topics(bare, PARTITIONS) == sorted(ALL)
    assert check_topics(bare, partitions=PARTITIONS, replicas=1) == []
    states = describe(bare, ALL)
    adopted = require_topics(bare, ALL)
    for topic in CATALOGUE:
        assert topic.all_configs(1).items() <= dict(states[topic.name].configs).items()
        record = adopted[topic.name]
        assert (record.generation, record.partitions) == (0, PARTITIONS)
        assert record.topic_id == states[topic.name].topic_id
    assert create_topics(bare, 7) == []
    assert load_adoptions(bare) == adopted


def test_two_creators_at_once(bare: str) -> None:
    """Two programs that create at the same moment make each topic once, and both may go on."""
    barrier = threading.Barrier(2)

    def one(_: int) -> list[str]:
        barrier.wait()
        names = create_topics(bare, PARTITIONS)
        assert require_topics(bare, ALL).keys() == BY_NAME.keys()
        return names

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(one, range(2))
    assert sorted(first + second) == sorted(ALL)
    assert check_topics(bare) == []
    assert {record.generation for record in load_adoptions(bare).values()} == {0}


def test_an_interrupted_creation_is_finished(bare: str) -> None:
    """Topics without an adoption and without a record are adopted by the next creation."""
    with cluster.connected(bare) as client:
        cluster.create(client, CATALOGUE, PARTITIONS, 1)
    with pytest.raises(Misconfigured, match="nobody has taken it over"):
        require_topics(bare, [KEYS.name])
    record_adoptions(bare, PARTITIONS, [as_it_is(bare, ASSETS)])
    with pytest.raises(Misconfigured, match=r"drm\.adoptions\.v1: .*nobody has taken it over"):
        require_topics(bare, [ASSETS.name])
    assert create_topics(bare, PARTITIONS) == []
    assert require_topics(bare, ALL).keys() == BY_NAME.keys()


def test_a_new_topic_takes_the_partition_count_of_the_old_ones(created: str) -> None:
    """A topic added to an existing cluster joins its partition count, whatever the settings say now."""
    delete(created, "drm.requests.v1")
    assert create_topics(created, PARTITIONS + 4) == ["drm.requests.v1"]
    assert describe(created, ["drm.requests.v1"])["drm.requests.v1"].partitions == PARTITIONS


def test_another_cleanup_policy_stops_programs(created: str) -> None:
    """A key topic that deletes would lose licensed keys: refused at start, and no adoption mends it."""
    alter(created, KEYS.name, "cleanup.policy", "delete")
    with pytest.raises(Misconfigured, match=r"drm\.keys\.v1: cleanup\.policy must be compact, is delete"):
        require_topics(created, [KEYS.name])
    with pytest.raises(Misconfigured, match=r"cannot adopt.*cleanup\.policy"):
        plan_adoption(created)
    require_topics(created, ["drm.policies.v1"])


def test_added_partitions_stop_programs(created: str) -> None:
    """More partitions send record keys elsewhere: refused at start, and no adoption mends it."""
    add_partitions(created, "drm.entitlements.v1", PARTITIONS + 1)
    with pytest.raises(Misconfigured, match=r"drm\.entitlements\.v1: partitions must be 3, is 4"):
        require_topics(created, ["drm.entitlements.v1"])
    with pytest.raises(Misconfigured, match="cannot be adopted"):
        plan_adoption(created, ["drm.entitlements.v1"])


@pytest.mark.parametrize(("uneven", "needed"), [(KEYS, ASSETS), (POLICIES, POLICY_CHANGES)])
def test_what_belongs_together_has_one_partition_count(created: str, uneven: Topic, needed: Topic) -> None:
    """A topic of keys or policies with another count is refused by whoever needs its source, also when it is new."""
    recreate(created, uneven.name, partitions=PARTITIONS + 1)
    with pytest.raises(Misconfigured, match=r"3 as drm\.assets\.v1 has"):
        require_topics(created, [needed.name])
    with pytest.raises(Misconfigured, match="cannot adopt"):
        plan_adoption(created, [uneven.name])


def test_a_missing_topic_stops_programs(created: str) -> None:
    """The message says which topic and which command makes it."""
    delete(created, "drm.claims.v1")
    with pytest.raises(Misconfigured, match=r"drm\.claims\.v1: topic must be there, is missing; run `keymill topics"):
        require_topics(created, ["drm.claims.v1"])
    with pytest.raises(Misconfigured, match="create"):
        end_offsets(created, "drm.claims.v1")


def test_other_configs_are_warnings(created: str) -> None:
    """A drifted retention is listed with what it must be, but programs start."""
    alter(created, ASSETS.name, "retention.ms", "1000")
    (difference,) = check_topics(created)
    assert (difference.what, difference.expected, difference.found, difference.fatal) == (
        "retention.ms", "-1", "1000", False,
    )  # fmt: skip
    assert require_topics(created, [ASSETS.name])[ASSETS.name].generation == 0


def test_drifted_configs_are_set_as_planned(created: str) -> None:
    """The plan writes nothing; applied, just what drifted is set, also a fatal one, and nothing else of the topic."""
    alter(created, ASSETS.name, "compression.type", "zstd")
    alter(created, KEYS.name, "cleanup.policy", "delete")
    alter(created, KEYS.name, "preallocate", "true")  # the catalogue does not say
    planned = keymill("topics", "configure", bootstrap=created)
    assert (1, True) == (planned.returncode, "repeat with --apply" in planned.stdout), planned.stderr
    assert "drm.assets.v1: compression.type zstd -> uncompressed" in planned.stdout
    assert {"compression.type", "cleanup.policy"} == {each.what for each in check_topics(created)}
    one = keymill("topics", "configure", ASSETS.name, "--apply", "--json", bootstrap=created)
    assert (0, ["compression.type"]) == (one.returncode, [each["what"] for each in json.loads(one.stdout)["configs"]])
    until(lambda: ["cleanup.policy"] == [each.what for each in check_topics(created)])
    configure(created, plan_configs(created))
    until(lambda: [] == check_topics(created))
    assert "true" == describe(created, [KEYS.name])[KEYS.name].configs["preallocate"]
    alter(created, KEYS.name, "preallocate", "false")
    assert keymill("topics", "configure", bootstrap=created).returncode == 0
    assert keymill("topics", "configure", "no-such-topic", bootstrap=created).returncode == 2


def test_a_topic_created_again_is_refused_until_adopted(created: str) -> None:
    """Its offsets start over: refused at start, not adopted by creation, then taken over as the next generation."""
    write(created, ASSETS.name)
    former = load_adoptions(created)[ASSETS.name]
    for generation in (1, 2):
        recreate(created, ASSETS.name)
        with pytest.raises(Misconfigured, match="it was created again: if that is meant, run `keymill topics adopt`"):
            require_topics(created, [ASSETS.name])
        assert create_topics(created, PARTITIONS) == []
        with pytest.raises(Misconfigured, match="created again"):
            require_topics(created, [ASSETS.name])
        (takeover,) = plan = plan_adoption(created)
        assert takeover.before == former
        assert takeover.after.generation == generation
        adopt(created, plan)
        former = require_topics(created, [ASSETS.name])[ASSETS.name]
        assert former == takeover.after
        assert plan_adoption(created) == []


def test_a_topic_deleted_and_made_by_create_is_not_adopted(created: str) -> None:
    """Creation itself takes nothing over in place of an adopted topic."""
    delete(created, ASSETS.name)
    assert create_topics(created, PARTITIONS) == [ASSETS.name]
    with pytest.raises(Misconfigured, match="created again"):
        require_topics(created, [ASSETS.name])


def test_lost_adoptions_ask_for_the_generation(created: str) -> None:
    """With their topic the generations are lost; 0 could place new events before old ones, so nobody guesses."""
    write(created, KEYS.name)
    delete(created, ADOPTIONS.name)
    assert create_topics(created, PARTITIONS) == [ADOPTIONS.name]
    with pytest.raises(Misconfigured, match="nobody has taken it over"):
        require_topics(created, [ASSETS.name])
    with pytest.raises(Misconfigured, match="--generation"):
        plan_adoption(created)
    adopt(created, plan_adoption(created, generation=4))
    assert {record.generation for record in require_topics(created, ALL).values()} == {4}


def test_what_nobody_can_read_stops_nobody(created: str) -> None:
    """Rubbish among reports and adoptions is passed over and named; only the last record of a record key counts."""
    before = load_adoptions(created)
    for topic in (STATUS, ADOPTIONS):
        for record_key in (b"topic/drm.keys.v1", b"proxy/one", b"\x1b[31m\xff", b"audit/last"):
            put(created, topic, record_key, b"rubbish")
    assert load_adoptions(created) == before == require_topics(created, ALL)
    checked = keymill("topics", "check", bootstrap=created)
    assert checked.returncode == 1 and "4 times" in checked.stdout and "fatal" not in checked.stdout
    told = json.loads(keymill("status", "--json", bootstrap=created).stdout)
    (said,) = [each["what"] for each in told["concerns"] if each["runbook"] == "a-record-cannot-be-read"]
    assert said.startswith("7 records are passed over: ") and "\x1b" not in said and "(drm.adoptions.v1-" in said, said
    for record_key in (b"proxy/one", b"\x1b[31m\xff", b"audit/last"):
        put(created, STATUS, record_key, None)
        put(created, ADOPTIONS, record_key, None)
    (takeover,) = plan = plan_adoption(created)
    assert before[KEYS.name] == takeover.before == takeover.after
    adopt(created, plan)
    assert [] == plan_adoption(created)
    told = json.loads(keymill("status", "--json", bootstrap=created).stdout)
    assert "a-record-cannot-be-read" not in {each["runbook"] for each in told["concerns"]}


def test_adoptions_of_an_earlier_release_are_carried_over_once(created: str) -> None:
    """From the status topic by `topics create`, by nobody else; what is written there later is not believed."""
    write(created, KEYS.name)
    delete(created, ADOPTIONS.name)
    for topic in CATALOGUE:
        if topic is not ADOPTIONS:
            put(created, STATUS, b"topic/" + topic.name.encode(), encode(as_it_is(created, topic, 3)))
    with pytest.raises(Misconfigured, match=r"drm\.adoptions\.v1: .*missing; run `keymill topics create`"):
        require_topics(created, [ASSETS.name])
    assert create_topics(created, PARTITIONS) == [ADOPTIONS.name]
    held = require_topics(created, ALL)
    assert dict.fromkeys(ALL, 3) | {ADOPTIONS.name: 0} == {name: each.generation for name, each in held.items()}
    put(created, STATUS, b"topic/" + KEYS.name.encode(), encode(as_it_is(created, KEYS, 9)))
    assert create_topics(created, PARTITIONS) == [] == plan_adoption(created)
    assert require_topics(created, ALL) == held


def test_end_offsets_count_open_transactions(created: str) -> None:
    """The end is the high watermark: a reader that stops at the last stable offset misses committed records."""
    producer = Producer({"bootstrap.servers": created, "transactional.id": "open"})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(ASSETS.name, b"v", b"k", 1)
    assert producer.flush(10) == 0
    assert end_offsets(created, ASSETS.name) == {0: 0, 1: 1, 2: 0}
    producer.abort_transaction(10)


def test_a_group_is_proven_empty(created: str) -> None:
    """A group with a member is not empty, one whose member left is; committed offsets are told."""
    assert group_state(created, "unheard-of").empty
    write(created, ASSETS.name)
    consumer = Consumer({"bootstrap.servers": created, "group.id": "processors", "auto.offset.reset": "earliest"})
    consumer.subscribe([ASSETS.name])
    assert consumer.poll(30) is not None
    state = group_state(created, "processors")
    assert (state.members, state.empty) == (1, False)
    consumer.commit(asynchronous=False)
    consumer.close()
    assert group_state(created, "processors").empty
    assert group_offsets(created, "processors") == {(ASSETS.name, 0): 1}
    assert group_offsets(created, "unheard-of") == {}


def test_an_unreachable_broker_is_unavailable() -> None:
    """The message names the address and what to look at, in time, and no thread stays behind."""
    threads = threading.active_count()
    began = time.monotonic()
    with (
        pytest.raises(Unavailable, match=r"127\.0\.0\.1:1.*KEYMILL_BOOTSTRAP"),
        cluster.connected(NOBODY, timeout_s=1),
    ):
        pass
    assert not cluster_reachable(NOBODY, timeout_s=0.5)
    assert time.monotonic() - began < 5
    assert threading.active_count() == threads
    for address in ("", "127.0.0.1:kafka"):
        with pytest.raises(Misconfigured, match="host:port"):
            cluster_reachable(address)


def test_more_replicas_than_brokers_is_misconfigured(bare: str) -> None:
    """The broker's reason is told."""
    with pytest.raises(Misconfigured, match="replication factor"):
        create_topics(bare, PARTITIONS, replicas=3)


def test_the_commands_and_their_exit_codes(bare: str) -> None:
    """create, check, show and adopt: 0 clean, 1 different, 2 usage, 3 unavailable; JSON alone on stdout."""
    made = keymill("topics", "create", "--partitions", str(PARTITIONS), "--json", bootstrap=bare)
    assert (made.returncode, json.loads(made.stdout)) == (0, {"created": sorted(ALL), "differences": []}), made.stderr
    assert keymill("topics", "check", bootstrap=bare).returncode == 0
    recreate(bare, ASSETS.name)
    checked = keymill("topics", "check", "--json", bootstrap=bare)
    assert (checked.returncode, json.loads(checked.stdout)["differences"][0]["what"]) == (1, "topic id")
    planned = keymill("topics", "adopt", bootstrap=bare)
    assert (planned.returncode, "generation 0 -> id" in planned.stdout, "--apply" in planned.stdout) == (1, True, True)
    applied = keymill("topics", "adopt", ASSETS.name, "--apply", "--json", bootstrap=bare)
    assert (applied.returncode, json.loads(applied.stdout)["adoptions"][0]["after"]["generation"]) == (0, 1)
    shown = keymill("topics", "show", "--json", bootstrap=bare)
    generations = {row["topic"]: row["generation"] for row in json.loads(shown.stdout)}
    assert (shown.returncode, generations[ASSETS.name], generations[KEYS.name]) == (0, 1, 0)
    assert "drm.keys.v1" in keymill("topics", "show", bootstrap=bare).stdout
    assert keymill("topics", "adopt", bootstrap=bare).returncode == 0
    assert keymill("topics", "adopt", "no-such-topic", bootstrap=bare).returncode == 2
    refused = keymill("topics", "check", bootstrap=NOBODY)
    assert (refused.returncode, NOBODY in refused.stderr, refused.stdout) == (3, True, "")
