"""The drill: what no log gives back is saved, everything is lost, and callers and players find what they had."""

import base64
import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from keymill.core.envelope import ClearKey, wrap_imported
from keymill.kafka.admin import describe, end_offsets, load_adoptions
from keymill.kafka.producer import Publisher
from keymill.kafka.scan import scan_partition
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyfile_format import Content
from keymill.kms.keyring import Keyring
from keymill.kms.rotation import activate_kek, add_intake_kek, add_kek, add_root, retire_keks
from keymill.ops import access
from keymill.ops.supervise import Child
from keymill.ops.tokens import ensure_token_key, put_service
from keymill.secret import Secret
from schemas import topics
from schemas.codec import encode
from schemas.events import AssetEvent, AssetIngested, TrackWish
from schemas.ids import asset_key
from schemas.topics import BY_NAME
from tests.broker import embedded_kafka
from tests.e2e.leaks import spellings
from tests.gateway_rig import ORGANIZATION, PARTITIONS, Rig, eventually, running
from tests.kafka.test_commands import keymill, told
from tests.proxy_rig import challenge

PEOPLE = ("ada", "ben", "cora")


@dataclass
class Before:
    """The installation that is lost, and what its callers were given."""

    folder: Path
    rig: Rig
    film: dict[str, Any]
    classic: bytes
    token: str
    licenses: tuple[bytes, bytes]
    topic_ids: dict[str, str]
    saved: dict[str, Any]
    output: str

    @property
    def identities(self) -> list[str]:
        """Two of the three custodians."""
        return [part for name in PEOPLE[1:] for part in ("--identity", str(self.folder / f"{name}.key"))]

    @property
    def file(self) -> Path:
        """The backup."""
        return self.folder / "keys.backup"


@contextmanager
def programs(bootstrap: str, data: Path, *names: str) -> Iterator[dict[str, Child]]:
    """Started, ready, and stopped at the end."""
    environment = {"KEYMILL_BOOTSTRAP": bootstrap, "KEYMILL_DATA": str(data), "KEYMILL_MAP_SIZE_GIB": "1"}
    ports = {"KEYMILL_GATEWAY_PORT": "0", "KEYMILL_PROXY_PORT": "0"}
    children = {name: Child(name, [name], environment | ports) for name in names}
    try:
        for child in children.values():
            child.start()
        for child in children.values():
            child.wait_listening()
            child.wait_ready()
        yield children
    finally:
        for child in children.values():
            child.signal_stop()
        for child in children.values():
            child.wait_stopped(time.monotonic() + 25)


def licensed(proxy: Child, asset: str, kids: list[bytes], token: str) -> bytes | None:
    """A ClearKey license; None while there is none."""
    url = f"{proxy.url}/clearkey/{ORGANIZATION}/{asset}?token={token}"
    answer = httpx.post(url, content=challenge(*kids), timeout=30)
    return answer.content if answer.status_code == 200 else None


def licenses(proxy: Child, film: dict[str, Any], token: str) -> tuple[bytes, bytes]:
    """Of the derived keys, and of the imported and the chosen one."""
    kids = [bytes.fromhex(track["kid"].replace("-", "")) for track in film["tracks"]]
    derived = eventually(lambda: licensed(proxy, "film", kids, token))
    return derived, eventually(lambda: licensed(proxy, "classic", [IMPORTED, CHOSEN], token))


def classic(key_file: Path) -> bytes:
    """The event of an asset whose one key existed before, and whose other KID was chosen."""
    keyring, kms = Keyring(KeyFile(key_file)), KeyFile(key_file)
    epoch, kek = kms.intake_kek()
    key = ClearKey(cek=Secret(b"e" * 16), iv=Secret(b"i" * 16))
    existing = wrap_imported(
        kek, keyring.k_fp(ORGANIZATION), organization=ORGANIZATION, kid=IMPORTED, key=key, intake_epoch=epoch
    )
    tracks = (TrackWish(label="SD", kid=IMPORTED, imported=existing), TrackWish(label="HD", kid=CHOSEN))
    body = AssetIngested(tracks=tracks, product_id="gold")
    return encode(AssetEvent(organization=ORGANIZATION, asset="classic", event_id=None, event_time=1, body=body))


def send(bootstrap: str, event: bytes) -> None:
    """As an ingest system does; and as one does that sends it again."""
    with closing(Publisher(bootstrap, {topics.ASSETS.name: PARTITIONS})) as publisher:
        publisher.flush_all([publisher.send(topics.ASSETS.name, asset_key(ORGANIZATION, "classic"), event)])


