"""Everything that `keymill up` runs is killed while it works: it comes back by itself, nothing is lost or changed."""

import json
import os
import random
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keymill.errors import NotReady
from keymill.ops.demo.stack import Stack
from keymill.proxy.main import TOPICS
from keymill.snapshot.follower import Follower
from keymill.snapshot.reader import SnapshotReader
from keymill.snapshot.store import GIB
from schemas import topics
from schemas.codec import decode
from schemas.ids import is_key_set
from schemas.records import AssetRecord, AssetState, KeyRecord
from tests.drawn import ORGANIZATION
from tests.e2e.player import Player
from tests.e2e.programs import SEED, children_of, get, rng, wait_for
from tests.e2e.rig import PARTITIONS, Rig, watched
from tests.e2e.up import keymill_up
from tests.history import Accepted

pytestmark = pytest.mark.timeout(200)
ENVIRONMENT = {"KEYMILL_PARTITIONS": str(PARTITIONS), "KEYMILL_MAP_SIZE_GIB": "4"}
COMMANDS = {"kafka": "java", "processor": " processor", "gateway": " gateway", "proxy": " proxy"}
FOLLOWER = "keymill.snapshot.follower"
BATCH_KILLS = 20


class Ingest:
    """An ingest system that knows only the gateway: it repeats a request, with its key, until that is taken."""

    def __init__(self, stack: Stack, prefix: str, accepted: list[Accepted]) -> None:
        self.versions: dict[str, int] = {}
        self.retries = 0
        self._stack, self._prefix, self._accepted = stack, prefix, accepted
        self._assets = f"{stack.up.gateway}/v1/organizations/{ORGANIZATION}/assets"

    def ingest(self, asset: str, query: str = "") -> int:
        """A new asset; the status that ended the repeats."""
        status = self._post(f"{self._assets}{query}", {"asset_id": asset}, asset)
        self.versions[asset] = 1
        return status

    def rotate(self, asset: str) -> None:
        """The next key version."""
        self._post(f"{self._assets}/{asset}/rotate", {"to_version": self.versions[asset] + 1}, asset)
        self.versions[asset] += 1

    def run(self, stop: threading.Event, draw: random.Random) -> None:
        """Ingest and rotate until told to stop."""
        while not stop.wait(0.03):
            if self.versions and draw.random() < 0.3:
                self.rotate(draw.choice(list(self.versions)))
            else:
                self.ingest(f"{self._prefix}-{len(self.versions)}")

    def _post(self, url: str, body: dict[str, object], asset: str) -> int:
        key = f'"{uuid.uuid4()}"'
        headers = {"Authorization": f"Bearer {self._stack.up.credentials.api_key}", "Idempotency-Key": key}
        deadline = time.monotonic() + 90
        while True:
            status, answer = get(url, json.dumps(body).encode(), **headers)
            if status in (201, 202):
                told = json.loads(answer)
                self._accepted.append(
                    Accepted(
                        at_ns=time.time_ns(), organization=ORGANIZATION, asset=asset,
                        partition=told["partition"], offset=told["offset"],
                    )
                )  # fmt: skip
                return status
            # A gateway that was killed forgets what it sent: for a moment it may not know an asset that it took.
            assert status in (0, 404, 500, 502, 503), (status, answer)
            assert time.monotonic() < deadline, f"not taken (KEYMILL_TEST_SEED={SEED}): {status} {answer!r}"
            self.retries += 1
            time.sleep(0.1)


