"""`keymill topics sign` against a real broker: what an older release wrote is authenticated once, by --apply alone."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from keymill.config import UpSettings
from keymill.errors import Misconfigured
from keymill.kafka.admin import create_topics, describe, end_offsets, load_adoptions
from keymill.kafka.adoption import record_adoptions
from keymill.kafka.authentication import WrittenHeaders, install, with_authenticator
from keymill.kafka.outgoing import Outgoing
from keymill.kafka.scan import Scanner
from keymill.kms.keyfile import add_organization, create_key_file
from keymill.kms.record_keys import record_keys_of
from keymill.ops.access import organizations
from keymill.ops.sign import NOTE, begin_signing, finish_signing
from schemas import topics
from schemas.access import Credential, Entitlement, OrganizationCreated
from schemas.codec import decode, encode
from tests.authentic import installation
from tests.broker import running_broker

CREDENTIALS = topics.CREDENTIALS.name
PARTITIONS = 3
ORGANIZATION = "demo"


class Ground:
    """A broker with topics, and the key file of its installation."""

    def __init__(self, bootstrap: str, key_file: Path) -> None:
        self.bootstrap = bootstrap
        self.key_file = key_file

    def sign(self, *arguments: str, code: int) -> dict[str, dict[str, Any]]:
        """What the command tells of each topic."""
        command = [sys.executable, "-m", "keymill.ops.cli", "topics", "sign", "--json", *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KEYMILL_")}
        environment |= {"KEYMILL_BOOTSTRAP": self.bootstrap, "KEYMILL_KEY_FILE": str(self.key_file)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return {each["topic"]: each for each in json.loads(done.stdout)["topics"]}

    def write(self, record: Outgoing, headers: WrittenHeaders | None = None) -> None:
        """Write a record as a release from before authenticators would, unless with *headers*."""
        producer = Producer({"bootstrap.servers": self.bootstrap})
        partition = topics.partition_of(topics.BY_NAME[record.topic], record.record_key, PARTITIONS)
        producer.produce(record.topic, record.value, record.record_key, partition, headers=headers)
        assert producer.flush(10) == 0

    def trusted(self, user: str) -> list[int]:
        """The sequences of a user's entitlements that a reader believes."""
        topic = topics.ENTITLEMENTS.name
        found = []
        with Scanner(self.bootstrap) as scanner:
            for partition, end in end_offsets(self.bootstrap, topic).items():
                for message, reason in scanner.judge(topic, partition, end=end):
                    if message.key() == key_of(user) and not reason:
                        found.append(decode(message.value() or b"", Entitlement).sequence)
        return found


def key_of(user: str) -> bytes:
    return f"{ORGANIZATION}/{user}/gold".encode()


def entitled(user: str, sequence: int, *, under: str = "") -> Outgoing:
    """An entitlement, under its own record key or that of another user."""
    record = Entitlement(organization=ORGANIZATION, user=user, product="gold", sequence=sequence)
    return Outgoing(topic=topics.ENTITLEMENTS.name, record_key=key_of(under or user), value=encode(record))


def changed(value: bytes) -> Outgoing:
    """A record of the log of policy changes."""
    return Outgoing(topic=topics.POLICY_CHANGES.name, record_key=b"demo/3", value=value)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    key_file = installation(tmp_path_factory.mktemp("keys"), ORGANIZATION)
    with running_broker() as bootstrap:
        create_topics(bootstrap, PARTITIONS)
        yield Ground(bootstrap, key_file)


def test_older_records_are_signed_once(ground: Ground) -> None:
    """The plan writes nothing; --apply makes a reader believe them; then there is nothing left to do."""
    name, log = topics.ENTITLEMENTS.name, topics.POLICY_CHANGES.name
    ground.write(entitled("ann", 1), with_authenticator(entitled("ann", 1)))
    ground.write(entitled("bob", 7))
    ground.write(entitled("bob", 8, under="eve"))
    ground.write(changed(b"of an older release"))
    before = end_offsets(ground.bootstrap, name)
    planned = ground.sign(code=1)
    assert {each: planned[name][each] for each in ("authenticated", "to_sign", "left_out")} == {
        "authenticated": 1, "to_sign": 1, "left_out": 1,
    }  # fmt: skip
    assert ["demo/eve/gold: a record under the key of another"] == planned[name]["left"]
    assert planned[log]["to_sign"] == 1
    assert (before, []) == (end_offsets(ground.bootstrap, name), ground.trusted("bob"))
    assert planned == ground.sign("--apply", code=1)  # what is left out is told by the exit code too
    assert [True] == [sequence > 7 for sequence in ground.trusted("bob")]
    assert [] == ground.trusted("eve")
    again = ground.sign(code=1)
    assert (2, 0) == (again[name]["authenticated"], again[name]["to_sign"])
    assert again[log]["to_sign"] == 0


