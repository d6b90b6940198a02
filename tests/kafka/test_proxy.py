"""The proxy as a program, against a real broker: follows, serves, survives its children's and the broker's death."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keymill.kafka.admin import create_topics, require_topics
from keymill.kafka.embedded import EmbeddedKafka
from keymill.kafka.producer import Outgoing, Publisher
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.ops.credentials import create_organization
from keymill.ops.tokens import ensure_token_key, put_service
from schemas import topics
from schemas.codec import encode
from schemas.events import AssetRevoked
from schemas.ids import asset_key
from tests import builders
from tests.authentic import installation
from tests.broker import embedded_kafka
from tests.proxy_rig import challenge, key_records, public_pem, unb64

pytestmark = pytest.mark.timeout(170)
CLI = [sys.executable, "-m", "keymill.ops.cli"]
START_S = 30.0


@dataclass
class House:
    """A data folder and a broker with one asset, published as the processor would."""

    data: Path
    kafka: EmbeddedKafka
    clear: dict[bytes, bytes] = field(default_factory=dict)

    def publish(self, asset: str) -> list[bytes]:
        """Publish an asset's records; its KIDs."""
        keyring = Keyring(KeyFile(self.data / "keys.json"))
        record = builders.folded(builders.ingest("SD", "HD", "AUDIO", asset=asset))
        outgoing, kids = [], []
        for record_key, made, clear in key_records(keyring, record):
            self.clear |= clear
            kids += [track.kid for track in made.tracks]
            outgoing.append(Outgoing(topic=topics.KEYS.name, record_key=record_key, value=encode(made)))
        name = asset_key("demo", asset)
        outgoing.append(Outgoing(topic=topics.KEYS.name, record_key=name, value=encode(record)))
        adopted = require_topics(self.kafka.bootstrap, [topics.KEYS.name])
        publisher = Publisher(self.kafka.bootstrap, {name: each.partitions for name, each in adopted.items()})
        publisher.flush_all([publisher.send_batch(outgoing)])
        publisher.close()
        return kids

    def revoke(self, asset: str) -> None:
        """Publish that the asset is revoked."""
        events = builders.ingest("SD", "HD", "AUDIO", asset=asset), builders.event(AssetRevoked(), asset=asset)
        value, record_key = encode(builders.folded(*events)), asset_key("demo", asset)
        adopted = require_topics(self.kafka.bootstrap, [topics.KEYS.name])
        partitions = {name: each.partitions for name, each in adopted.items()}
        with closing(Publisher(self.kafka.bootstrap, partitions)) as publisher:
            publisher.flush_all([publisher.send(topics.KEYS.name, record_key, value)])

    def token(self, asset: str, *options: str) -> str:
        """What `keymill token issue` prints."""
        command = [*CLI, "token", "issue", "--data", str(self.data), "--organization", "demo", "--asset", asset]
        return subprocess.run([*command, *options], capture_output=True, text=True, check=True).stdout.strip()


@dataclass
class Proxy:
    """A running `keymill proxy`."""

    process: "subprocess.Popen[bytes]"
    url: str
    admin: str

    def ask(self, asset: str, kids: list[bytes], token: str) -> httpx.Response:
        """One license request on a connection of its own."""
        return httpx.post(f"{self.url}/clearkey/demo/{asset}", params={"token": token}, content=challenge(*kids))

    def until(self, status: int, asset: str, kids: list[bytes], token: str) -> httpx.Response:
        """Ask until that is the answer."""
        deadline = time.monotonic() + START_S
        while (response := self.ask(asset, kids, token)).status_code != status:
            assert time.monotonic() < deadline, response.text
            time.sleep(0.02)
        return response

    def children(self, module: str) -> list[int]:
        """Process ids of its children that run *module*."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes()
            except (OSError, ValueError):
                continue
            if stat[1] == str(self.process.pid) and stat[0] != "Z" and module.encode() in command:
                found.append(int(entry.name))
        return found


@contextmanager
def proxy_of(house: House, *options: str) -> Iterator[Proxy]:
    """Run a proxy; it must end with 0 on SIGTERM."""
    command = [*CLI, "proxy", "--data", str(house.data), "--bootstrap", house.kafka.bootstrap, "--port", "0", *options]
    with (house.data / "proxy.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (house.data / "proxy.log").read_text()[-2000:]
        yield Proxy(process, json.loads(line)["listening"], json.loads(line)["admin"])
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(30)
    assert 0 == status


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A broker, a key file, one asset, a token key and the demo service."""
    data = tmp_path_factory.mktemp("data")
    installation(data, "demo")
    with embedded_kafka() as kafka:
        create_topics(kafka.bootstrap, partitions=4)
        ensure_token_key(data, kafka.bootstrap, "demo")
        put_service(kafka.bootstrap, "demo")
        yield House(data, kafka)


