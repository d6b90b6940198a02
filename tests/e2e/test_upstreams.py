"""`keymill up --settings FILE` with license servers of every kind: keys, policies, failures, and no secret anywhere."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from keymill.kafka.admin import end_offsets
from keymill.kafka.scan import scan_partition
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.ops.demo.stack import Stack
from schemas import topics
from schemas.codec import decode
from schemas.ids import is_key_set
from schemas.records import KeyRecord
from tests.drawn import ORGANIZATION
from tests.e2e.leaks import content_secrets, files_of, house_secrets, leaks
from tests.e2e.player import token_for
from tests.e2e.programs import children_of, get, wait_for
from tests.e2e.up import keymill_up
from tests.license_server.licenses import challenge_of, read_license
from tests.license_server.protocols import SESSION_SECRET
from tests.upstream_rig import API_KEY, COMMUNICATION_KEY, SIGNER_IV, SIGNER_KEY, Double, double_of, table, toml

pytestmark = pytest.mark.timeout(170)
SERVERS = {"widevine": "widevine", "playready": "entitlement", "fairplay": "entitlement"}
MISBEHAVIOURS = [
    ({"mode": "status", "status": 500}, 502),
    ({"mode": "status", "status": 403}, 403),
    ({"mode": "redirect", "location": "http://127.0.0.1:1/"}, 502),
    ({"mode": "truncated"}, 502),
    ({"mode": "reset"}, 502),
    ({"mode": "huge", "bytes": 300_000}, 502),
    ({"mode": "body", "body": "not JSON"}, 502),
    ({"mode": "slow", "seconds": 3}, 504),
]


@dataclass
class House:
    """Everything on one machine, and the license server beside it."""

    up: Stack
    double: Double

    def ask(self, asset: str, challenge: bytes, system: str = "widevine", token: str = "") -> tuple[int, bytes]:
        """One license request of a player."""
        given = token or token_for(Path(self.up.up.data), asset)
        path = f"/api/v1/{ORGANIZATION}/assets/{asset}/drm_license?access_token={given}&drm_type={system}"
        return get(f"{self.up.up.proxy}{path}", challenge)

    def ingest(self, asset: str) -> None:
        """Announce an asset, and wait until the proxy knows it."""
        bearer = {"Authorization": f"Bearer {self.up.up.credentials.api_key}"}
        url = f"{self.up.up.gateway}/v1/organizations/{ORGANIZATION}/assets?wait=1"
        status, answer = get(url, json.dumps({"asset_id": asset}).encode(), **bearer)
        assert 201 == status, answer
        wait_for(lambda: self.ask(asset, challenge_of())[0] != 404, 10)
        self.double.next()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Started with a settings file, whose tables no command line and no environment holds."""
    folder = tmp_path_factory.mktemp("upstreams")
    with double_of() as double:
        tables = {f"a-{system}": table(kind, double, system, deadline_s=1.0) for system, kind in SERVERS.items()}
        file = folder / "keymill.toml"
        file.write_text('log_level = "debug"\n' + toml(tables))
        with keymill_up(folder / "data", arguments=["--settings", str(file)]) as up:
            k_fp = Keyring(KeyFile(Path(up.up.data) / "keys.json")).k_fp(ORGANIZATION)
            double.next(fingerprint_key=k_fp.reveal().hex())
            yield House(up, double)


def fingerprints(up: Stack, asset: str) -> dict[str, str]:
    """What the key topic says of an asset's keys."""
    found = {}
    for partition, end in end_offsets(up.up.kafka, topics.KEYS.name).items():
        for message in scan_partition(up.up.kafka, topics.KEYS.name, partition, end=end):
            if is_key_set(message.key() or b""):
                record = decode(message.value() or b"", KeyRecord)
                found |= {t.kid.hex(): t.fp.hex() for t in record.tracks if record.asset == asset}
    return found


@pytest.mark.parametrize("system", SERVERS)
def test_the_license_server_gets_the_key_topics_keys(house: House, system: str) -> None:
    """Every DRM system: the challenge arrives unmodified, fingerprints agree, the license comes back."""
    house.ingest(f"film-{system}")
    challenge = challenge_of()
    status, made = house.ask(f"film-{system}", challenge, system)
    assert 200 == status, made
    (seen,) = house.double.requests()
    assert challenge == base64.b64decode(seen["challenge"])
    expected = fingerprints(house.up, f"film-{system}")
    assert 5 == len(expected) and expected == seen["fingerprints"]
    assert set(expected) == set(read_license(made)["kids"])


def test_no_secret_is_anywhere(house: House) -> None:
    """After licenses and every misbehaviour, at log level debug: none in logs, data, answers, metrics, environments."""
    house.ingest("leaky")
    token = token_for(Path(house.up.up.data), "leaky")
    texts = {}
    for misbehaviour, expected in MISBEHAVIOURS:
        house.double.next(misbehaviour)
        status, body = house.ask("leaky", challenge_of(), token=token)
        assert expected == status, (misbehaviour, body)
        texts[f"the answer to {misbehaviour}"] = body
        assert 200 == house.ask("leaky", challenge_of(), token=token)[0]
    texts["the metrics"] = get(f"{house.up.up.admin['proxy']}/metrics")[1]
    assert b'keymill_upstream_requests_total{outcome="deadline",upstream="a-widevine"} 1.0' in texts["the metrics"]
    family = [pid for child in children_of(house.up.pid) for pid in (child, *children_of(child))]
    for pid in (house.up.pid, *family):
        texts |= {f"{what} of {pid}": Path(f"/proc/{pid}/{what}").read_bytes() for what in ("cmdline", "environ")}
    data = Path(house.up.up.data)
    secrets = content_secrets(house.up.up.kafka, data) | house_secrets(data, house.up.up.credentials)
    secrets |= {
        "the signer's key": bytes.fromhex(SIGNER_KEY),
        "the signer's IV": bytes.fromhex(SIGNER_IV),
        "the communication key": base64.b64decode(COMMUNICATION_KEY),
        "the API key of the license server": API_KEY.encode(),
        "a session's signing key": base64.b64decode(SESSION_SECRET),
        "the player's token": token.rpartition(".")[2].encode(),
    }
    assert [] == leaks(secrets, files_of(data, house.up.log), texts)
    log = house.up.log.read_text()
    assert "license server broke off" in log
