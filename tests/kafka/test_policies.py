"""Policy changes through a real broker and a real processor, which is killed in between and fed with poison."""

import hashlib
import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Message, Producer

from keymill.core.folding import Coordinates
from keymill.core.policy_changes import Policies, fold
from keymill.core.record_authentication import HEADER
from keymill.errors import Reject
from keymill.kafka.admin import create_topics, end_offsets
from keymill.kafka.authentication import with_authenticator
from keymill.kafka.producer import Outgoing, Publisher
from keymill.kafka.scan import headers_of, scan_partition
from keymill.ops.access import prepare_keys
from keymill.ops.credentials import create_organization
from keymill.telemetry import REQUEST_ID_HEADER
from schemas import topics
from schemas.codec import decode, encode
from schemas.events import PolicyChange
from schemas.ids import scoped_key
from schemas.partition import partition_for
from schemas.policy import Policy
from schemas.records import AcceptedRequest, DeadLetter, PolicyRecord, PolicyState
from schemas.values import MAX_TIME_MS, LogPosition
from streams.faults import POINTS
from tests.broker import running_broker
from tests.builders import create_policy, delete_policy, update_policy
from tests.e2e.programs import CLI, Program, wait_for

pytestmark = pytest.mark.timeout(150)
PARTITIONS = 4
CHANGES, POLICIES, LETTERS = topics.POLICY_CHANGES.name, topics.POLICIES.name, topics.DEAD_LETTERS.name
ORGANIZATIONS = ("plain", "crowd-1", "crowd-2", "killed-1", "killed-2", "poison", "forged", "frozen")
QUICK = {"KEYMILL_SESSION_TIMEOUT_S": "6", "KEYMILL_DELIVERY_TIMEOUT_S": "4"}
"""The shortest session that a broker takes, so that a frozen processor is missed soon."""
COUNTS = dict.fromkeys((CHANGES, POLICIES, topics.KEYS.name), PARTITIONS)


@dataclass
class House:
    """A broker, organizations, and a processor that follows changes."""

    bootstrap: str
    data: Path
    processor: Program
    publisher: Publisher

    def send(self, *changes: PolicyChange, request_id: str = "") -> list[int]:
        """Publish changes in order; their offsets when all are acknowledged."""
        headers = ((REQUEST_ID_HEADER, request_id.encode()),) if request_id else ()
        now = [msgspec.structs.replace(change, event_time=int(time.time() * 1000)) for change in changes]
        sent = [self.publisher.send(CHANGES, each.organization.encode(), encode(each), headers) for each in now]
        self.publisher.flush_all(sent)
        return [delivery.result()[0] for delivery in sent]

    def read(self, topic: str, partition: int) -> list[Message]:
        """A partition, whole."""
        end = end_offsets(self.bootstrap, topic)[partition]
        return list(scan_partition(self.bootstrap, topic, partition, end=end))

    def written(self, organization: str) -> list[PolicyRecord]:
        """Every record of an organization's policies, in the order in which they were written."""
        found = (decode(m.value() or b"", PolicyRecord) for m in self.read(POLICIES, place(organization)))
        return [record for record in found if record.organization == organization]

    def policies(self, organization: str) -> dict[int, PolicyRecord]:
        """The newest record of every policy."""
        return {record.policy_id: record for record in self.written(organization)}

    def letters(self, partition: int) -> dict[int, DeadLetter]:
        """Dead letters of changes on a partition, by offset."""
        found = (decode(m.value() or b"", DeadLetter) for m in self.read(LETTERS, partition))
        return {letter.offset: letter for letter in found if letter.topic == CHANGES}

    def refolded(self, organization: str) -> tuple[list[PolicyRecord], set[int]]:
        """What the change log alone calls for: a record per accepted change, and the offsets that are refused."""
        held, records, refused = Policies(), [], set()
        for message in self.read(CHANGES, place(organization)):
            if message.key() != organization.encode():
                continue
            offset = message.offset() or 0
            position = LogPosition(generation=0, offset=offset)
            at = Coordinates(partition=place(organization), position=position, timestamp=message.timestamp()[1])
            try:
                record = fold(decode(message.value() or b"", PolicyChange), at=at, held=held)
            except Reject:
                refused.add(offset)
                continue
            assert record is not None
            held.take(record)
            records.append(record)
        return records, refused


