"""The commands that look things up, as processes beside a running gateway and processor: output and exit codes."""

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import product
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import pytest
from confluent_kafka import Producer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from kafka.admin import ConfigResource, ConfigResourceType

from keymill.core.record_authentication import HEADER
from keymill.errors import Unavailable, UnknownKey
from keymill.kafka.admin import load_adoptions
from keymill.kafka.adoption import record_adoptions
from keymill.kafka.authentication import RecordKeys, WrittenHeaders
from keymill.kafka.cluster import connected
from keymill.kafka.scan import scan_partition
from keymill.kms.record_keys import record_keys_of
from keymill.ops.address import write_address
from keymill.ops.exits import COMMANDS
from keymill.ops.programs import NAMES
from keymill.ops.token_keys import pem_of, signing_key
from schemas import topics
from schemas.codec import schema_of
from schemas.ids import asset_key, claim_key
from schemas.partition import partition_for
from tests.broker import running_broker
from tests.command_runs import FOUND, line_of, options_of, prepare, run_all
from tests.e2e.leaks import content_secrets, leaks
from tests.gateway_rig import ORGANIZATION, PARTITIONS, Rig, eventually, running

NOBODY = "127.0.0.1:1"
SCHEMA = {
    "type": "record",
    "name": "AssetEvent",
    "namespace": "keymill",
    "fields": [
        {"name": "organization", "type": "string"},
        {"name": "asset", "type": "string"},
        {"name": "event_time", "type": "long"},
        {
            "name": "body",
            "type": [
                {
                    "type": "record",
                    "name": "AssetIngested",
                    "fields": [{"name": "product_id", "type": ["null", "string"]}],
                }
            ],
        },
    ],
}
"""As an ingest system with a schema registry of its own would write it."""


