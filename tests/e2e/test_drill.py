"""
`make drill`: everything derived is lost under load, and got back by the commands of the runbook.

What the drill says of itself is looked after in what it leaves: its ledgers, its brokers' disk, its SQL archive, the
surviving proxy's log.
"""

import csv
import hashlib
import hmac
import json
import sqlite3
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from keymill.kafka.admin import end_offsets, load_adoptions
from keymill.kafka.embedded import EmbeddedKafka
from keymill.kafka.scan import scan_partition
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.kms.provider import KekState
from schemas import topics
from schemas.audit import AuditEvent, What
from schemas.codec import decode
from tests.kafka_commands import told

pytestmark = pytest.mark.timeout(900)
ROOT: Final = Path(__file__).parents[2]
ORGANIZATION: Final = "demo"
MEMBERS: Final = ("audit_clean", "fingerprints_equal", "failed_licenses", "assets", "seconds")
FEW: Final = 2_000
MANY: Final = 20_000
"""As `make drill` takes; in `make soak`, since each command does then what it does with few, for longer."""
SILENCE_S: Final = 5.0
"""What a player would wait for a license; the load asks fifty times a second."""


class Left(NamedTuple):
    """What the drill of so many assets said, and the folder that it left."""

    assets: int
    code: int
    outcome: dict[str, Any]
    story: str
    data: Path

    @property
    def chosen(self) -> int:
        """KIDs that the ingest system chose."""
        return self.assets // 10

    @property
    def imported(self) -> int:
        """Keys that were imported."""
        return self.assets // 20

    @property
    def keys(self) -> int:
        """All keys there are."""
        return 3 * self.assets + self.imported