def test_a_log_that_is_signed_takes_nothing_unauthenticated(ground: Ground) -> None:
    """What comes after the signing is left, unless ops say that older programs still wrote it."""
    log = topics.POLICY_CHANGES.name
    ground.write(changed(b"forged"))
    found = ground.sign("--apply", code=1)[log]
    assert (0, 1) == (found["to_sign"], found["left_out"])
    assert "written after the signing" in found["left"][0]
    assert ground.sign("--newer", "--apply", code=1)[log]["to_sign"] == 1
    assert ground.sign(code=1)[log]["left_out"] == 0


def organized(name: str) -> Outgoing:
    """The record of an organization."""
    body = OrganizationCreated(display_name=name)
    record = Credential(organization=name, credential="self", revoked=False, created=1, label="", body=body)
    return Outgoing(topic=topics.CREDENTIALS.name, record_key=f"{name}/self".encode(), value=encode(record))


@pytest.fixture
def up(ground: Ground, tmp_path: Path) -> UpSettings:
    """The settings of a `keymill up` over the installation."""
    return UpSettings(data=tmp_path, key_file=ground.key_file, bootstrap=ground.bootstrap)


def test_up_signs_nothing_where_somebody_has_the_keys(ground: Ground, up: UpSettings) -> None:
    """An adoption that verifies says that authenticators are known here; what has none is forged."""
    ground.write(entitled("mallory", 1))
    for _ in range(2):
        begin_signing(up, ground.bootstrap, own=True)
        finish_signing(up, ground.bootstrap, own=True)
        assert "done\n" == (up.data / NOTE).read_text()
    assert [] == ground.trusted("mallory")


def test_up_of_a_new_folder_signs_nothing(ground: Ground, tmp_path: Path) -> None:
    """Its key file is made here, so nothing can be older. Before any organization is here: then it would be lost."""
    fresh = UpSettings(data=tmp_path, bootstrap=ground.bootstrap)
    begin_signing(fresh, ground.bootstrap, own=True)
    install(record_keys_of(ground.key_file))
    assert ("done\n", True) == ((tmp_path / NOTE).read_text(), fresh.keys_path.exists())


def test_up_signs_an_older_folder_once(ground: Ground, up: UpSettings) -> None:
    """On its own brokers it does it and goes on, on others it names the command; what comes later is never signed."""
    add_organization(up.keys_path, "old")
    (up.data / NOTE).write_text("due\n")
    ground.write(organized("old"))
    with pytest.raises(Misconfigured, match=f"sign --apply --bootstrap {ground.bootstrap} --data {up.data}"):
        finish_signing(up, ground.bootstrap, own=False)
    assert "old" not in organizations(ground.bootstrap)
    finish_signing(up, ground.bootstrap, own=True)
    assert "old" in organizations(ground.bootstrap)
    add_organization(up.keys_path, "forged")
    ground.write(organized("forged"))
    begin_signing(up, ground.bootstrap, own=True)
    finish_signing(up, ground.bootstrap, own=True)
    assert "forged" not in organizations(ground.bootstrap)


def test_up_sees_an_older_folder(ground: Ground, tmp_path: Path) -> None:
    """A key file, and no adoption that verifies under it: on its own brokers what was adopted stays adopted."""
    older = UpSettings(data=tmp_path, bootstrap=ground.bootstrap)
    create_key_file(older.keys_path)
    held = load_adoptions(ground.bootstrap)
    try:
        for own in (False, True):
            begin_signing(older, ground.bootstrap, own=own)
            assert "due\n" == (tmp_path / NOTE).read_text()
            assert (held if own else {}) == load_adoptions(ground.bootstrap)
    finally:
        install(record_keys_of(ground.key_file))
        partitions = describe(ground.bootstrap, [topics.ADOPTIONS.name])[topics.ADOPTIONS.name].partitions
        record_adoptions(ground.bootstrap, partitions, held.values())


def test_an_organization_without_keys_keeps_no_other_from_being_signed(ground: Ground) -> None:
    """Its records are left and named, wherever in a batch they stand; the others get their authenticators."""
    ground.write(organized("lost"))
    ground.write(entitled("zoe", 1))
    found = ground.sign("--apply", code=1)
    assert any(name.startswith("lost/self: organization lost has no roots") for name in found[CREDENTIALS]["left"])
    assert 1 == len(ground.trusted("zoe"))