def place(organization: str) -> int:
    """The partition of its changes, and of its policies."""
    return partition_for(organization.encode(), PARTITIONS)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One broker and one processor for the module; each test has organizations of its own."""
    data = tmp_path_factory.mktemp("house") / "data"
    with running_broker() as bootstrap:
        prepare_keys(bootstrap, data / "keys.json")
        create_topics(bootstrap, partitions=PARTITIONS)
        for organization in ORGANIZATIONS:
            create_organization(bootstrap, data / "keys.json", organization)
        log = data.with_name("processor.log")
        # A static member, so that one that was killed is back without a rebalance.
        processor = Program("processor", data, bootstrap, log, KEYMILL_INSTANCE_ID="one", **QUICK)
        try:
            processor.wait_ready()
            with closing(Publisher(bootstrap, COUNTS)) as publisher:
                yield House(bootstrap, data, processor, publisher)
        finally:
            processor.end()


def test_changes_come_back_as_policies(house: House) -> None:
    """Creates, updates, a deletion and the built-in policy: ids, versions, states, times and request ids are right."""
    sent = [
        create_policy("plain", name="gold", request_id="r-1"),
        create_policy("plain", name="silver"),
        update_policy(1, "plain", Policy(can_play=True, can_persist=True), name="gold", request_id="r-2"),
        update_policy(0, "plain", Policy(can_play=False), name="closed"),
        delete_policy(2, "plain", request_id="r-3"),
        create_policy("plain", name="bronze"),
    ]
    offsets = house.send(*sent, request_id="http-1")
    found = wait_for(lambda: len(held := house.policies("plain")) == 4 and held)
    assert {0: 1, 1: 2, 2: 2, 3: 1} == {number: record.version for number, record in found.items()}
    assert {0: "closed", 1: "gold", 2: "silver", 3: "bronze"} == {n: record.name for n, record in found.items()}
    assert [2] == [number for number, record in found.items() if record.state is PolicyState.DELETED]
    assert found[1].policy == Policy(can_play=True, can_persist=True)
    assert [record.applied.offset for record in house.written("plain")] == offsets
    times = [message.timestamp()[1] for message in house.read(CHANGES, place("plain"))]
    assert (times[0], times[2]) == (found[1].created, found[1].changed)
    assert found[1].created_by == AcceptedRequest(request_id="r-1", request_hash=found[1].created_by.request_hash)
    assert "r-2" == found[1].changed_by.request_id and "r-3" == found[2].changed_by.request_id
    headers = [headers_of(message) for message in house.read(POLICIES, place("plain"))]
    assert [(REQUEST_ID_HEADER, b"http-1")] * 6 == [each[0] for each in headers]
    assert [(REQUEST_ID_HEADER, HEADER)] * 6 == [tuple(name for name, _ in each) for each in headers]
    assert house.refolded("plain") == (house.written("plain"), set())


def test_two_producers_at_once_get_ids_of_their_own(house: House) -> None:
    """Every create has one id, whatever comes twice and however the two interleave; none is skipped or shared."""
    organizations, count = ("crowd-1", "crowd-2"), 60

    def produce(number: int) -> None:
        for index in range(count):
            for organization in organizations:
                change = create_policy(organization, name=f"{number}/{index}", request_id=f"r-{number}-{index}")
                house.send(*[change] * (1 + index % 2))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(produce, range(2)))
    for organization in organizations:
        expected, refused = house.refolded(organization)
        wait_for(lambda e=expected, o=organization: len(house.written(o)) == len(e))
        assert house.written(organization) == expected and not refused
        found = house.policies(organization)
        assert sorted(found) == list(range(1, 2 * count + 1))
        names = {record.created_by.request_id for record in found.values()}
        assert names == {f"r-{number}-{index}" for number in range(2) for index in range(count)}
        assert {1} == {record.version for record in found.values()}


@pytest.mark.parametrize("point", [point for point in POINTS if point != "after_claims"])  # policies claim no KID
def test_killed_at_a_crash_point_nothing_is_lost_or_counted_twice(house: House, point: str) -> None:
    """SIGKILL at each of them, early and late in a run: the next processor goes on where the durable prefix ends."""
    organizations = ("killed-1", "killed-2")
    stop = threading.Event()

    def produce() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for organization in organizations:
                own = [create_policy(organization, name=f"{point} {number}", request_id=f"{point}-{number}")]
                own += [update_policy(1 + number // 2, organization, name=f"{point} {number} again")]
                own += [delete_policy(number, organization)] if number % 3 == 0 else []
                house.send(*own, *[update_policy(999_999, organization)] * (number % 2))
            time.sleep(0.02)

    load = threading.Thread(target=produce)
    load.start()
    try:
        for count in (1, 4):
            house.processor.kill()
            time.sleep(1.0)  # so that its first run holds many changes
            house.processor.again(KEYMILL_TEST_CRASH_AT=f"{point}:{count}")
            assert -signal.SIGKILL == house.processor.wait(60), house.processor.tail()
        house.processor.again()
        house.processor.wait_ready()
    finally:
        stop.set()
        load.join()
    for organization in organizations:
        expected, refused = house.refolded(organization)
        wait_for(lambda e=expected, o=organization: e[-1] in house.written(o))
        wait_for(lambda r=refused, o=organization: r <= house.letters(place(o)).keys())
        written = house.written(organization)
        assert house.policies(organization) == {record.policy_id: record for record in expected}
        assert refused and {"policy_unknown", "policy_deleted"} >= {
            letter.reason for offset, letter in house.letters(place(organization)).items() if offset in refused
        }
        assert list(dict.fromkeys(record.applied for record in written)) == [record.applied for record in expected]
        assert all(record in expected for record in written)


def test_poison_costs_itself_alone(house: House) -> None:
    """Whatever a producer writes there ends in the dead letters with its reason, and the change behind it is taken."""
    here = place("poison")
    elsewhere = (here + 1) % PARTITIONS
    good, key = encode(create_policy("poison", name="good", event_time=1)), b"poison"
    stranger = next(f"nobody-{n}" for n in range(99) if place(f"nobody-{n}") == here)
    poison: list[tuple[str, bytes | None, bytes | None, int]] = [
        ("invalid_record", key, b"junk", here),
        ("invalid_record", key, b"", here),
        ("null_value", key, None, here),
        ("null_key", None, good, here),
        ("wrong_partition", key, good, elsewhere),
        ("key_mismatch", key, encode(create_policy(stranger, event_time=1)), here),
        ("unauthenticated", key, good, here),
        ("unknown_organization", stranger.encode(), encode(create_policy(stranger, event_time=1)), here),
        ("policy_unknown", key, encode(update_policy(7, "poison", request_id="r-7", event_time=1)), here),
        ("invalid_record", key, encode(create_policy("poison", event_time=MAX_TIME_MS)), here),
    ]
    producer = Producer({"bootstrap.servers": house.bootstrap})
    sent: dict[tuple[int, int], tuple[str, bytes]] = {}

    def note(reason: str, value: bytes | None) -> object:
        def delivered(_error: object, message: Message) -> None:
            sent[message.partition() or 0, message.offset() or 0] = (reason, value or b"")

        return delivered

    for reason, record_key, value, partition in poison:
        own = record_key == key and value and reason in ("policy_unknown", "invalid_record")
        headers = with_authenticator(Outgoing(topic=CHANGES, record_key=key, value=value)) if own else None
        producer.produce(CHANGES, value, record_key, partition, on_delivery=note(reason, value), headers=headers)
    producer.flush(10)
    assert len(poison) == len(sent)
    house.send(create_policy("poison", name="good"))
    assert ["good"] == [record.name for record in wait_for(lambda: house.written("poison"))]

    def letters() -> Mapping[tuple[int, int], DeadLetter]:
        found = {(number, o): letter for number in (here, elsewhere) for o, letter in house.letters(number).items()}
        return found if sent.keys() <= found.keys() else {}

    told = wait_for(letters)
    for where, (reason, value) in sent.items():
        assert (told[where].reason, told[where].value_sha256) == (reason, hashlib.sha256(value).digest())
    assert ["r-7"] == [told[w].event_id for w in sent if told[w].reason == "policy_unknown"]


def test_a_forged_regression_is_repaired(house: House) -> None:
    """An old record, written again by somebody else, is superseded by the right one within seconds."""
    house.send(create_policy("forged"), update_policy(1, "forged", name="right"))
    old, right = wait_for(lambda: len(found := house.written("forged")) == 2 and found)
    forged = Outgoing(topic=POLICIES, record_key=scoped_key("forged", "1"), value=encode(old))
    house.publisher.flush_all([house.publisher.send_batch([forged])])
    wait_for(lambda: len(house.written("forged")) > 3, 15)
    assert [old, right, old, right] == house.written("forged")
    assert 1 == house.processor.metric("keymill_repairs_total")


def test_a_frozen_processor_that_thaws_changes_nothing(house: House) -> None:
    """Frozen between two records of a run, beyond its session; another one goes on; what comes late is written over."""
    house.processor.kill()
    house.send(*(create_policy("frozen", name=str(number)) for number in range(6)))
    house.processor.again(KEYMILL_TEST_CRASH_AT="before_publish:3:SIGSTOP")
    wait_for(lambda: is_stopped(house.processor.process.pid))
    assert 2 == len(house.written("frozen"))
    log = house.data.with_name("heir.log")
    heir = Program("processor", house.data, house.bootstrap, log, KEYMILL_INSTANCE_ID="two", **QUICK)
    try:
        house.send(*(update_policy(number, "frozen", name="changed") for number in range(7)))
        wait_for(lambda: len(house.written("frozen")) >= 13)
        before = house.policies("frozen")
        house.processor.signal(signal.SIGCONT)
        late = wait_for(lambda: house.written("frozen")[13:])
        assert (3, 1) == (late[0].policy_id, late[0].version)
        wait_for(lambda: house.policies("frozen") == before, 15)
        house.send(create_policy("frozen", name="last"))
        expected, _ = house.refolded("frozen")
        wait_for(lambda: expected[-1] in house.written("frozen"))
        assert house.policies("frozen") == {record.policy_id: record for record in expected}
        assert sorted(before) == list(range(7))
    finally:
        heir.end()


def is_stopped(pid: int) -> bool:
    """Whether a process stands still."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_replay_finds_what_the_changes_call_for(house: House) -> None:
    """Over everything that the tests above left behind: nothing missing, different, unexpected or pending."""
    command = [*CLI, "replay", "--data", str(house.data), "--bootstrap", house.bootstrap, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert (report["differences"], report["pending"], done.returncode) == ([], 0, 0)
    ends = end_offsets(house.bootstrap, CHANGES)
    assert report["events"] == sum(ends.values()) > 100
    assert report["refused"] == sum(len(house.letters(number)) for number in ends) > 10
    assert report["identical"] == sum(len(house.policies(name)) for name in ORGANIZATIONS) > 100