def entitle(rig: Rig, user: str) -> None:
    answer = rig.client.put(f"/v1/organizations/{ORGANIZATION}/entitlements/{user}/gold", json={"valid_until": None})
    assert answer.is_success, answer.text


IMPORTED, CHOSEN = b"\x11" * 16, b"\x22" * 16
EVENT = {"asset_id": "film", "tracks": ["SD", "AUDIO"], "product_id": "gold"}


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Before]:
    """An installation that was backed up while it served; the clusters of a loss know nothing of it."""
    folder = tmp_path_factory.mktemp("drill")
    data, output = folder / "data", []
    people = {name: keymill("backup", "recipient", folder / f"{name}.key") for name in PEOPLE}
    recipients = [part for name in PEOPLE for part in ("--recipient", people[name].stdout.strip())]
    with embedded_kafka() as kafka, running(kafka.bootstrap, data) as rig:
        brokers = ("--bootstrap", kafka.bootstrap, "--data", data)
        ensure_token_key(data, kafka.bootstrap, ORGANIZATION)
        put_service(kafka.bootstrap, ORGANIZATION)
        assert keymill("org", "set", ORGANIZATION, "--entitlements", "required", *brokers).returncode == 0
        entitle(rig, "eve")
        entitle(rig, "gone")
        assert rig.client.delete(f"/v1/organizations/{ORGANIZATION}/entitlements/gone/gold").is_success
        film = rig.post("?wait=1", EVENT).json()
        issued = keymill(
            "token", "issue", "--data", data, "--organization", ORGANIZATION, "--product", "gold", "--user", "eve",
            "--expires-in", "7200",
        )  # fmt: skip
        assert issued.returncode == 0, issued.stderr
        with programs(kafka.bootstrap, data, "proxy") as started:
            token = issued.stdout.strip()
            event = classic(data / "keys.json")
            send(kafka.bootstrap, event)
            given = licenses(started["proxy"], film, token)
            _rotate(data / "keys.json")
            backed_up = keymill("backup", folder / "keys.backup", *recipients, "--quorum", "2", *brokers, "--json")
            assert backed_up.returncode == 0, backed_up.stdout + backed_up.stderr
        output += [done.stdout + done.stderr for done in (*people.values(), backed_up)]
        ids = {name: state.topic_id for name, state in describe(kafka.bootstrap, BY_NAME).items()}
        yield Before(folder, rig, film, event, token, given, ids, json.loads(backed_up.stdout), "".join(output))


def _rotate(key_file: Path) -> None:
    """A retired epoch, under which the credentials are wrapped, an active and an announced one; a root for later."""
    for _ in range(2):
        activate_kek(key_file, ORGANIZATION, add_kek(key_file, ORGANIZATION))
    retire_keks(key_file, ORGANIZATION, below=2)
    add_kek(key_file, ORGANIZATION)
    add_intake_kek(key_file)
    add_root(key_file, ORGANIZATION, int(time.time() * 1000) + 2 * 3_600_000, now_ms=int(time.time() * 1000))


def test_a_backup_is_verified_and_shown_without_brokers(before: Before) -> None:
    """What is in it, to everybody; that it opens, to a quorum; the wrong hash and one custodian alone are refused."""
    shown = told("backup", "show", before.file)
    verified = told("backup", "verify", before.file, *before.identities, "--sha256", before.saved["sha256"])
    assert before.saved["header"] == shown["header"] == verified["header"]
    assert (before.saved["sha256"], []) == (verified["sha256"], verified["problems"])
    counts = {each["topic"]: each["records"] for each in shown["header"]["topics"] if each["ends"]}
    assert {topics.CREDENTIALS.name: 6, topics.SERVICES.name: 1, topics.ENTITLEMENTS.name: 2} == counts
    assert before.topic_ids == {each["topic"]: each["topic_id"] for each in shown["header"]["topics"]}
    own, other = shown["header"]["organizations"]
    assert {"organization": ORGANIZATION, "root_versions": [1, 2], "kek_epochs": [1, 2, 3, 4]} == own
    assert ("other", [1, 2]) == (other["organization"], shown["header"]["intake_epochs"])
    assert keymill("backup", "verify", before.file, *before.identities, "--sha256", "0" * 64).returncode == 4
    alone = keymill("backup", "verify", before.file, *before.identities[:2])
    assert (2, True) == (alone.returncode, "it takes the identities of 2 of" in alone.stderr)