@pytest.fixture(scope="module")
def own_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A `keymill up` that these tests may hurt."""
    with keymill_up(tmp_path_factory.mktemp("up") / "data", environment=ENVIRONMENT) as stack:
        yield stack


@contextmanager
def loaded(stack: Stack, rig: Rig, draw: random.Random) -> Iterator[Ingest]:
    """Two ingest systems and a player work inside the block."""
    systems = [Ingest(stack, f"load{number}-{stack.pid}", rig.others) for number in range(2)]
    player = Player(stack.up.proxy, rig.data, rig.observer, rig.served)
    stop = threading.Event()
    seeds = [random.Random(draw.random()) for _ in systems]
    threads = [
        threading.Thread(target=system.run, args=(stop, seed)) for system, seed in zip(systems, seeds, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        with player.asking(lambda: list(systems[0].versions), draw):
            yield systems[0]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    print(f"{sum(len(s.versions) for s in systems)} assets, {sum(s.retries for s in systems)} requests repeated")


def pid_of(stack: Stack, role: str) -> int:
    """The process that has the role now, 0 for none."""
    found = [pid for pid in children_of(stack.pid) if COMMANDS[role] in command_of(pid)]
    return found[0] if found else 0


def command_of(pid: int) -> str:
    """Its command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def followers_of(stack: Stack) -> list[int]:
    """The followers of all programs."""
    return [
        pid
        for role in ("processor", "gateway", "proxy")
        for pid in children_of(pid_of(stack, role))
        if FOLLOWER in command_of(pid)
    ]


def works(stack: Stack, rig: Rig, name: str) -> float:
    """An asset goes the whole way, from the gateway to a license; seconds until it had."""
    began = time.monotonic()
    Ingest(stack, name, rig.others).ingest(name, "?wait=1")
    player = Player(stack.up.proxy, rig.data, rig.observer, rig.served)
    wait_for(lambda: player.ask(name) == 200, 60, 0.1)
    return time.monotonic() - began


def test_up_json_says_where_everything_answers(own_up: Stack) -> None:
    """Without a credential; the processors' health is beside the documented members."""
    line = json.loads((Path(own_up.up.data) / "up.json").read_text())
    assert {"kafka", "gateway", "proxy", "data", "service", "pids", "health", "admin"} == set(line)
    (processor,) = line["health"]["processor"]
    assert [200, 200, 200] == [get(f"{url}/readyz")[0] for url in (processor, line["gateway"], line["proxy"])]


def test_every_listed_process_comes_back(own_up: Stack) -> None:
    """Kafka, processor, gateway, proxy and their followers, one by one and all at once, under load."""
    draw = rng("up")
    data = Path(own_up.up.data)
    listed = own_up.up.pids
    assert [listed.kafka, *listed.processor, listed.gateway, *listed.proxy] == [pid_of(own_up, r) for r in COMMANDS]
    with watched(own_up.up.kafka, data) as rig:
        with loaded(own_up, rig, draw):
            works(own_up, rig, "before")
            for role in draw.sample(list(COMMANDS), len(COMMANDS)):
                killed = pid_of(own_up, role)
                os.kill(killed, signal.SIGKILL)
                wait_for(lambda: pid_of(own_up, role) not in (0, killed), 30)
                print(f"{role} killed: works again after {works(own_up, rig, f'after-{role}'):.1f} s")
            for number, pid in enumerate(followers_of(own_up)):
                os.kill(pid, signal.SIGKILL)
                print(f"a follower killed: works again after {works(own_up, rig, f'after-follower-{number}'):.1f} s")
            for role in COMMANDS:
                os.kill(pid_of(own_up, role), signal.SIGKILL)
            print(f"all killed: works again after {works(own_up, rig, 'after-all'):.1f} s")
            assert 3 == len(followers_of(own_up))
        rig.settle()
        assert len(rig.served) > 20
        rig.verdict()


def test_killed_up_leaves_nobody_and_starts_again(tmp_path: Path) -> None:
    """SIGKILL of `keymill up` itself ends all that it started; the next one finds everything that was accepted."""
    data = tmp_path / "data"
    accepted: list[Accepted] = []
    with keymill_up(data, environment=ENVIRONMENT) as stack:
        Ingest(stack, "one", accepted).ingest("one", "?wait=1")
        family = {pid for child in children_of(stack.pid) for pid in (child, *children_of(child))}
        assert len(family) >= 8, [command_of(pid) for pid in family]
        os.kill(stack.pid, signal.SIGKILL)
        wait_for(lambda: not any(str(data) in command_of(pid) or _alive(pid) for pid in family), 30)
    with keymill_up(data, environment=ENVIRONMENT) as stack, watched(stack.up.kafka, data) as rig:
        rig.others += accepted
        works(stack, rig, "two")
        rig.observer.read_to_end()
        assert 200 == Player(stack.up.proxy, data, rig.observer, rig.served).ask("one")
        rig.settle()
        rig.verdict()