class _Registry(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Any id's schema."""
        body = json.dumps({"schema": json.dumps(SCHEMA)}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    """A schema registry's address."""
    server = HTTPServer(("127.0.0.1", 0), _Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def rig(registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One of everything, with a schema registry."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEYMILL_REGISTRY_URL", registry)
        with running_broker() as bootstrap, running(bootstrap, tmp_path_factory.mktemp("data")) as up:
            yield up


def keymill(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in an environment without settings but these."""
    command = [sys.executable, "-m", "keymill.ops.cli", *map(str, arguments)]
    bare = {name: value for name, value in os.environ.items() if not name.startswith("KEYMILL_")}
    return subprocess.run(command, env=bare | environment, capture_output=True, text=True, timeout=60, check=False)


def told(*arguments: str | Path, code: int = 0, **environment: str) -> Any:
    """What it prints as JSON."""
    done = keymill(*arguments, "--json", **environment)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", autouse=True)
def _refused_first(rig: Rig) -> None:
    """The first event of partition 0 is one that nobody can read: the commands are asked about its dead letter."""
    producer = Producer({"bootstrap.servers": rig.bootstrap})
    producer.produce(topics.ASSETS.name, b"rubbish", f"{ORGANIZATION}/rubbish".encode(), 0)
    assert producer.flush(10) == 0


@pytest.fixture(scope="module")
def film(rig: Rig) -> dict[str, Any]:
    """What the gateway says of an asset whose event came over HTTP."""
    answer = rig.post("?wait=1", {"asset_id": "film", "tracks": ["SD"]})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def explained(rig: Rig, kid: str, *arguments: str, code: int = 0, **environment: str) -> dict[str, Any]:
    """The lineage of a key, asked of the rig's brokers unless others are named."""
    brokers = () if "--bootstrap" in arguments else ("--bootstrap", rig.bootstrap)
    lineage: dict[str, Any] = told("explain", kid, "--data", rig.data, *brokers, *arguments, code=code, **environment)
    return lineage


def test_explain_tells_where_a_key_comes_from(rig: Rig, film: dict[str, Any]) -> None:
    """Asset, places in the log and the event, from any spelling of the KID; never the key."""
    kid = film["tracks"][0]["kid"]
    lineage = explained(rig, kid.replace("-", "").upper())
    assert (kid, ORGANIZATION, "film", ["SD/cbcs"]) == tuple(
        lineage[name] for name in ("kid", "organization", "asset", "tracks")
    )
    event = lineage["event"]
    assert (film["partition"], film["offset"], 0) == (event["partition"], event["offset"], event["generation"])
    assert (True, "AssetIngested", film["event_id"]) == (event["found"], event["kind"], event["event_id"])
    shown = keymill("explain", kid, "--data", rig.data, "--bootstrap", rig.bootstrap)
    assert (0, True) == (shown.returncode, "kind AssetIngested" in shown.stdout), shown.stderr


def test_explain_reads_an_event_of_the_schema_registry(rig: Rig, registry: str) -> None:
    """With the registry the event is told; without one, or without an answer, all the rest is."""
    body = io.BytesIO()
    value = {"organization": ORGANIZATION, "asset": "framed", "event_time": 5, "body": {"product_id": "gold"}}
    fastavro.schemaless_writer(body, fastavro.parse_schema(SCHEMA), value)
    record_key = asset_key(ORGANIZATION, "framed")
    producer = Producer({"bootstrap.servers": rig.bootstrap})
    partition = topics.partition_of(topics.ASSETS, record_key, PARTITIONS)
    producer.produce(topics.ASSETS.name, b"\0" + (7).to_bytes(4, "big") + body.getvalue(), record_key, partition)
    assert producer.flush(10) == 0
    eventually(lambda: rig.get("framed").status_code == 200)
    kid = rig.get("framed").json()["versions"][0]["tracks"][0]["kid"]
    event = explained(rig, kid, KEYMILL_REGISTRY_URL=registry)["event"]
    assert (True, "AssetIngested", "1970-01-01T00:00:00.005Z") == (event["found"], event["kind"], event["event_time"])
    event = explained(rig, kid)["event"]
    assert (True, True) == (event["found"], "no schema registry is configured" in event["error"])
    event = explained(rig, kid, code=3, KEYMILL_REGISTRY_URL=f"http://{NOBODY}")["event"]
    assert (True, True) == (event["found"], "registry does not answer" in event["error"])


def test_explain_without_brokers_tells_what_the_view_holds(rig: Rig, film: dict[str, Any]) -> None:
    """The lineage stands on stdout, the failure in its event; exit code 3, or 2 when no brokers are named."""
    kid = film["tracks"][0]["kid"]
    lineage = explained(rig, kid, "--bootstrap", NOBODY, code=3)
    assert (kid, "film", None) == (lineage["kid"], lineage["asset"], lineage["event"]["found"])
    assert NOBODY in lineage["event"]["error"]
    done = keymill("explain", kid, "--data", rig.data, "--json")
    assert (2, "film") == (done.returncode, json.loads(done.stdout)["asset"])


def test_explain_of_no_key_says_so(rig: Rig) -> None:
    """What nobody knows is exit code 1, what is no KID and a folder without a view are 2; one line each."""
    nothing, here = "00000000-0000-8000-8000-000000000000", ("--data", rig.data)
    cases = ((1, (nothing, *here)), (1, ("nothing", *here)), (2, ("nothing", "--as", "kid", *here)), (2, (nothing,)))
    for code, arguments in cases:
        done = keymill("explain", *arguments, "--bootstrap", rig.bootstrap)
        assert (code, "", 1) == (done.returncode, done.stdout, len(done.stderr.splitlines())), done.stderr


def test_organizations_are_listed(rig: Rig) -> None:
    """An array, or a table with a header; exit code 3 when no broker answers."""
    rules = {"entitlements": "optional", "provider": None}
    names = (ORGANIZATION, "other")
    expected = [{"organization": name, "name": name, "revoked": False} | rules for name in names]
    unverified = [{**row, "verified": False} for row in expected]  # without the key file nobody can tell
    assert unverified == told("org", "list", "--bootstrap", rig.bootstrap)
    again = told("org", "create", "other", "--data", rig.data, "--bootstrap", rig.bootstrap)
    assert {"organization": "other", "created": False} == again
    write_address(rig.data, {"kafka": rig.bootstrap})
    try:
        shown = [line.split() for line in keymill("org", "list", "--data", rig.data).stdout.splitlines()]
        assert [*topics.BY_NAME] == [row["topic"] for row in told("topics", "show", "--data", rig.data)]
        assert 0 == keymill("topics", "check", "--data", rig.data).returncode
    finally:
        (rig.data / "up.json").unlink()
    head = ["organization", "name", "revoked", "entitlements", "provider"]
    assert [head, *([name, name, "no", "optional", "-"] for name in names)] == shown
    away = keymill("org", "list", "--bootstrap", NOBODY)
    assert (3, "", 1) == (away.returncode, away.stdout, len(away.stderr.splitlines())), away.stderr


def test_credentials_are_made_listed_and_revoked(rig: Rig) -> None:
    """Each by its kind, which revoking may insist on; secrets are shown once, when they are made."""
    where = ("--organization", "other", "--bootstrap", rig.bootstrap, "--data", rig.data)
    secrets = {"api-key": "api_key", "ncp": "ncp_secret_key", "widevine-signer": "widevine_key_hex"}
    for kind, name in (("api-key", "cms"), ("ncp", "portal"), ("widevine-signer", "packager")):
        made = told("credential", "create", "--kind", kind, "--name", name, "--data", rig.data, *where)
        assert ("other", kind, True) == (made["organization"], made["kind"], len(made[secrets[kind]]) >= 32)
    shown = keymill("credential", "create", "--kind", "api-key", "--data", rig.data, *where).stdout.splitlines()
    assert ["organization", "credential", "kind", "api_key"] == [line.split()[0] for line in shown]
    assert 0 == keymill("credential", "revoke", shown[1].split()[1], *where).returncode
    listed = told("credential", "list", *where)
    assert {"api-key": "cms", "ncp": "portal", "widevine-signer": "packager"} == {
        row["kind"]: row["label"] for row in listed if not row["revoked"]
    }
    signer = {"credential": "packager", "kind": "widevine-signer", "label": "packager", "revoked": False}
    assert [signer] == told("credential", "list", "--kind", "widevine-signer", *where)
    guarded = keymill("credential", "revoke", "packager", "--kind", "api-key", *where)
    assert (1, "", True) == (guarded.returncode, guarded.stdout, "is no api-key" in guarded.stderr)
    for changed in (True, False):
        done = keymill("credential", "revoke", "packager", "--kind", "widevine-signer", *where, "--json")
        expected = {"credential": "packager", "revoked": True, "changed": changed}
        assert (0, expected) == (done.returncode, json.loads(done.stdout)), done.stderr
    table = keymill("credential", "list", "--kind", "widevine-signer", *where).stdout.splitlines()
    assert [["credential", "kind", "label", "revoked"], ["packager", "widevine-signer", "packager", "yes"]] == [
        line.split() for line in table
    ]
    assert 1 == keymill("credential", "revoke", "nothing", *where).returncode
    assert 2 == keymill("credential", "revoke", "self", *where).returncode
    assert 1 == keymill("credential", "list", "--organization", "nobody", "--bootstrap", rig.bootstrap).returncode
    assert [ORGANIZATION, "other"] == [row["organization"] for row in told("org", "list", "--bootstrap", rig.bootstrap)]


def test_token_keys_are_listed(rig: Rig, tmp_path: Path) -> None:
    """Added, listed as an array or a table, retired; they are no credentials of `credential list`."""
    where = ("--organization", ORGANIZATION, "--bootstrap", rig.bootstrap, "--data", rig.data)
    public = tmp_path / "portal.pub"
    public.write_text(pem_of(Ed25519PrivateKey.generate().public_key()))
    added = keymill("token-key", "add", "--public", public, "--label", "portal", *where)
    assert 0 == added.returncode, added.stderr
    assert {"id": added.stdout.strip(), "changed": False} == told("token-key", "add", "--public", public, *where)
    (row,) = told("token-key", "list", *where)
    assert (added.stdout.strip(), "EdDSA", "portal", False) == tuple(
        row[name] for name in ("id", "algorithm", "label", "retired")
    )
    for changed in (True, False):
        retired = {"id": row["id"], "retired": True, "changed": changed}
        assert retired == told("token-key", "retire", row["id"], *where)
    assert f"{row['id']}\n" == keymill("token-key", "retire", row["id"], *where).stdout
    table = keymill("token-key", "list", *where).stdout.splitlines()
    assert [row["id"], "EdDSA", "portal", "yes"] == table[1].split()
    assert row["id"] not in {each["credential"] for each in told("credential", "list", *where)}


def test_a_scan_without_brokers_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """What librdkafka raises does not leave the scan as it is."""
    monkeypatch.setattr("keymill.kafka.scan.STALL_S", 0.5)
    with pytest.raises(Unavailable, match=r"drm\.keys\.v1-0"):
        list(scan_partition(NOBODY, topics.KEYS.name, 0, end=1))


FAIL = {"credential revoke", "token-key retire", "policy assign"}
"""What they would be about does not exist."""


@pytest.fixture
def littered(rig: Rig) -> bytes:
    """
    Every topic with what nobody can read, on the right and on a wrong partition; returns the KID of a bad claim.

    Each record twice, as somebody without keys would write it and as somebody who has them all: what a reader looks at
    besides the authenticator must hold by itself.
    """
    kid = bytes(range(16))
    producer, failed = Producer({"bootstrap.servers": rig.bootstrap}), list[object]()
    keyring = record_keys_of(rig.data / "keys.json")
    for topic in topics.CATALOGUE:
        headers = [schema_of(kind).header for kind in topic.records]
        values = (None, b"", b"rubbish", b'{"oops":1}', b"\xc3\x01" + bytes(20), *(each + b"\xff" for each in headers))
        keys = [f"{ORGANIZATION}/rubbish".encode(), b"\x1b[2J\xff/", b"", claim_key(ORGANIZATION, kid)]
        for key in (*keys, None) if topic.cleanup is topics.Cleanup.DELETE else keys:
            for value, partition, proof in product(values, range(PARTITIONS), proofs(keyring, topic, key or b"")):
                producer.produce(
                    topic.name, value, key, partition, headers=proof(value or b""),
                    on_delivery=lambda error, _: failed.append(error),
                )  # fmt: skip
    assert producer.flush(30) == 0 and set(failed) == {None}
    return kid


def proofs(keys: RecordKeys, topic: topics.Topic, record_key: bytes) -> list[Callable[[bytes], WrittenHeaders]]:
    """The headers that a value is written with: none, and where somebody could make it, its authenticator."""
    made: list[Callable[[bytes], WrittenHeaders]] = [lambda _: []]
    if topic.authentication is not topics.Authentication.NONE:
        try:
            keys.authenticate(topic, record_key, b"")
        except UnknownKey:  # of no organization, so nobody has its keys
            return made
        made.append(lambda value: [(HEADER, keys.authenticate(topic, record_key, value))])
    return made


def test_every_command_prints_one_line_of_json_and_no_secret(
    rig: Rig, film: dict[str, Any], littered: bytes, tmp_path: Path
) -> None:
    """All of them, over whatever others have written; a secret stands in none but the one it is for."""
    chosen = {"asset_id": "chosen", "tracks": [{"track_type": "SD", "kid": littered.hex()}]}
    assert 201 == rig.post("?wait=1", chosen).status_code
    assert "chosen" == explained(rig, littered.hex())["asset"]
    brokers = {"KEYMILL_BOOTSTRAP": rig.bootstrap, "KEYMILL_DATA": str(rig.data)}
    assert {"organization": "third", "created": True} == told("org", "create", "third", **brokers)
    signing_key(rig.data, "third", make=True)
    prepare(tmp_path)
    names = [name for name in FOUND if name not in NAMES]
    lines = [line_of(name, tmp_path, "third", film["tracks"][0]["kid"]) for name in names]
    done = dict(zip(names, run_all(lines, **brokers), strict=True))
    made = json.loads(done["credential create"].stdout)
    for name, ran in done.items():
        if name in FAIL:
            assert (1, "", 1) == (ran.code, ran.stdout, len(ran.stderr.splitlines())), (name, ran)
        else:
            (line,) = ran.stdout.splitlines()
            assert (True, True) == (isinstance(json.loads(line), dict | list), ran.code in (0, 1)), (name, ran)
        assert ran.code == 0 or COMMANDS[name].one, (name, ran)
    texts = {name: (ran.stdout + ran.stderr).encode() for name, ran in done.items() if name != "credential create"}
    secrets = content_secrets(rig.bootstrap, rig.data) | {"an API key": made["api_key"].encode()}
    assert (True, []) == (len(secrets) > 2, leaks(secrets, [], texts))


def test_no_command_trusts_in_silence_what_it_cannot_verify(rig: Rig, film: dict[str, Any], tmp_path: Path) -> None:
    """Without a key file a command says on stderr and in its JSON that nothing was verified, or it does nothing."""
    prepare(tmp_path)
    brokers = {"KEYMILL_BOOTSTRAP": rig.bootstrap, "KEYMILL_DATA": str(tmp_path)}
    names = [name for name in FOUND if name not in NAMES and "--bootstrap" in options_of(FOUND[name])]
    done = dict(zip(names, run_all([line_of(each, tmp_path, ORGANIZATION) for each in names], **brokers), strict=True))
    assert not (tmp_path / "keys.json").exists()
    silent = {}
    for name, ran in done.items():
        told = json.loads(ran.stdout or "[]")
        marks = [each.get("verified") for each in (told if isinstance(told, list) else [told])]
        if told and (set(marks) != {False} or "is not verified" not in ran.stderr):
            silent[name] = ran
        assert told or ran.stderr, (name, ran)
    assert {} == silent
    assert 8 <= sum(bool(ran.stdout) for ran in done.values())


def mine(bootstrap: str, topic: str, record_key: bytes) -> int:
    """Write 120 MB in a batch of 15 KB, as a topic took it before it was set; returns how many records they are."""
    place = ConfigResource(ConfigResourceType.TOPIC, topic, {"compression.type": "producer"})
    with connected(bootstrap) as client:
        client.alter_configs([place])
    limits = {"message.max.bytes": 200_000_000, "batch.size": 200_000_000, "queue.buffering.max.kbytes": 500_000}
    producer = Producer({"bootstrap.servers": bootstrap, "compression.type": "zstd", "linger.ms": 1000, **limits})
    for _ in range(1000):
        producer.produce(topic, bytes(120_000), record_key, partition_for(record_key, PARTITIONS))
    assert producer.flush(60) == 0
    with connected(bootstrap) as client:
        client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"compression.type": "uncompressed"})])
    return 1000


