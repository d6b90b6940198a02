"""A KEK is rotated while players ask: the command and a processor are killed in between, and no license fails."""

import json
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from keymill.kafka.admin import end_offsets
from keymill.kafka.outgoing import Outgoing
from keymill.kafka.scan import scan_partition
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.ops import access
from keymill.ops.changes import application
from keymill.ops.credentials import Kind, create_credential
from keymill.ops.owners import unexecuted
from schemas import topics
from schemas.access import NcpKey
from schemas.codec import decode, encode
from schemas.ids import asset_key, is_key_set
from schemas.operations import OwnerRequest, RequestKind
from schemas.records import KeyRecord
from tests.drawn import ORGANIZATION
from tests.e2e.player import Player
from tests.e2e.programs import CLI, get, wait_for
from tests.e2e.rig import GROUP, PARTITIONS, Rig
from tests.gateway_rig import ncp_headers
from tests.history import Accepted

pytestmark = pytest.mark.timeout(240)
ASSETS = 400
RATE = "100"
"""Slow enough to be killed in between: 400 assets take four seconds."""


def rotate(rig: Rig, *arguments: str) -> "subprocess.Popen[str]":
    """`keymill rotate-kek`, with --json."""
    command = [*CLI, "rotate-kek", "--organization", ORGANIZATION, "--data", str(rig.data)]
    command += ["--bootstrap", rig.bootstrap, "--json", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: "subprocess.Popen[str]", code: int) -> dict[str, Any]:
    """What it said."""
    out, err = process.communicate(timeout=120)
    assert code == process.returncode, err + out
    told: dict[str, Any] = json.loads(out)
    return told


def epochs_in_log(rig: Rig) -> Counter[int]:
    """Of the newest record of every key record's key, as compaction would leave them."""
    found: dict[bytes, int] = {}
    for partition, end in end_offsets(rig.bootstrap, topics.KEYS.name).items():
        for message in scan_partition(rig.bootstrap, topics.KEYS.name, partition, end=end):
            if is_key_set(message.key() or b""):
                found[message.key() or b""] = decode(message.value() or b"", KeyRecord).kek_epoch
    return Counter(found.values())


@contextmanager
def asking(player: Player, names: list[str], statuses: Counter[int]) -> Iterator[None]:
    """Ask for one asset after the other inside the block, and count the answers."""
    stop = threading.Event()

    def ask() -> None:
        for number in range(10**9):
            if stop.wait(0.01):
                return
            statuses[player.ask(names[number % len(names)])] += 1

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)


