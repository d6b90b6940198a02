"""The key topic is lost and made again from the asset events, while a proxy gives licenses all along."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from keymill.kafka.admin import describe, load_adoptions
from keymill.kafka.producer import Publisher
from keymill.ops.supervise import Child
from keymill.ops.tokens import ensure_token_key
from schemas import topics
from schemas.ids import asset_key
from tests.broker import running_broker
from tests.gateway_rig import ORGANIZATION, PARTITIONS, Rig, eventually, running
from tests.kafka_commands import keymill, told
from tests.losing import delete, lose, newest, on, start, stop, without
from tests.proxy_rig import challenge

pytestmark = pytest.mark.timeout(240)
ASSETS = 24


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One of everything but a proxy."""
    with running_broker() as bootstrap, running(bootstrap, tmp_path_factory.mktemp("data")) as up:
        yield up


@pytest.fixture(scope="module")
def proxy(rig: Rig) -> Iterator[Child]:
    """A license proxy."""
    ensure_token_key(rig.data, rig.bootstrap, ORGANIZATION)
    environment = {
        "KEYMILL_BOOTSTRAP": rig.bootstrap, "KEYMILL_DATA": str(rig.data), "KEYMILL_MAP_SIZE_GIB": "1",
        "KEYMILL_PROXY_PORT": "0",
    }  # fmt: skip
    child = Child("proxy", ["proxy"], environment)
    child.start()
    child.wait_listening()
    child.wait_ready()
    yield child
    child.signal_stop()
    child.wait_stopped(time.monotonic() + 25)


@dataclass
class Players:
    """Ask for a license of every asset, round and round, until told to stop."""

    url: str
    tokens: dict[str, str]
    kids: dict[str, list[bytes]]
    served: int = 0
    failed: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def ask(self, asset: str) -> httpx.Response:
        """One license."""
        path = f"{self.url}/clearkey/{ORGANIZATION}/{asset}"
        return httpx.post(path, params={"token": self.tokens[asset]}, content=challenge(*self.kids[asset]))

    def run(self) -> None:
        """Until stopped."""
        while not self.stop.is_set():
            for asset in self.tokens:
                answer = self.ask(asset)
                self.served += answer.status_code == 200
                if answer.status_code != 200:
                    self.failed.append(f"{asset}: {answer.status_code} {answer.text}")
            time.sleep(0.01)


def token(rig: Rig, asset: str) -> str:
    """A player's."""
    done = keymill("token", "issue", "--data", rig.data, "--organization", ORGANIZATION, "--asset", asset)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def films(rig: Rig) -> dict[str, list[bytes]]:
    """Assets with tracks, versions and policies; one event is no event and has a dead letter."""
    publisher = Publisher(rig.bootstrap, {topics.ASSETS.name: PARTITIONS})
    publisher.flush_all([publisher.send(topics.ASSETS.name, asset_key(ORGANIZATION, "broken"), b"no event")])
    publisher.close()
    kids = {}
    for number in range(ASSETS):
        name = f"film-{number}"
        answer = rig.post("?wait=1", {"asset_id": name, "tracks": ["SD", "HD"][: 1 + number % 2]})
        assert answer.status_code == 201, answer.text
        if number % 3 == 0:
            assert rig.post(f"/{name}/rotate?wait=1", {}).status_code in (200, 201)
        versions = rig.get(name).json()["versions"]
        kids[name] = [bytes.fromhex(t["kid"].replace("-", "")) for v in versions for t in v["tracks"]]
    return kids


def test_a_lost_key_topic_is_made_again_while_licenses_are_given(rig: Rig, proxy: Child, tmp_path: Path) -> None:
    """
    Every record comes back byte for byte, the proxy never refuses a license that it could give and takes the new topic
    over by itself, and afterwards processor, gateway and proxy work as before.
    """
    kids = films(rig)
    before, ledger = newest(rig), tmp_path / "ledger"
    assert told("audit", *on(rig), "--ledger", str(ledger))["clean"]
    players = Players(proxy.url, {name: token(rig, name) for name in list(kids)[:4]}, kids)
    eventually(lambda: all(players.ask(name).status_code == 200 for name in players.tokens))
    load = threading.Thread(target=players.run)
    load.start()
    try:
        refused = keymill("rebuild", "keys", *on(rig), "--apply", "--wait", "0")
        assert (3, True) == (refused.returncode, "members" in refused.stderr), refused.stderr
        stop(rig)
        delete(rig, topics.KEYS.name)
        planned = told("rebuild", "keys", *on(rig), code=1)
        told_by = ("created", "adopted", "written", "applied")
        assert (True, True, len(before), False) == tuple(planned[name] for name in told_by)
        assert topics.KEYS.name not in describe(rig.bootstrap, [topics.KEYS.name])
        done = told("rebuild", "keys", *on(rig), "--apply")
        assert (len(before), 1, 0) == (done["written"], done["refused"], done["different"])
        assert 1 == load_adoptions(rig.bootstrap)[topics.KEYS.name].generation
        assert before == newest(rig)
        again = told("rebuild", "keys", *on(rig))
        assert (0, len(before), False, False) == tuple(again[n] for n in ("written", "held", "created", "adopted"))
        rig.processor.start()
        rig.processor.wait_listening()
        rig.processor.wait_ready()
        eventually(lambda: httpx.get(f"{proxy.url}/readyz").json().get("live", True), 30)
        eventually(lambda: rig.post("?wait=1", {"asset_id": "sequel", "tracks": ["SD"]}).status_code == 201, 40)
        sequel = rig.get("sequel").json()["versions"][0]["tracks"][0]["kid"]
        players.kids["sequel"] = [bytes.fromhex(sequel.replace("-", ""))]
        players.tokens = players.tokens | {"sequel": token(rig, "sequel")}
        eventually(lambda: players.ask("sequel").status_code == 200, 30)
    finally:
        players.stop.set()
        load.join()
    assert [] == [line for line in players.failed if not line.startswith("sequel")]
    assert players.served > 50
    views = [f"--snapshot={rig.data / 'views' / name}" for name in ("proxy", "gateway")]
    audit = told("audit", *on(rig), "--against", str(ledger), *views)
    assert (True, {}) == (audit["clean"], audit["counts"]), audit["differences"]
    assert b"audit/last" in newest(rig, topics.STATUS)