def test_on_its_own_cluster_a_restore_has_nothing_to_do(before: Before) -> None:
    """An entitlement that was withdrawn since stays withdrawn, unless the backup is to win."""
    rig, places = before.rig, ("--data", before.rig.data, "--bootstrap", before.rig.bootstrap)
    same = told("restore", before.file, *before.identities, *places)
    assert ([], [], []) == (same["topics"]["missing"], same["topics"]["renewals"], same["keys"]["added"])
    assert rig.client.delete(f"/v1/organizations/{ORGANIZATION}/entitlements/eve/gold").is_success
    kept = told("restore", before.file, *before.identities, *places, "--apply")
    assert not [each for each in kept["topics"]["records"] if each["written"]]
    overwritten = told("restore", before.file, *before.identities, *places, "--overwrite", code=1)
    written = [each for each in overwritten["topics"]["records"] if each["written"]]
    assert [{"topic": topics.ENTITLEMENTS.name, "fate": "overwritten", "records": 1, "written": True}] == written
    entitle(rig, "eve")


def test_after_the_loss_of_everything_players_get_the_same_keys(before: Before, tmp_path: Path) -> None:
    """A new cluster and a new key file from the backup; the same event gives the same license, byte for byte."""
    data = tmp_path / "data"
    with embedded_kafka() as kafka:
        places = (*before.identities, "--data", str(data), "--bootstrap", kafka.bootstrap)
        plan = keymill("restore", before.file, *places)
        assert (1, "{}") == (plan.returncode, str(describe(kafka.bootstrap, BY_NAME)))
        assert not (data / "keys.json").exists()
        done = keymill("restore", before.file, *places, "--apply")
        assert done.returncode == 0, done.stdout + done.stderr
        again = told("restore", before.file, *places)
        assert ([], [], []) == (again["topics"]["missing"], again["topics"]["renewals"], again["keys"]["added"])
        assert not [each for each in again["topics"]["records"] if each["written"]]
        assert (before.rig.data / "keys.json").read_bytes() == (data / "keys.json").read_bytes()
        adopted = load_adoptions(kafka.bootstrap)
        assert dict.fromkeys(BY_NAME, 1) == {name: each.generation for name, each in adopted.items()}
        assert min(each.adopted for each in adopted.values()) >= _last_time(kafka.bootstrap, topics.CREDENTIALS.name)
        _same_for_callers(before, kafka.bootstrap, data)
        _nothing_secret(before, [plan.stdout, plan.stderr, done.stdout, done.stderr, json.dumps(again)])


def _last_time(bootstrap: str, topic: str) -> int:
    """When the last record came: what was waiting for the topic takes it over no earlier."""
    ends = end_offsets(bootstrap, topic).items()
    found = [each.timestamp()[1] for number, end in ends for each in scan_partition(bootstrap, topic, number, end=end)]
    assert len(found) == 6
    return max(found)


def _same_for_callers(before: Before, bootstrap: str, data: Path) -> None:
    """The old API key, signer, token and entitlement; and the license."""
    assert access.service(bootstrap, ORGANIZATION, "demo", "1.0") is not None
    assert end_offsets(bootstrap, topics.ASSETS.name) == dict.fromkeys(range(PARTITIONS), 0)
    with programs(bootstrap, data, "processor", "gateway", "proxy") as started:
        headers = {"authorization": f"Bearer {before.rig.key.secrets['api_key']}"}
        with httpx.Client(base_url=started["gateway"].url, headers=headers, timeout=30) as client:
            rig = replace(before.rig, bootstrap=bootstrap, data=data, client=client, gateway=started["gateway"])
            film = rig.post("?wait=1", EVENT).json()
            assert before.film["tracks"] == film["tracks"]
            tracks = {"content_id": "ZmlsbQ==", "tracks": [{"type": "SD"}], "policy": ""}
            assert rig.ask_keys(tracks)["status"] == "OK"
        send(bootstrap, before.classic)
        assert before.licenses == licenses(started["proxy"], film, before.token)


def _nothing_secret(before: Before, texts: list[str]) -> None:
    """No key in what commands print, nor in the file."""
    content = msgspec.json.decode((before.rig.data / "keys.json").read_bytes(), type=Content)
    keys = [b"e" * 16, *(base64.b64decode(kek.key) for kek in content.intake)]
    for group in content.organizations.values():
        keys += [base64.b64decode(each.key) for each in (*group.roots, *group.keks)]
    private = [(before.folder / f"{name}.key").read_text().split()[-1].encode() for name in PEOPLE]
    needles = {spelt for key in (*keys, *private) for spelt in spellings(key)}
    assert len(keys) == 1 + 2 + (2 + 4) + (1 + 1)
    for text in (before.file.read_bytes(), before.output.encode(), *(each.encode() for each in texts)):
        assert not [needle for needle in needles if needle in text]
