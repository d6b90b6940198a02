"""Organizations and credentials on a real topic, through the command line's functions."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Producer

from keymill.core.credentials import signer_identity, token_digest
from keymill.core.envelope import unwrap_secret
from keymill.errors import Conflict, InvalidRecord, Misconfigured, UnknownKey
from keymill.kafka.admin import create_topics, end_offsets
from keymill.kafka.authentication import install, with_authenticator
from keymill.kafka.producer import Outgoing
from keymill.kafka.scan import scan_partition
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.kms.record_keys import record_keys_of
from keymill.ops import access
from keymill.ops.credentials import Kind, create_credential, create_organization, existing, revoke_credential
from schemas import topics
from schemas.access import ApiKey, Service, WidevineSigner
from schemas.codec import encode
from schemas.policy import Policy
from schemas.values import DrmSystem
from tests.authentic import installation
from tests.broker import running_broker


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The key file of the installation."""
    return installation(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def bootstrap(key_file: Path) -> Iterator[str]:
    """A broker with topics."""
    with running_broker() as address:
        create_topics(address, partitions=4)
        yield address


@pytest.fixture(scope="module", autouse=True)
def globex(bootstrap: str, key_file: Path) -> None:
    """An organization that the topic knows before any test."""
    create_organization(bootstrap, key_file, "globex")


def test_life_of_credentials(bootstrap: str, key_file: Path) -> None:
    """Made once, found by id, hashed or wrapped on the topic, revoked for ever; the secret stands nowhere."""
    assert create_organization(bootstrap, key_file, "acme")
    assert not create_organization(bootstrap, key_file, "acme")
    assert (key_file.stat().st_mode & 0o777) == 0o600
    key = create_credential(bootstrap, key_file, "acme", Kind.API_KEY, "cms")
    signer = create_credential(bootstrap, key_file, "acme", Kind.WIDEVINE_SIGNER, "packager")
    ncp = create_credential(bootstrap, key_file, "acme", Kind.NCP)
    held = existing(bootstrap, "acme")
    assert set(held) == {"self", key.credential, "packager", ncp.credential}
    stored, wrapped = held[key.credential].body, held["packager"].body
    assert isinstance(stored, ApiKey) and stored.token_sha256 == token_digest(key.secrets["api_key"])
    assert isinstance(wrapped, WidevineSigner)
    kek = Keyring(KeyFile(key_file)).kek("acme", wrapped.kek_epoch)
    opened = unwrap_secret(kek, wrapped.wrapped, *signer_identity("acme", "packager")).reveal()
    assert opened.hex() == signer.secrets["widevine_key_hex"] + signer.secrets["widevine_iv_hex"]
    assert not any(
        secret in repr((key, signer, ncp)) for secret in (key.secrets["api_key"], ncp.secrets["ncp_secret_key"])
    )
    with pytest.raises(Conflict, match="packager"):
        create_credential(bootstrap, key_file, "acme", Kind.WIDEVINE_SIGNER, "packager")
    assert revoke_credential(bootstrap, "acme", "packager") and not revoke_credential(bootstrap, "acme", "packager")
    assert existing(bootstrap, "acme")["packager"].revoked
    with pytest.raises(Conflict):
        create_credential(bootstrap, key_file, "acme", Kind.WIDEVINE_SIGNER, "packager")
    _assert_no_secret(
        bootstrap, [*key.secrets.values(), ncp.secrets["ncp_secret_key"], signer.secrets["widevine_key_hex"]]
    )


def _assert_no_secret(bootstrap: str, secrets: list[str]) -> None:
    for partition, end in end_offsets(bootstrap, topics.CREDENTIALS.name).items():
        for message in scan_partition(bootstrap, topics.CREDENTIALS.name, partition, end=end):
            value = message.value() or b""
            assert not any(secret.encode() in value for secret in secrets)
            assert not any(bytes.fromhex(secret) in value for secret in secrets if len(secret) == 64)
            assert not any(base64.b64decode(secret + "==", b"-_") in value for secret in secrets if len(secret) == 43)


def test_lost_key_file_is_never_replaced(bootstrap: str, tmp_path: Path) -> None:
    """While an organization stands on the topic, a missing key file is an error, for it and for a new one."""
    lost = tmp_path / "lost.json"
    for organization in ("globex", "fresh"):
        with pytest.raises(Misconfigured, match="restore"):
            create_organization(bootstrap, lost, organization)
    assert not lost.exists()


def test_key_file_of_another_installation_is_refused(bootstrap: str, key_file: Path, tmp_path: Path) -> None:
    """An organization that the topic knows and the key file does not would get other keys."""
    try:
        with pytest.raises(Misconfigured, match="globex"):
            create_organization(bootstrap, installation(tmp_path), "globex")
    finally:
        install(record_keys_of(key_file))


def test_mistakes_are_named(bootstrap: str, key_file: Path) -> None:
    """No organization, a bad name, an id that is the organization's own."""
    with pytest.raises(UnknownKey, match="org create"):
        create_credential(bootstrap, key_file, "nobody", Kind.API_KEY)
    with pytest.raises(InvalidRecord):
        create_organization(bootstrap, key_file, "Bad Name")
    assert "globex" in access.organizations(bootstrap)
    with pytest.raises(UnknownKey):
        revoke_credential(bootstrap, "globex", "nothing")


def test_what_no_view_takes_no_command_trips_over(bootstrap: str, key_file: Path) -> None:
    """Garbage, a tombstone and a record of another leave it what it was, whoever wrote them: with keys too."""
    create_organization(bootstrap, key_file, "umbrella")
    key = create_credential(bootstrap, key_file, "umbrella", Kind.API_KEY, "cms")
    before = existing(bootstrap, "umbrella")
    producer = Producer({"bootstrap.servers": bootstrap})
    for name in ("self", key.credential, "unknown"):
        for value in (b"junk", None, encode(before["self"]), encode(before[key.credential])):
            own = value is not None and value == encode(before.get(name, before["self"]))
            record_key = f"umbrella/{name}".encode()
            partition = topics.partition_of(topics.CREDENTIALS, record_key, 4)
            proof = with_authenticator(Outgoing(topic=topics.CREDENTIALS.name, record_key=record_key, value=value))
            for headers in () if own else (None, proof):
                producer.produce(topics.CREDENTIALS.name, value, record_key, partition=partition, headers=headers)
    assert producer.flush(10) == 0
    assert existing(bootstrap, "umbrella") == before
    assert access.organizations(bootstrap)["umbrella"] == before["self"]


@pytest.fixture(autouse=True)
def _commands_find_the_keys(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYMILL_KEY_FILE", str(key_file))


def cli(bootstrap: str, *arguments: str) -> str:
    """What a command prints on stdout; it must succeed."""
    command = [sys.executable, "-m", "keymill.ops.cli", *arguments, "--bootstrap", bootstrap]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_organization_is_revoked_and_restored(bootstrap: str) -> None:
    """Its record says so and keeps all else; a second time nothing changes."""
    before = existing(bootstrap, "globex")["self"]
    for command, revoked in (("revoke", True), ("restore", False)):
        for changed in (True, False):
            told = json.loads(cli(bootstrap, "org", command, "globex", "--json"))
            assert {"organization": "globex", "revoked": revoked, "changed": changed} == told
            now = existing(bootstrap, "globex")["self"]
            assert now.sequence > before.sequence
            assert msgspec.structs.replace(before, revoked=revoked) == msgspec.structs.replace(
                now, sequence=before.sequence
            )
    lines = cli(bootstrap, "org", "restore", "globex").splitlines()
    assert [["organization", "globex"], ["revoked", "no"], ["changed", "no"]] == [line.split() for line in lines]


def test_service_configurations_are_set_whole_and_listed(bootstrap: str, tmp_path: Path) -> None:
    """Limits come from a file in keymill's own form; a second set replaces all of it."""
    limits = tmp_path / "limits.json"
    limits.write_text('{"license_duration_s": 3600, "allowed_tracks": ["SD", "AUDIO"]}')
    own = ("--organization", "globex")
    cli(bootstrap, "service", "set", "tv", "1.0", *own, "--drm", "widevine", "--limits", str(limits), "--upstream", "x")
    wanted = Service(
        organization="globex", service="tv", version="1.0", drm_system=DrmSystem.WIDEVINE, upstream="x",
        limits=Policy(license_duration_s=3600, allowed_tracks=("SD", "AUDIO")),
    )  # fmt: skip
    held = access.service(bootstrap, "globex", "tv", "1.0")
    assert held is not None and wanted == msgspec.structs.replace(held, sequence=0)
    clearkey = json.loads(cli(bootstrap, "service", "set", "tv", "2.0", *own, "--drm", "clearkey", "--json"))
    cli(bootstrap, "service", "set", "tv", "1.0", *own, "--drm", "fairplay", "--retired")
    lines = json.loads(cli(bootstrap, "service", "list", *own, "--json"))
    assert clearkey == lines[1]
    assert [("tv", "1.0", "fairplay", None, True, None), ("tv", "2.0", "clearkey", None, False, None)] == [
        tuple(line.values()) for line in lines
    ]
