"""A gateway and a processor as processes beside a real broker, with one organization, its API key and its signer."""

import base64
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from keymill.gateway.dialects import widevine
from keymill.kafka.admin import create_topics, require_topics
from keymill.kafka.producer import Publisher
from keymill.ops.credentials import Created, Kind, create_credential, create_organization
from keymill.ops.supervise import Child
from keymill.secret import Secret
from schemas import topics
from schemas.codec import encode
from schemas.ids import scoped_key
from schemas.policy import Policy
from schemas.records import PolicyRecord, PolicyState
from schemas.values import LogPosition

ORGANIZATION = "acme"
PARTITIONS = 4


@dataclass
class Rig:
    """The processes, and how to talk to them."""

    bootstrap: str
    data: Path
    key: Created
    signer: Created
    gateway: Child
    processor: Child
    client: httpx.Client

    def post(self, path: str, body: object = None, **headers: str) -> httpx.Response:
        """POST JSON under the organization."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        url = f"/v1/organizations/{ORGANIZATION}/assets{path}"
        return self.client.post(
            url, content=content, headers={name.replace("_", "-"): text for name, text in headers.items()}
        )

    def get(self, asset: str) -> httpx.Response:
        """GET an asset."""
        return self.client.get(f"/v1/organizations/{ORGANIZATION}/assets/{asset}")

    def ask_keys(self, inner: Mapping[str, Any] | bytes, *, signer: Mapping[str, str] | None = None) -> dict[str, Any]:
        """A packager's request, chunked and signed; returns the inner answer."""
        secrets = signer or self.signer.secrets
        raw = inner if isinstance(inner, bytes) else json.dumps(inner, separators=(",", ":")).encode()
        material = bytes.fromhex(secrets["widevine_key_hex"]) + bytes.fromhex(secrets["widevine_iv_hex"])
        envelope = {
            "request": base64.b64encode(raw).decode(),
            "signature": base64.b64encode(widevine.sign(raw, Secret(material))).decode(),
            "signer": secrets["widevine_signer"],
        }
        body = json.dumps(envelope).encode()
        pieces = iter([body[:10], body[10:]])  # an iterator is sent chunked, without Content-Length
        answer = httpx.post(f"{self.gateway.url}/widevine/{ORGANIZATION}", content=pieces, timeout=60)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = json.loads(base64.b64decode(answer.json()["response"]))
        return told


@contextmanager
def running(bootstrap: str, data: Path) -> Iterator[Rig]:
    """Everything up inside the block."""
    create_topics(bootstrap, partitions=PARTITIONS)
    create_organization(bootstrap, data / "keys.json", ORGANIZATION)
    create_organization(bootstrap, data / "keys.json", "other")
    key = create_credential(bootstrap, data / "keys.json", ORGANIZATION, Kind.API_KEY, "tests")
    signer = create_credential(bootstrap, data / "keys.json", ORGANIZATION, Kind.WIDEVINE_SIGNER, "packager")
    store_policy(bootstrap, 1)
    environment = {"KEYMILL_BOOTSTRAP": bootstrap, "KEYMILL_DATA": str(data), "KEYMILL_MAP_SIZE_GIB": "1"}
    processor = Child("processor", ["processor"], environment)
    gateway = Child("gateway", ["gateway"], environment | {"KEYMILL_GATEWAY_PORT": "0", "KEYMILL_WAIT_S": "5"})
    try:
        for child in (processor, gateway):
            child.start()
        for child in (processor, gateway):
            child.wait_listening()
            child.wait_ready()
        headers = {"authorization": f"Bearer {key.secrets['api_key']}"}
        with httpx.Client(base_url=gateway.url, headers=headers, timeout=30) as client:
            yield Rig(bootstrap, data, key, signer, gateway, processor, client)
    finally:
        for child in (gateway, processor):
            child.signal_stop()
        for child in (gateway, processor):
            child.wait_stopped(time.monotonic() + 25)


def store_policy(bootstrap: str, policy_id: int, state: PolicyState = PolicyState.READY) -> None:
    """Put a policy record where the processor will, once policies have an API."""
    record = PolicyRecord(
        organization=ORGANIZATION,
        policy_id=policy_id,
        version=1,
        state=state,
        name="test",
        policy=Policy(can_play=True),
        applied=LogPosition(generation=0, offset=policy_id),
        created=1,
        changed=1,
    )
    topic = topics.POLICIES.name
    partitions = {topic: require_topics(bootstrap, [topic])[topic].partitions}
    with closing(Publisher(bootstrap, partitions)) as publisher:
        publisher.flush_all([publisher.send(topic, scoped_key(ORGANIZATION, str(policy_id)), encode(record))])


@contextmanager
def paused(child: Child) -> Iterator[None]:
    """The process stands still inside the block."""
    import os

    os.kill(child.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(child.pid, signal.SIGCONT)


def eventually(look: Callable[[], bool], timeout_s: float = 10) -> None:
    """Wait until it holds; fails at the timeout."""
    deadline = time.monotonic() + timeout_s
    while not look():
        assert time.monotonic() < deadline, "did not come in time"
        time.sleep(0.02)