@pytest.fixture(scope="module", params=[FEW, pytest.param(MANY, marks=pytest.mark.soak)])
def left(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Left:
    """The drill has run, and ended."""
    assets, data = request.param, tmp_path_factory.mktemp("drill") / "data"
    command = [sys.executable, "-m", "keymill.ops.drill", "--assets", str(assets), "--data", str(data)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=880, check=False)
    assert done.stdout, done.stderr[-4000:]
    return Left(assets, done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr, data)


@pytest.fixture(scope="module")
def bootstrap(left: Left) -> Iterator[str]:
    """The drill's brokers, started again on what they had on disk."""
    with EmbeddedKafka(left.data / "kafka") as kafka:
        yield kafka.bootstrap


def ledger(path: Path) -> dict[str, str]:
    """KID to fingerprint, in hex, of a ledger whose seal is right."""
    *body, seal = path.read_bytes().splitlines(keepends=True)
    assert f"sha256 {hashlib.sha256(b''.join(body)).hexdigest()}\n".encode() == seal
    rows = [line.decode().split() for line in body[1:]]
    assert {ORGANIZATION} == {row[0] for row in rows}
    found = {kid: fp for _, kid, fp in rows}
    assert len(found) == len(rows)
    return found


def sql(database: Path, query: str) -> list[Any]:
    """What a database answers."""
    connection = sqlite3.connect(database)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_what_is_lost_comes_back_and_no_player_notices(left: Left) -> None:
    """At the end the audit is clean, every fingerprint is the one from before, no license failed."""
    assert left.code == 0, left.story[-4000:]
    outcome = left.outcome
    assert set(MEMBERS) <= outcome.keys()
    assert (True, True, 0) == tuple(outcome[name] for name in MEMBERS[:3]), left.story
    assert outcome["assets"] == left.assets and outcome["licenses"] > 1000
    for lost in ("drm.keys.v1 is deleted", "proxy's disk", "the SQL archive", "rotate-kek"):
        assert lost in left.story


def test_everything_was_lost_indeed(left: Left, bootstrap: str) -> None:
    """The key topic is another one, disk and archive are younger than the first ledger, the first KEK is retired."""
    adoptions, written = load_adoptions(bootstrap), (left.data / "before.ledger").stat().st_mtime
    assert {1} == {each.generation for name, each in adoptions.items() if name == topics.KEYS.name}
    assert {0} == {each.generation for name, each in adoptions.items() if name != topics.KEYS.name}
    assert adoptions[topics.KEYS.name].adopted > written * 1000
    assert (left.data / "second").stat().st_mtime > written  # when the youngest of its folders was made
    archive = left.data / "archive.sqlite"
    assert [(1,)] == sql(archive, "SELECT DISTINCT generation FROM key_records")
    assert [(left.keys, 2)] == sql(archive, "SELECT count(*), min(kek_epoch) FROM keys_by_kid")
    states = [each.state for each in KeyFile(left.data / "keys.json").epochs(ORGANIZATION)]
    assert [KekState.RETIRED, KekState.ACTIVE] == states


def test_the_ledgers_are_equal_and_hold_the_keys_that_were_given(left: Left) -> None:
    """Before, after and in the archive; imported keys by their bytes, chosen KIDs as the ingest system chose them."""
    before = ledger(left.data / "before.ledger")
    assert left.keys == len(before)
    assert before == ledger(left.data / "after.ledger")
    assert before == {
        kid.replace("-", ""): fp for kid, fp in sql(left.data / "archive.sqlite", "SELECT kid, fp FROM keys_by_kid")
    }
    k_fp = Keyring(KeyFile(left.data / "keys.json")).k_fp(ORGANIZATION).reveal()
    with (left.data / "existing-keys.csv").open() as file:
        given = {uuid.UUID(row["kid"]).bytes: bytes.fromhex(row["key"]) for row in csv.DictReader(file)}
    prints = {kid.hex(): hmac.digest(k_fp, kid + key, "sha256")[:16].hex() for kid, key in given.items()}
    assert (left.imported, True) == (len(prints), prints.items() <= before.items())
    bodies = [json.loads(body) for (body,) in sql(left.data / "outbox.sqlite", "SELECT body FROM keymill_outbox")]
    chosen = {uuid.UUID(track["kid"]).hex for body in bodies for track in body["tracks"] if "kid" in track}
    assert (left.assets, left.chosen, True) == (len(bodies), len(chosen), chosen <= before.keys())


def test_an_audit_and_a_replay_of_ours_are_clean(left: Left, bootstrap: str, tmp_path: Path) -> None:
    """Of events, claims, records, archive and both proxies' disks, after the drill; its ledger is that from before."""
    data, ours = left.data, tmp_path / "ours.ledger"
    place = ("--bootstrap", bootstrap, "--data", data)
    disks = ("--snapshot", data / "views" / "proxy", "--snapshot", data / "second" / "views" / "proxy")
    copies = (*disks, "--archive", f"sqlite:///{data / 'archive.sqlite'}")
    found = told("audit", *place, *copies, "--against", data / "before.ledger", "--ledger", ours)
    assert (True, {}, left.assets, left.keys) == tuple(
        found[name] for name in ("clean", "counts", "assets", "fingerprints")
    )
    assert ledger(ours) == ledger(data / "before.ledger")
    replayed = told("replay", *place)
    assert (0, 0, 0, 0) == tuple(replayed[name] for name in ("missing", "different", "unexpected", "refused"))
    assert replayed["identical"] >= 2 * left.assets


def licenses_on(bootstrap: str) -> list[AuditEvent]:
    """Every answer to a player, as the audit topic has it, once."""
    found = {}
    for partition, end in end_offsets(bootstrap, topics.AUDIT.name).items():
        for message in scan_partition(bootstrap, topics.AUDIT.name, partition, end=end):
            event = decode(message.value() or b"", AuditEvent)
            if event.what == What.LICENSE:
                found[event.instance, event.sequence] = event
    return list(found.values())


def test_every_license_was_granted_all_the_while(left: Left, bootstrap: str) -> None:
    """The surviving proxy's log and the audit topic have as many as the load asked for, all granted, without a gap."""
    lines = [json.loads(line) for line in (left.data / "surviving-proxy.log").read_text().splitlines()]
    logged = [line for line in lines if line["event"] == "license"]
    assert {"granted": left.outcome["licenses"]} == Counter(line["reason"] for line in logged)
    told = licenses_on(bootstrap)
    assert {line["request_id"] for line in logged} == {event.request_id for event in told}
    assert ({True}, len(logged)) == ({event.granted for event in told}, len(told))
    assert {kid.hex() for event in told for kid in event.kids} <= ledger(left.data / "before.ledger").keys()
    times = sorted(datetime.fromisoformat(line["timestamp"]).timestamp() for line in logged)
    assert max(later - earlier for earlier, later in pairwise(times)) < SILENCE_S
    adopted_ms = load_adoptions(bootstrap)[topics.KEYS.name].adopted
    ((rewrapped_ms,),) = sql(left.data / "archive.sqlite", "SELECT max(record_time) FROM key_records")
    assert times[0] < adopted_ms / 1000 < rewrapped_ms / 1000 < times[-1]
