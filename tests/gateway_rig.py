"""A gateway and a processor as processes beside a real broker, with one organization, its API key and its signer."""

import base64
import hashlib
import hmac
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from keymill.gateway.dialects import widevine
from keymill.kafka.admin import create_topics
from keymill.ops.access import prepare_keys
from keymill.ops.credentials import Created, Kind, create_credential, create_organization
from keymill.ops.supervise import Child
from keymill.secret import Secret

ORGANIZATION = "acme"
PARTITIONS = 4


@dataclass
class Rig:
    """The processes, and how to talk to them."""

    bootstrap: str
    data: Path
    key: Created
    signer: Created
    ncp: Created
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

    def make_policy(self, document: Mapping[str, Any] | None = None) -> int:
        """A new policy's id."""
        path = f"/v1/organizations/{ORGANIZATION}/policies"
        answer = self.client.post(path, params={"name": "test"}, json=document or {"can_play": True})
        assert answer.status_code == 201, answer.text
        made: int = answer.json()["policy_id"]
        return made

    def ncp_call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        credential: Created | None = None,
        region: str = "KR",
        **headers: str,
    ) -> httpx.Response:
        """A signed request of NAVER's policy API; *path* is the target as it goes over the wire."""
        secrets = (credential or self.ncp).secrets
        signed = ncp_headers(secrets["ncp_access_key"], secrets["ncp_secret_key"], method, path, region=region)
        given = {name.replace("_", "-"): text for name, text in headers.items()}
        content = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        return httpx.request(method, self.gateway.url + path, content=content, headers=signed | given, timeout=30)

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


def ncp_headers(access_key: str, secret_key: str, method: str, path: str, *, region: str = "KR") -> dict[str, str]:
    """The headers of a request of NAVER's policy API, signed now."""
    stamp = str(time.time_ns() // 1_000_000)
    message = f"{method} {path}\n{stamp}\n{access_key}".encode()
    digest = hmac.new(secret_key.encode(), message, hashlib.sha256).digest()
    return {
        "x-ncp-apigw-timestamp": stamp,
        "x-ncp-iam-access-key": access_key,
        "x-ncp-apigw-signature-v2": base64.b64encode(digest).decode(),
        "x-ncp-region_code": region,
        "content-type": "application/json",
    }


@contextmanager
def running(bootstrap: str, data: Path) -> Iterator[Rig]:
    """Everything up inside the block."""
    prepare_keys(bootstrap, data / "keys.json")
    create_topics(bootstrap, partitions=PARTITIONS)
    create_organization(bootstrap, data / "keys.json", ORGANIZATION)
    create_organization(bootstrap, data / "keys.json", "other")
    key = create_credential(bootstrap, data / "keys.json", ORGANIZATION, Kind.API_KEY, "tests")
    signer = create_credential(bootstrap, data / "keys.json", ORGANIZATION, Kind.WIDEVINE_SIGNER, "packager")
    ncp = create_credential(bootstrap, data / "keys.json", ORGANIZATION, Kind.NCP, "console")
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
            rig = Rig(bootstrap, data, key, signer, ncp, gateway, processor, client)
            assert rig.make_policy() == 1
            yield rig
    finally:
        for child in (gateway, processor):
            child.signal_stop()
        for child in (gateway, processor):
            child.wait_stopped(time.monotonic() + 25)


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