def keys_of(response: httpx.Response) -> dict[bytes, bytes]:
    return {unb64(key["kid"]): unb64(key["k"]) for key in response.json()["keys"]}


FREEZE_S = 60
"""Longer than any question to the brokers waits (10 s), so that clients give offsets that nobody said."""
APPLIED_S = 5.0
FRESH_S = 15.0
"""Within which a proxy has seen again that it holds all there is, and says that it is ready."""


def test_a_broker_that_is_silent_for_a_minute_stops_no_view(house: House) -> None:
    """Licenses go on meanwhile and say how old they are; a revocation applies within seconds of the broker's return."""
    kids, token = house.publish("silent"), house.token("silent")
    with proxy_of(house) as proxy:
        proxy.until(200, "silent", kids, token)
        pid = house.kafka.pids[0]
        os.kill(pid, signal.SIGSTOP)
        try:
            until, told = time.monotonic() + FREEZE_S, ""
            while time.monotonic() < until:
                assert 200 == proxy.ask("silent", kids, token).status_code
                told = told or httpx.get(f"{proxy.url}/readyz").json().get("degraded", "")
                time.sleep(0.2)
            assert "the copy is" in told
        finally:
            os.kill(pid, signal.SIGCONT)
        back = time.monotonic()
        house.revoke("silent")
        assert 403 == proxy.until(403, "silent", kids, token).status_code
        assert time.monotonic() - back < APPLIED_S
        while "degraded" in (ready := httpx.get(f"{proxy.url}/readyz").json()) and time.monotonic() - back < FRESH_S:
            time.sleep(0.2)
        assert {"status": "ready"} == ready


def test_published_records_are_served(house: House) -> None:
    """From the topic to the license, on every route; a record that comes later is served within moments."""
    kids = house.publish("film")
    token = house.token("film")
    with proxy_of(house) as proxy:
        served = keys_of(proxy.until(200, "film", kids, token))
        assert {kid: house.clear[kid] for kid in kids} == served
        url = f"{proxy.url}/api/v1/demo/assets/film/drm_license/"
        answer = httpx.post(url, params={"access_token": token, "drm_type": "clearkey"}, content=challenge(kids[0]))
        assert {kids[0]: house.clear[kids[0]]} == keys_of(answer)
        params = {"service": "demo", "version": "1.0", "kid": kids[1].hex().upper(), "ptoken": token}
        answer = httpx.post(f"{proxy.url}/getlicense", params=params, content=challenge(kids[1]))
        assert served == keys_of(answer)
        assert "token_expired" == proxy.ask("film", kids, house.token("film", "--expires-in", "-60")).json()["code"]
        assert 404 == proxy.ask("late", kids, house.token("late")).status_code
        late = house.publish("late")
        answer = proxy.until(200, "late", late, house.token("late"))
        assert set(late) == set(keys_of(answer))
        assert 200 == httpx.get(f"{proxy.url}/readyz").status_code
    log = (house.data / "proxy.log").read_text()
    assert '"reason":"granted"' in log
    for key in house.clear.values():
        assert key.hex() not in log


