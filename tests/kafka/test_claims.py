"""Chosen and imported KIDs with real processes: who wins one, whoever asks and whoever dies; keys come in whole."""

import csv
import json
import secrets
import signal
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from keymill.core.derive import derive_chosen
from keymill.kafka.outgoing import Outgoing
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.ops.changes import application
from keymill.ops.credentials import Kind, create_credential
from schemas import topics
from schemas.codec import encode
from schemas.ids import claim_key
from schemas.partition import partition_for
from schemas.records import Claim
from schemas.values import LogPosition, Scheme
from tests.drawn import ORGANIZATION
from tests.e2e.leaks import files_of, leaks
from tests.e2e.player import b64, token_for, unb64
from tests.e2e.programs import Program, get, wait_for
from tests.e2e.rig import PARTITIONS, Rig, rig_of
from tests.kafka_commands import keymill, told

RACES = 12


@dataclass
class Site:
    """Two gateways and two processors over one cluster, and a proxy."""

    rig: Rig
    gateways: list[Program]
    processors: list[Program]
    proxy: Program
    api_key: str

    def post(self, asset: str, kid: str, *, gateway: int = 0, label: str = "SD") -> tuple[int, dict[str, Any]]:
        """Ask for an asset with a KID of one's own, and wait for what becomes of it."""
        body = {"asset_id": asset, "tracks": [{"track_type": label, "kid": kid}]}
        return self._call("?wait=1", json.dumps(body).encode(), gateway)

    def asset(self, asset: str) -> tuple[int, dict[str, Any]]:
        return self._call(f"/{asset}", None, 0)

    def _call(self, path: str, body: bytes | None, gateway: int, **headers: str) -> tuple[int, dict[str, Any]]:
        url = f"{self.gateways[gateway].url}/v1/organizations/{ORGANIZATION}/assets{path}"
        status, answer = get(url, body, Authorization=f"Bearer {self.api_key}", **headers)
        return status, json.loads(answer or b"{}")

    def license(self, asset: str, kids: list[bytes]) -> dict[bytes, bytes]:
        """The keys of a ClearKey license."""
        challenge = json.dumps({"kids": [b64(kid) for kid in kids], "type": "temporary"}).encode()
        url = f"{self.proxy.url}/clearkey/{ORGANIZATION}/{asset}?token={token_for(self.rig.data, asset)}"
        status, answer = get(url, challenge)
        assert status == 200, answer
        return {unb64(key["kid"]): unb64(key["k"]) for key in json.loads(answer)["keys"]}

    def on(self) -> list[str]:
        return ["--data", str(self.rig.data), "--bootstrap", self.rig.bootstrap]

    def verdict(self) -> None:
        """No invariant is broken, and a replay finds every record."""
        self.rig.settle(*self.processors)
        assert self.rig.violations() == []
        report = self.rig.replay()
        assert (0, 0, 0) == tuple(report[name] for name in ("missing", "different", "unexpected")), report


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with rig_of(tmp_path_factory.mktemp("claims")) as rig:
        made = create_credential(rig.bootstrap, rig.data / "keys.json", ORGANIZATION, Kind.API_KEY, "tests")
        processors = [rig.processor(f"claims-{number}") for number in range(2)]
        gateways = [rig.program("gateway", f"gateway-{number}", KEYMILL_WAIT_S="8") for number in range(2)]
        proxy = rig.program("proxy", "proxy")
        for program in (*processors, *gateways, proxy):
            program.wait_ready()
        yield Site(rig, gateways, processors, proxy, made.secrets["api_key"])