def test_a_kek_is_rotated_under_load_and_through_kills(rig: Rig) -> None:
    """From the plan to a proxy that starts with nothing: every license is given, the old KEK is handed out no more."""
    keys = rig.data / "keys.json"
    ncp = create_credential(rig.bootstrap, keys, ORGANIZATION, Kind.NCP, "console")
    environment = {"KEYMILL_REPORT_S": "1"}
    processor = rig.processor("kek", **environment)
    gateway = rig.program("gateway", "kek-gateway", **environment)
    proxy = rig.program("proxy", "kek-proxy", **environment)
    for program in (processor, gateway, proxy):
        program.wait_ready()
    driver = rig.driver("kek", broken=0)
    names = [f"kek-{number}" for number in range(ASSETS)]
    for name in names:
        driver.ingest(name)
    driver.flush()
    rig.settle()

    plan = ended(rotate(rig), 1)
    first = KeyFile(keys).epochs(ORGANIZATION)[-1].epoch
    assert (first + 1, False, False) == (plan["epoch"], plan["complete"], plan["steps"][0]["done"])
    assert first == KeyFile(keys).epochs(ORGANIZATION)[-1].epoch

    target, statuses = first + 1, Counter[int]()
    player = Player(proxy.url, rig.data, rig.observer, rig.served)
    stop = threading.Event()
    load = threading.Thread(target=_ingest, args=(driver, stop), daemon=True)
    load.start()
    with asking(player, names, statuses):
        killed = rotate(rig, "--apply", "--rate", RATE)
        wait_for(lambda: epochs_in_log(rig)[target] > ASSETS // 10, 60, 0.2)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        assert epochs_in_log(rig)[first] > 0
        again = rotate(rig, "--apply", "--rate", RATE, "--to", str(target), "--wait", "60")
        time.sleep(2)
        processor.kill()
        processor.again()
        done = ended(again, 0)
        assert (target, True, None) == (done["epoch"], done["complete"], done["waits_for"])
        time.sleep(6)  # the proxy lets go of the old KEK meanwhile, and serves on
    stop.set()
    load.join(30)
    rig.settle(processor)

    assert {200} == set(statuses)
    assert statuses[200] > 200
    print(f"{statuses[200]} licenses while {done['rewrapped']} key records were wrapped again")
    assert {target} == set(epochs_in_log(rig))
    assert (target,) == Keyring(KeyFile(keys)).open_epochs(ORGANIZATION)
    assert 0 == ended(rotate(rig, "--to", str(target)), 0)["rewrapped"]
    _the_gateway_reads_the_credential(rig, gateway.url, ncp.secrets, target)
    assert 0 == proxy.stop(), proxy.tail()
    shutil.rmtree(rig.data / "views" / "proxy")
    proxy.again()
    proxy.wait_ready()
    cold = Player(proxy.url, rig.data, rig.observer, rig.served)
    assert Counter({200: ASSETS}) == Counter(cold.ask(name) for name in names)
    _repairs_change_nothing(rig, driver.accepted, names[:20])
    assert [0, 0, 0] == [program.stop() for program in (processor, gateway, proxy)]
    rig.verdict()


def _repairs_change_nothing(rig: Rig, accepted: list[Accepted], names: list[str]) -> None:
    """The owner reads the named events again, finds all of it there, and refuses a request for what is not there."""
    partitions, before = {topics.REQUESTS.name: PARTITIONS}, end_offsets(rig.bootstrap, topics.KEYS.name)
    letters = len(rig.observer.others)
    offsets = {name: tuple(sorted(each.offset for each in accepted if each.asset == name)) for name in names}
    assert all(offsets.values())
    with application(rig.bootstrap, partitions) as changes:
        for name in names:
            changes.make(_repair(name, offsets[name]), "repair")
        changes.make(_repair(names[0], (*offsets[names[0]], 10**9)), "repair")
        changes.finish()
    ends = end_offsets(rig.bootstrap, topics.REQUESTS.name)
    wait_for(lambda: not unexecuted(rig.bootstrap, GROUP, ends), 30)
    assert before == end_offsets(rig.bootstrap, topics.KEYS.name)
    rig.observer.read_to_end()
    assert ["event_missing"] == [each.reason for each in rig.observer.others[letters:]]


def _repair(asset: str, offsets: tuple[int, ...]) -> Outgoing:
    request = OwnerRequest(
        organization=ORGANIZATION,
        asset=asset,
        kind=RequestKind.REPAIR,
        offsets=offsets,
        request_id="r-1",
        requested=time.time_ns() // 1_000_000,
    )
    return Outgoing(topic=topics.REQUESTS.name, record_key=asset_key(ORGANIZATION, asset), value=encode(request))


def _ingest(driver: Any, stop: threading.Event) -> None:
    """New assets and new key versions all the while: nothing is wrapped under the old epoch after the activation."""
    for number in range(10**6):
        if stop.wait(0.05):
            break
        driver.ingest(f"kek-late-{number}")
        driver.flush()


def _the_gateway_reads_the_credential(rig: Rig, url: str, secrets: dict[str, str], target: int) -> None:
    held = access.credentials(rig.bootstrap, ORGANIZATION)[secrets["ncp_access_key"]]
    assert isinstance(held.body, NcpKey)
    assert target == held.body.kek_epoch
    headers = ncp_headers(secrets["ncp_access_key"], secrets["ncp_secret_key"], "GET", "/api/v1/policy")
    assert 200 == get(f"{url}/api/v1/policy", None, **headers)[0]


def test_a_rotation_waits_for_a_program_that_lacks_the_kek(rig: Rig) -> None:
    """It names the program, wraps nothing under the new epoch, and says how to go on."""
    keys = rig.data / "keys.json"
    copied = rig.data.with_name("rotation-copied-keys.json")
    shutil.copy2(keys, copied)
    processor = rig.processor("held", KEYMILL_REPORT_S="1")
    proxy = rig.program("proxy", "held-proxy", KEYMILL_REPORT_S="1", KEYMILL_KEY_FILE=str(copied))
    for program in (processor, proxy):
        program.wait_ready()
    current = Keyring(KeyFile(keys)).current_epoch(ORGANIZATION)
    told = ended(rotate(rig, "--apply", "--wait", "4"), 1)
    assert "proxy/" in told["waits_for"]
    assert current == Keyring(KeyFile(keys)).current_epoch(ORGANIZATION)
    shutil.copy2(keys, copied)
    target = told["epoch"]
    assert ended(rotate(rig, "--apply", "--wait", "60", "--to", str(target)), 0)["complete"]
    assert target == Keyring(KeyFile(keys)).current_epoch(ORGANIZATION)