def test_what_nobody_can_unpack_is_refused_or_told_as_lost(rig: Rig, film: dict[str, Any]) -> None:
    """Events by the processor, record by record; elsewhere by the audit. Commands and programs go on."""
    brokers = {"KEYMILL_BOOTSTRAP": rig.bootstrap, "KEYMILL_DATA": str(rig.data)}

    def lost() -> list[str]:
        found = json.loads(keymill("audit", "--no-open", "--json", **brokers).stdout)
        return [each["record_key"] for each in found["differences"] if each["kind"] == "unreadable"]

    before = lost()
    count = mine(rig.bootstrap, topics.ASSETS.name, asset_key(ORGANIZATION, "film"))
    assert 201 == rig.post("?wait=1", {"asset_id": "after", "tracks": ["SD"]}).status_code
    eventually(lambda: count == len(told("dlq", "list", "--reason", "unreadable_batch", **brokers)), 30)
    assert before == lost()
    mine(rig.bootstrap, topics.POLICIES.name, b"nobody")
    (named,) = set(lost()) - set(before)
    assert named.startswith("drm.policies.v1-")
    assert not keymill("replay", **brokers).stderr.count("Traceback")
    assert 201 == rig.post("?wait=1", {"asset_id": "later", "tracks": ["SD"]}).status_code


def test_explain_shows_no_event_of_another_generation(rig: Rig, film: dict[str, Any]) -> None:
    """After `topics adopt` what stands at the offset is another event. Last here: it changes the rig's topics."""
    held = load_adoptions(rig.bootstrap)[topics.ASSETS.name]
    record_adoptions(
        rig.bootstrap,
        held.partitions,
        [msgspec.structs.replace(held, generation=held.generation + 1)],
    )
    lineage = explained(rig, film["tracks"][0]["kid"])
    assert ("film", False) == (lineage["asset"], lineage["event"]["found"])
    assert ("generation 1" in lineage["event"]["error"], None) == (True, lineage["event"]["kind"])