def test_a_conflicting_claim_is_409_with_the_winners_coordinates(site: Site) -> None:
    """The first asset has the KID and its key; the second is refused through either gateway, and does not exist."""
    kid = str(uuid.uuid4())
    status, first = site.post("taken-1", kid)
    assert (status, [track["kid"] for track in first["tracks"]]) == (201, [kid])
    for gateway in (0, 1):
        status, problem = site.post("taken-2", kid, gateway=gateway)
        assert (status, problem["code"], problem["field"]) == (409, "kid_taken", "tracks.kid")
        place = f"drm.assets.v1 partition {first['partition']} offset {first['offset']}"
        assert f"asset taken-1, key version 1, through the event at {place}" in problem["detail"]
        assert problem["event"]["partition"] == partition_for(f"{ORGANIZATION}/taken-2".encode(), PARTITIONS)
    assert site.asset("taken-2")[0] == 404
    keyring = Keyring(KeyFile(site.rig.data / "keys.json"))
    raw = uuid.UUID(kid).bytes
    cek = derive_chosen(keyring.prk(ORGANIZATION, 1), ORGANIZATION, raw).cek.reveal()
    wait_for(lambda: site.asset("taken-1")[0] == 200)
    assert site.license("taken-1", [raw]) == {raw: cek}
    assert site.post("taken-1", kid, gateway=1)[0] == 201, "the same again is a repeat"
    site.verdict()


def test_two_gateways_and_two_processors_give_a_kid_to_one_asset(site: Site) -> None:
    """Both ask at the same moment, for assets that different processors own: one 201 and one 409, every time."""

    def race(number: int) -> tuple[str, list[tuple[int, dict[str, Any]]]]:
        kid = str(uuid.uuid4())
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(site.post, f"race-{number}-{side}", kid, gateway=side) for side in (0, 1)]
            return kid, [each.result() for each in asked]

    with ThreadPoolExecutor(4) as pool:
        races = list(pool.map(race, range(RACES)))
    crossed = 0
    for number, (kid, answers) in enumerate(races):
        assert sorted(status for status, _ in answers) == [201, 409], answers
        winner = next(side for side, (status, _) in enumerate(answers) if status == 201)
        told_ = answers[1 - winner][1]["detail"]
        assert f"KID {kid} is taken by asset race-{number}-{winner}," in told_
        assert site.asset(f"race-{number}-{1 - winner}")[0] == 404
        partitions = {partition_for(f"{ORGANIZATION}/race-{number}-{side}".encode(), PARTITIONS) for side in (0, 1)}
        crossed += len(partitions) == 2
    assert crossed > 0
    assert all(program.metric("keymill_events_total") > 0 for program in site.processors)
    site.verdict()


@pytest.mark.parametrize("point", ["after_claims", "after_dead_letters", "after_publish"])
def test_a_kill_between_claim_and_record_changes_nothing(site: Site, point: str) -> None:
    """Processors die with claims written and records not: their successors give each KID to the same asset, once."""
    for program in site.processors:
        program.kill()
        program.again(KEYMILL_TEST_CRASH_AT=f"{point}:1")
    for program in site.processors:
        program.wait_ready()
    kids = [str(uuid.uuid4()) for _ in range(8)]
    with ThreadPoolExecutor(16) as pool:
        asked = [
            (number, side, pool.submit(site.post, f"{point}-{number}-{side}", kid, gateway=side))
            for number, kid in enumerate(kids)
            for side in (0, 1)
        ]
        wait_for(lambda: any(program.process.poll() == -signal.SIGKILL for program in site.processors), 30)
        time.sleep(0.5)
        for program in site.processors:
            program.kill()
            program.again()
            program.wait_ready()
        answers = [(number, side, each.result()) for number, side, each in asked]
    for number in range(len(kids)):
        found = sorted(status for index, _, (status, _) in answers if index == number)
        assert found == [201, 409], answers
    site.verdict()