def test_what_is_missing_is_repaired_by_the_owner(rig: Rig) -> None:
    """
    Records that a topic lacks, here because it was filled from a part of the log, are listed, planned, asked for and
    verified; the identities are those from before.
    """
    before = newest(rig)
    lost = {key for key in before if key.startswith(asset_key(ORGANIZATION, "film-3")) and b"film-3" in key}
    stop(rig)
    lose(rig, topics.KEYS, without(*lost))
    start(rig)
    found = told("replay", *on(rig), code=1)
    assert (len(lost), 0, 0) == tuple(found[name] for name in ("missing", "different", "unexpected"))
    later = told("replay", *on(rig), "--from-time", "0", code=1)
    assert (1, 0, 0) == tuple(later[name] for name in ("missing", "different", "unexpected"))
    planned = told("replay", *on(rig), "--repair", code=1)
    assert (1, False) == (planned["requests"], planned["applied"])
    assert lost.isdisjoint(newest(rig))
    done = told("replay", *on(rig), "--repair", "--apply")
    assert (1, 0) == (done["requests"], done["after"]["missing"])
    assert before == newest(rig)
    one = told("replay", *on(rig), "--assets", f"{ORGANIZATION}/film-3")
    assert (len(lost), 0) == (one["identical"], one["missing"])


def test_another_set_of_topics_is_written(rig: Rig) -> None:
    """The same records under another name, once; our own set is untouched."""
    before = newest(rig)
    assert 2 == keymill("replay", *on(rig), "--into", "drm", "--apply").returncode
    planned = told("replay", *on(rig), "--into", "next", code=1)
    assert [len(before), 1] == [each["written"] for each in planned]
    assert "next.drm.keys.v1" not in describe(rig.bootstrap, ["next.drm.keys.v1"])
    told("replay", *on(rig), "--into", "next", "--apply")
    assert before == newest(rig, topics.in_set(topics.KEYS, "next"))
    again = told("replay", *on(rig), "--into", "next", "--apply")
    assert [0, 0] == [each["written"] for each in again] and before == newest(rig)


def test_lost_policies_are_made_again(rig: Rig) -> None:
    """From their changes, and read by everybody once they are adopted."""
    before = newest(rig, topics.POLICIES)
    stop(rig)
    delete(rig, topics.POLICIES.name)
    done = told("rebuild", "policies", *on(rig), "--apply")
    assert (1, True, True) == (done["written"], done["created"], done["adopted"])
    assert before == newest(rig, topics.POLICIES)
    rig.processor.start()
    rig.processor.wait_listening()
    rig.processor.wait_ready()
    eventually(lambda: rig.client.get("/readyz").status_code == 200, 30)
    assert 2 == rig.make_policy()


def test_a_dropped_archive_is_filled_again(rig: Rig) -> None:
    """From what the topics hold; planned first, and then nothing is left. A URL that is none is no empty archive."""
    file = rig.data / "archive.sqlite"
    assert 2 == keymill("rebuild", "archive", *on(rig), KEYMILL_ARCHIVE_URL="nonsense").returncode
    for _ in range(2):
        planned = told("rebuild", "archive", *on(rig), code=1)
        assert planned["offsets"] > ASSETS and not file.exists()
        told("rebuild", "archive", *on(rig), "--apply")
        assert file.exists() and 0 == told("rebuild", "archive", *on(rig))["offsets"]
        for part in rig.data.glob("archive.sqlite*"):
            part.unlink()


def test_drafts_are_simulated(rig: Rig, tmp_path: Path) -> None:
    """Which assets another default policy, and another schedule of roots, would change; nothing is written."""
    policies, schedule = tmp_path / "policies.json", tmp_path / "schedule.json"
    policies.write_text(json.dumps({ORGANIZATION: {"0": {"can_play": False}, "9": {"can_play": True}}}))
    roots = [{"root_version": 1, "activates": 0}, {"root_version": 2, "activates": 1}]
    schedule.write_text(json.dumps({ORGANIZATION: roots}))
    shown = keymill("replay", *on(rig), "--simulate", "--policies", policies)
    assert (1, ASSETS + 1) == (shown.returncode, sum("policy 0" in line for line in shown.stdout.splitlines()))
    shown = keymill("replay", *on(rig), "--simulate", "--schedule", schedule, "--json")
    (line,) = shown.stdout.splitlines()
    effects = json.loads(line)
    assert {("root_version", "1", "2")} == {(each["what"], each["now"], each["then"]) for each in effects}
    assert ASSETS + ASSETS // 3 + 1 == len(effects)
    assert told("audit", *on(rig))["clean"]
