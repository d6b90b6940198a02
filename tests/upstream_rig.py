"""The license-server double as a process, and the proxy settings that ask it."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec

from keymill.core.envelope import unwrap_keys
from schemas.records import KeyRecord
from tests.license_server.protocols import Known
from tests.proxy_rig import ProxyRig

SIGNER_KEY, SIGNER_IV = "1a" * 32, "d5" * 16
COMMUNICATION_KEY_ID = "cc36e85d-2fdf-462c-b395-030907447afc"
COMMUNICATION_KEY = "Y29tbXVuaWNhdGlvbiBrZXkgb2YgMzIgYnl0ZXMgISE="
API_KEY = "an api key of the license server"
LICENSE_KEY = "4c" * 32
SECRETS = (SIGNER_KEY, SIGNER_IV, COMMUNICATION_KEY, API_KEY)


@dataclass
class Double:
    """A running license server."""

    port: int
    process: "subprocess.Popen[bytes]"
    scheme: str = "http"
    ca_file: Path | None = None
    _client: httpx.Client = field(default_factory=lambda: httpx.Client(verify=False, trust_env=False))

    @property
    def url(self) -> str:
        """Its address."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def next(self, *misbehaviours: dict[str, Any], **told: str) -> None:
        """How it answers the requests that follow, one each; well after that. Forgets what came before."""
        self._client.post(f"{self.url}/_control", json={"next": list(misbehaviours), **told}).raise_for_status()
        self._client.delete(f"{self.url}/_requests").raise_for_status()

    def requests(self) -> list[dict[str, Any]]:
        """The license requests that came since."""
        seen: list[dict[str, Any]] = self._client.get(f"{self.url}/_requests").json()["requests"]
        return seen

    def connections(self) -> int:
        """How many connections it ever took, those of this rig among them."""
        count: int = self._client.get(f"{self.url}/_requests").json()["connections"]
        return count

    def stop(self) -> None:
        """End it."""
        self._client.close()
        self.process.kill()
        self.process.wait(10)


@contextmanager
def double_of(fingerprint_key: bytes = b"", *, cert: Path | None = None, **known: Any) -> Iterator[Double]:
    """Run the license server; it knows the signer, the communication key and the API key of this module."""
    told = Known(
        license_key=LICENSE_KEY,
        fingerprint_key=fingerprint_key.hex(),
        signers={"demo": (SIGNER_KEY, SIGNER_IV)},
        communication_keys={COMMUNICATION_KEY_ID: COMMUNICATION_KEY},
        headers={"X-Api-Key": API_KEY},
        **known,
    )
    command = [sys.executable, "-m", "tests.license_server", "--port", "0", "--parent", str(os.getpid())]
    process = subprocess.Popen(
        [*command, *(["--cert", str(cert)] if cert else [])], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(msgspec.json.encode(told))
    process.stdin.close()
    made = Double(json.loads(process.stdout.readline())["port"], process, "https" if cert else "http", cert)
    try:
        yield made
    finally:
        made.stop()


def table(kind: str, double: Double, system: str = "widevine", **more: Any) -> dict[str, Any]:
    """A table `[upstreams.…]` of the organization demo that asks the double."""
    common: dict[str, Any] = {"kind": kind, "organization": "demo", "drm_system": system}
    if double.ca_file:
        common["ca_file"] = double.ca_file
    match kind:
        case "widevine":
            common |= {"url": f"{double.url}/widevine", "signer": "demo", "key_hex": SIGNER_KEY, "iv_hex": SIGNER_IV}
        case "entitlement":
            common |= {
                "url": f"{double.url}/AcquireLicense/{system}",
                "communication_key_id": COMMUNICATION_KEY_ID,
                "communication_key": COMMUNICATION_KEY,
            }
        case _:
            common |= {"url": f"{double.url}/forward/{system}", "headers": {"X-Api-Key": API_KEY}}
    return common | more


def toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """The tables as a settings file has them, which also allows the double's address."""
    lines = ['upstream_allow = ["127.0.0.1"]']
    for name, members in tables.items():
        lines += ["", f"[upstreams.{name}]", *(f"{member} = {_toml(value)}" for member, value in members.items())]
    return "\n".join([*lines, ""])


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(name)} = {_toml(each)}" for name, each in value.items()) + " }"
    return json.dumps(str(value) if isinstance(value, Path) else value)


class UpstreamRig(ProxyRig):
    """A proxy in process whose license servers are the double, or whatever the tables say."""

    def __init__(self, folder: Path, tables: dict[str, dict[str, Any]], **settings: Any) -> None:
        self.ivs: dict[bytes, bytes] = {}
        given: dict[str, Any] = {"upstream_allow": ("127.0.0.1",), "upstreams": tables, **settings}
        super().__init__(folder, **given)

    def put_key_record(self, record_key: bytes, record: KeyRecord) -> None:
        """Publish a key record, and note its IVs."""
        keys = self.keyring.keys_for(record.organization, record.root_version)
        opened = unwrap_keys(keys.kek, keys.k_fp, record)
        self.ivs |= {track.kid: each.iv.reveal() for track, each in zip(record.tracks, opened, strict=True)}
        super().put_key_record(record_key, record)

    def ask(
        self, challenge: bytes, system: str = "widevine", asset: str = "film", *, token: str | None = None, **query: Any
    ) -> httpx.Response:
        """One license request to TPStreams' endpoint, which takes a raw challenge of any DRM system."""
        given = self.token(asset) if token is None else token
        params = {"access_token": given, "drm_type": system, **query}
        return self.request("POST", f"/api/v1/demo/assets/{asset}/drm_license", params=params, content=challenge)

    def ask_service(self, challenge: bytes, kid: bytes, service: str, version: str = "1.0") -> httpx.Response:
        """One license request to Firstlight's endpoint, whose service configuration may name a license server."""
        params = {"service": service, "version": version, "kid": kid.hex(), "ptoken": self.token(None, product="p")}
        return self.request("POST", "/getlicense", params=params, content=challenge)

    async def send(self, path: str, body: bytes, **query: str) -> httpx.Response:
        """One request inside the loop, for tests of several at once."""
        transport = httpx.ASGITransport(self.app, client=("127.0.0.1", 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://proxy") as http:
            return await http.post(path, params=query, content=body)

    def ask_all(self, *challenges: bytes, system: str = "widevine") -> list[httpx.Response]:
        """Several license requests at once."""

        async def send() -> list[httpx.Response]:
            path, query = "/api/v1/demo/assets/film/drm_license", {"drm_type": system}
            asked = [self.send(path, each, access_token=self.token("film"), **query) for each in challenges]
            return await asyncio.gather(*asked)

        return self.runner.run(send())