def test_an_orphaned_claim_is_released_by_command(site: Site) -> None:
    """A KID that a refused event claimed is refused to others, until it is released while no processor is at work."""
    taken, orphaned = str(uuid.uuid4()), uuid.uuid4()
    assert site.post("holder", taken)[0] == 201
    refused = site.post("orphan", taken)[1]["event"]
    claim = Claim(
        organization=ORGANIZATION, kid=orphaned.bytes, asset="orphan", key_version=2, label="SD", scheme=Scheme.CBCS,
        root_version=1, event=LogPosition(generation=0, offset=refused["offset"]),
    )  # fmt: skip
    record_key = claim_key(ORGANIZATION, orphaned.bytes)
    partition = topics.partition_of(topics.CLAIMS, record_key, PARTITIONS)
    with application(site.rig.bootstrap, {topics.CLAIMS.name: PARTITIONS}) as changes:
        changes.make(
            Outgoing(topic=topics.CLAIMS.name, record_key=record_key, value=encode(claim), partition=partition), "test"
        )
        changes.finish()
    wait_for(lambda: site.post("wants-it", str(orphaned))[1].get("code") == "kid_taken")
    site.rig.settle(*site.processors)
    (row,) = told("claims", "release", *site.on(), code=1)["orphans"]
    assert (row["kid"], row["asset"]) == (orphaned.hex, "orphan")
    assert keymill("claims", "release", "--apply", "--wait", "0", *site.on()).returncode == 3
    assert keymill("claims", "release", "--kid", taken, *site.on()).returncode == 2
    for program in site.processors:
        program.stop()
    assert told("claims", "release", "--kid", str(orphaned), "--apply", *site.on())["applied"]
    assert told("claims", "release", *site.on()) == {"orphans": [], "applied": False}
    for program in site.processors:
        program.again()
        program.wait_ready()
    assert site.post("wants-it", str(orphaned))[0] == 201
    assert site.post("orphan", str(orphaned))[1]["code"] == "kid_taken"
    site.verdict()


def library(path: Path, assets: int) -> dict[str, dict[bytes, bytes]]:
    """A CSV of three keys per asset, in the spellings that such files have; the keys by asset and KID."""
    keys: dict[str, dict[bytes, bytes]] = {}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["asset", "track", "kid", "key", "iv", "scheme"])
        for number in range(assets):
            for label, scheme in (("SD", "cbcs"), ("HD", ""), ("AUDIO", "cenc")):
                kid, key, iv = uuid.uuid4(), secrets.token_bytes(16), secrets.token_bytes(16)
                keys.setdefault(f"{path.stem}-{number}", {})[kid.bytes] = key
                writer.writerow(
                    [f"{path.stem}-{number}", label, kid, key.hex(), iv.hex() if number % 2 else "", scheme]
                )
    return keys


def test_a_library_comes_in_once_and_is_served_as_it_was(site: Site, tmp_path: Path) -> None:
    """Plan, apply, apply again; licenses hold the file's keys, and no key of it stands in any topic, log or file."""
    path = tmp_path / "library.csv"
    keys = library(path, 40)
    command = ["import", "csv", path, "--organization", ORGANIZATION, *site.on()]
    plan = told(*command, code=1)
    assert (plan["rows"], plan["keys"], plan["assets"], plan["problems"], plan["applied"]) == (120, 120, 40, [], False)
    assert told(*command, "--apply", code=0)["applied"]
    site.rig.settle(*site.processors)
    again = told(*command, "--apply", code=0)
    assert (again["keys"], again["present"], again["problems"]) == (0, 120, [])
    wait_for(lambda: site.asset("library-39")[0] == 200)
    wait_for(lambda: get(f"{site.proxy.url}/readyz")[0] == 200)
    for asset, wanted in keys.items():
        assert site.license(asset, list(wanted)) == wanted
    rows = path.read_text().splitlines()
    changed = tmp_path / "changed.csv"
    stolen = rows[1].replace("library-0", "thief")
    changed.write_text("\n".join([rows[0], rows[1].replace(rows[1].split(",")[3], "00" * 16), stolen, *rows[2:4]]))
    answer = keymill("import", "csv", changed, "--organization", ORGANIZATION, "--apply", *site.on())
    assert answer.returncode == 1
    assert "changed.csv:2: track: the track is there with another key" in answer.stdout
    assert "changed.csv:3" in answer.stdout and "nothing was sent" in answer.stdout
    clear = {f"key of {kid.hex()}": key for found in keys.values() for kid, key in found.items()}
    logs = [program.log for program in site.rig.programs]
    said = {"the command": (answer.stdout + answer.stderr).encode()}
    folders = [site.rig.data, *logs, broker_folder(site.rig)]
    assert leaks(clear, files_of(*folders), said) == []
    site.verdict()


def broker_folder(rig: Rig) -> Path:
    """Where the broker keeps its logs: a topic is what it has on disk."""
    assert rig.kafka is not None
    folder = rig.kafka.data
    assert any(topics.CLAIMS.name in str(path) for path in folder.rglob("*"))
    return folder