def test_portals_own_key_is_added_and_retired(house: House, tmp_path: Path) -> None:
    """`keymill token-key add`, `list` and `retire` take effect on a running proxy within moments."""
    kids = house.publish("film")
    create_organization(house.kafka.bootstrap, house.data / "keys.json", "demo")
    signer = Ed25519PrivateKey.generate()
    (tmp_path / "portal.pub").write_text(public_pem(signer))
    options = ["--organization", "demo", "--bootstrap", house.kafka.bootstrap, "--data", str(house.data)]

    def run(*command: str) -> str:
        return subprocess.run(
            [*CLI, "token-key", *command, *options], capture_output=True, text=True, check=True
        ).stdout

    key_id = run("add", "--public", str(tmp_path / "portal.pub"), "--label", "portal").strip()
    claims = {"organization": "demo", "asset": "film", "exp": time.time() + 600}
    token = jwt.encode(claims, signer, algorithm="EdDSA", headers={"kid": key_id})
    with proxy_of(house, "--workers", "2") as proxy:
        assert set(kids) == set(keys_of(proxy.until(200, "film", kids, token)))
        listed = {row["id"]: row for row in json.loads(run("list", "--json"))}
        assert ("EdDSA", "portal", False) == tuple(listed[key_id][name] for name in ("algorithm", "label", "retired"))
        assert 2 == len(listed)
        run("retire", key_id)
        assert "token_invalid" == proxy.until(401, "film", kids, token).json()["code"]
        assert "retired" in run("list")
        assert "keymill_licenses_total" in httpx.get(f"{proxy.admin}/metrics").text


def test_killed_children_come_back(house: House) -> None:
    """Each worker and the follower is started again; nobody is refused a connection meanwhile."""
    kids = house.publish("series")
    token = house.token("series")
    with proxy_of(house, "--workers", "2") as proxy:
        proxy.until(200, "series", kids, token)
        before = proxy.children("keymill.proxy.worker")
        assert 2 == len(before)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        assert 200 == proxy.ask("series", kids, token).status_code
        deadline = time.monotonic() + START_S
        while len(now := proxy.children("keymill.proxy.worker")) < 2 or set(now) & set(before):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        [follower] = proxy.children("keymill.snapshot.follower")
        os.kill(follower, signal.SIGKILL)
        later = house.publish("sequel")
        answer = proxy.until(200, "sequel", later, house.token("sequel"))
        assert set(later) == set(keys_of(answer))


def test_killed_proxy_leaves_nobody_behind(house: House) -> None:
    """SIGKILL of the program ends its workers and its follower, so that the next one can have port and folder."""
    kids = house.publish("film")
    token = house.token("film")
    command = [*CLI, "proxy", "--data", str(house.data), "--bootstrap", house.kafka.bootstrap, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["listening"]
    port = url.rpartition(":")[2]
    process.kill()
    process.wait()
    with proxy_of(house, "--port", port) as proxy:
        assert url == proxy.url
        proxy.until(200, "film", kids, token)


def test_playback_survives_the_broker(house: House) -> None:
    """Without brokers the proxy serves and says how old its copy is; even a new one serves from the snapshot."""
    kids = house.publish("film")
    token = house.token("film")
    with proxy_of(house) as proxy:
        proxy.until(200, "film", kids, token)
        house.kafka.stop()
        unknown = proxy.until(503, "nothing", kids, house.token("nothing"))
        assert "retry-after" in unknown.headers
        answer = proxy.ask("film", kids, token)
        assert 200 == answer.status_code
        assert float(answer.headers["x-keymill-staleness"]) > 1
    with proxy_of(house) as proxy:
        answer = proxy.until(200, "film", kids, token)
        assert set(kids) == set(keys_of(answer))
        assert float(answer.headers["x-keymill-staleness"]) > 1
        assert 503 == proxy.ask("nothing", kids, house.token("nothing")).status_code