def test_a_proxys_checkpoint_is_never_ahead_of_its_data(rig: Rig) -> None:
    """Its follower is killed again and again while records stream in: what lies below the checkpoint is in the view."""
    draw = rng("batches")
    driver = rig.driver("batch", titles=300)
    folder = rig.data / "views" / "proxy"
    client = {"bootstrap.servers": rig.bootstrap}
    processor = rig.processor("batch")
    processor.wait_ready()
    stop = threading.Event()
    load = threading.Thread(target=driver.emit, args=(50_000,), kwargs={"per_s": 150.0, "stop": stop})
    load.start()
    looked = 0
    try:
        for number in range(BATCH_KILLS):
            if number % 5 == 0:
                shutil.rmtree(folder, ignore_errors=True)
            keys = rig.data / "keys.json"
            follower = Follower(folder, TOPICS, client, key_file=keys, map_size=4 * GIB).start()
            if number % 2:  # while it follows, however long a busy machine takes to start it
                wait_for(lambda: _position(folder) > 0, 30)
                time.sleep(draw.uniform(0.0, 0.6))
            else:
                time.sleep(draw.uniform(0.5, 1.6))
            os.kill(follower.pid, signal.SIGKILL)
            wait_for(lambda: follower.pid == 0)
            looked += _require_whole(rig, folder)
    finally:
        stop.set()
        load.join()
    print(f"{BATCH_KILLS} kills, {looked} times there was a view to look at")
    assert looked > 4  # a follower may be killed before it has begun, on a busy machine more often
    rig.settle()
    proxy = rig.program("proxy", "proxy-batch")
    proxy.wait_ready()
    _require_answers(rig, proxy.url, driver.names)
    assert [0, 0] == [proxy.stop(), processor.stop()]
    _require_whole(rig, folder)
    rig.verdict()


def _position(folder: Path) -> int:
    """How many offsets of the key topic are in the view."""
    try:
        with SnapshotReader(folder).open(wait_s=0) as reader, reader.at_once() as view:
            return sum(view.positions().get(topics.KEYS.name, {}).values())
    except NotReady:
        return 0


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _require_whole(rig: Rig, folder: Path) -> bool:
    """Of every key and asset record below the checkpoint the newest is in the view; False without a view."""
    rig.observer.read_to_end()
    try:
        reader = SnapshotReader(folder).open(wait_s=0)
    except NotReady:
        return False
    with reader, reader.at_once() as view:
        positions = view.positions().get(topics.KEYS.name, {})
        newest: dict[str, tuple[object, bytes]] = {}
        for event in rig.observer.written:
            if event.offset >= positions.get(event.partition, 0):
                continue
            value = bytes.fromhex(event.value_hex)
            if is_key_set(event.record_key.encode()):  # another test of this cluster may have rotated the KEK
                order: object = decode(value, KeyRecord).kek_epoch
            else:
                order = decode(value, AssetRecord).applied
            if event.record_key not in newest or order >= newest[event.record_key][0]:  # type: ignore[operator]
                newest[event.record_key] = (order, value)
        for record_key, (_, value) in newest.items():
            assert view.raw(topics.KEYS.name, record_key.encode()) == value, record_key
    return bool(newest)


def _answer(player: Player, name: str) -> int:
    """The first status that is no "ask again": a proxy serves from its copy before its tail has caught up anew."""
    return wait_for(lambda: status if (status := player.ask(name)) != 500 else 0, 10)


def _require_answers(rig: Rig, proxy: str, names: list[str]) -> None:
    """The proxy gives every key of every asset that may be played, and nothing of the others."""
    player = Player(proxy, rig.data, rig.observer, rig.served)
    for name in names:
        if name not in rig.observer.assets:
            continue
        before = len(rig.served)
        newest = rig.observer.newest(name)
        playable = newest.state is AssetState.ACTIVE and newest.policy_id == 0  # no other policy is stored here
        assert (200 if playable else 403) == _answer(player, name), name
        if playable:
            assert {kid.hex() for kid in rig.observer.kids[name]} == set(rig.served[before].fingerprints)
