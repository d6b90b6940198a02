"""A license proxy in process: a real key file, a real LMDB snapshot with real keys, the real ASGI application."""

import asyncio
import base64
import dataclasses
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import jwt
import msgspec
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keymill.config import ProxySettings
from keymill.core.derive import derive_chosen
from keymill.core.envelope import unwrap_keys
from keymill.core.folding import fold
from keymill.core.provisioning import GivenKey, make_key_record, needed
from keymill.http.server import listen
from keymill.kms.keyfile import KeyFile, add_organization, create_key_file
from keymill.kms.keyring import Keyring
from keymill.proxy.app import application
from keymill.proxy.life import STATE_S, Life
from keymill.secret import Secret
from keymill.snapshot import store
from keymill.snapshot.state import Heartbeat, HeartbeatFile, boot_id
from keymill.snapshot.writer import SnapshotWriter
from schemas.access import Credential, OrganizationCreated, Service, TokenKey
from schemas.events import AssetEvent
from schemas.ids import asset_key, scoped_key
from schemas.policy import Policy
from schemas.records import AssetRecord, KeyOrigin, KeyRecord, PolicyRecord, PolicyState
from schemas.values import DrmSystem, LogPosition, Record
from tests import builders
from tests.fakes import TRUSTING, LicenseServer, LicenseServers
from tests.view_records import Log

ORGANIZATIONS = ("demo", "other")
MAP = 64 << 20
BEAT_EVERY_S = 0.02
"""Ten times as often as a follower: nobody should wait for it."""


def b64(value: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    """The inverse."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def challenge(*kids: bytes, type: str | None = "temporary") -> bytes:
    """What a browser's CDM sends."""
    body: dict[str, Any] = {"kids": [b64(kid) for kid in kids]}
    return json.dumps(body if type is None else {**body, "type": type}).encode()


def key_records(
    keyring: Keyring, asset: AssetRecord, brought: Mapping[bytes, bytes] = MappingProxyType({})
) -> Iterator[tuple[bytes, KeyRecord, dict[bytes, bytes]]]:
    """
    What the processor publishes for an asset: record key, key record, and the clear keys by KID.

    Args:
        brought: the keys that were imported, by KID; other KIDs that a caller names are chosen ones.
    """
    for need in needed(asset, None):
        keys = keyring.keys_for(asset.organization, need.root_version)
        named = [track.kid for track in need.tracks if track.kid is not None]
        given = {kid: given_key(keys.prk, asset.organization, kid, brought.get(kid)) for kid in named}
        made = make_key_record(asset, need, keys, given)
        clear = unwrap_keys(keys.kek, keys.k_fp, made)
        yield need.record_key, made, {t.kid: key.cek.reveal() for t, key in zip(made.tracks, clear, strict=True)}


def given_key(prk: Secret, organization: str, kid: bytes, cek: bytes | None) -> GivenKey:
    """The key of a KID that a caller brought, or chose."""
    if cek is not None:
        return GivenKey(kid=kid, cek=Secret(cek), iv=Secret(b"i" * 16), origin=KeyOrigin.IMPORTED)
    key = derive_chosen(prk, organization, kid)
    return GivenKey(kid=kid, cek=key.cek, iv=key.iv, origin=KeyOrigin.CHOSEN)


class ProxyRig:
    """One proxy worker's application over a view that the test writes; `followed` False: its follower is dead."""

    followed = True

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        create_key_file(folder / "keys.json")
        for organization in ORGANIZATIONS:
            add_organization(folder / "keys.json", organization)
        self.kms = KeyFile(folder / "keys.json")
        self.keyring = Keyring(self.kms)
        self.log = Log()
        self.writer = SnapshotWriter(folder / "views" / "proxy", TRUSTING, map_size=MAP).open()
        self.writer.bind(self.log.checkpoints())
        self.heartbeat = HeartbeatFile(self.writer.folder, write=True)
        self._beat: dict[str, Any] = {}
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._go_on_beating, daemon=True)
        self.beat()
        self._beating.start()
        self.clear: dict[bytes, bytes] = {}
        self.given: dict[bytes, bytes] = {}
        self.kids: dict[tuple[str, str, int, str], bytes] = {}
        self._offset = 0
        self.signers = {name: Ed25519PrivateKey.generate() for name in ORGANIZATIONS}
        for name, signer in self.signers.items():
            self.put_token_key(name, "portal", "EdDSA", public_pem(signer))
        self.runner = asyncio.Runner()
        given: dict[str, Any] = {"data": folder, "missing_wait_ms": 20, **settings}
        self.life = Life(ProxySettings(**given), self.kms)
        self.app = application(self.life)
        self.runner.run(self.life.start())
        self.servers = LicenseServers()

    def close(self) -> None:
        """Let go of everything."""
        self._ended.set()
        self._beating.join()
        self.runner.run(self.life.stop())
        self.runner.close()
        self.heartbeat.close()
        self.writer.close()

    def beat(self, *, ready: bool = True, live: bool = True, ago_s: float = 0.0) -> None:
        """Say how the view is doing, from now on, as a follower says it again and again."""
        self._beat = {"ready": ready, "live": live, "ago_s": ago_s}
        self.followed = True
        self._write_beat(**self._beat)
        time.sleep(2 * STATE_S)  # for so long a worker may go by the heartbeat before

    def _write_beat(self, *, ready: bool, live: bool, ago_s: float) -> None:
        self.heartbeat.write(
            Heartbeat(
                environment=self.writer.manifest.environment, boot=boot_id(), ready=ready, live=live,
                contact_boot_s=time.monotonic() - ago_s, contact_s=time.time() - ago_s,
            )
        )  # fmt: skip

    def _go_on_beating(self) -> None:
        while not self._ended.wait(BEAT_EVERY_S):
            if self.followed:
                self._write_beat(**self._beat)

    def begin_anew(self) -> None:
        """The follower throws its snapshot away and begins another, as after the machine went down."""
        self.followed = False  # until a test says how the new one is doing, nobody says it
        self.writer.close()
        lost = msgspec.structs.replace(self.writer.manifest, boot="another", clean=False)
        store.write_manifest(self.writer.folder, lost)
        self.log = Log()
        self.writer = SnapshotWriter(self.writer.folder, TRUSTING, map_size=MAP).open()
        self.writer.bind(self.log.checkpoints())

    def put(self, key: bytes, record: Record) -> None:
        """Take a record into the view."""
        fates = self.writer.apply([self.log.put((key, record))], self.log.slots)
        assert sum(count for fate, count in fates.items() if fate.value in ("applied", "same")) == 1, fates

    def put_token_key(self, organization: str, credential: str, algorithm: str, pem: str, **more: Any) -> None:
        """Publish a key that verifies tokens."""
        revoked = more.pop("revoked", False)
        body = TokenKey(algorithm=algorithm, public_pem=pem or None, **more)
        record = Credential(
            organization=organization, credential=credential, revoked=revoked, created=1, label="test", body=body
        )
        self.put(scoped_key(organization, credential), record)

    def put_organization(self, organization: str = "demo", *, revoked: bool = False, **more: Any) -> None:
        """Publish an organization's own record."""
        body = OrganizationCreated(display_name=organization, **more)
        record = Credential(
            organization=organization, credential="self", revoked=revoked, created=1, label="", body=body
        )
        self.put(scoped_key(organization, "self"), record)

    def put_license_server(
        self, drm_system: DrmSystem, *, organization: str = "demo", name: str | None = None, **more: Any
    ) -> LicenseServer:
        """Let a license server serve a DRM system."""
        server = LicenseServer(**more)
        self.servers.servers[organization, drm_system, name] = server
        self.life._means = dataclasses.replace(self.life.means, upstreams=self.servers)
        return server

    def put_policy(self, policy_id: int, *, organization: str = "demo", version: int = 1, **members: Any) -> None:
        """Publish a policy."""
        members.setdefault("can_play", True)
        record = PolicyRecord(
            organization=organization, policy_id=policy_id, version=version, state=PolicyState.READY, name="a policy",
            policy=Policy(**members), applied=LogPosition(generation=0, offset=self._next()), created=1, changed=1,
        )  # fmt: skip
        self.put(scoped_key(organization, str(policy_id)), record)

    def put_service(self, name: str = "demo", version: str = "1.0", *, organization: str = "demo", **more: Any) -> None:
        """Publish a service configuration."""
        more.setdefault("drm_system", DrmSystem.CLEARKEY)
        record = Service(organization=organization, service=name, version=version, **more)
        self.put(scoped_key(organization, name, version), record)

    def ingest(
        self, asset: str, *labels: str, organization: str = "demo", held: AssetRecord | None = None, **body: Any
    ) -> AssetRecord:
        """What the processor does with an ingest event: fold, derive, wrap, publish."""
        event = msgspec.structs.replace(builders.ingest(*labels, asset=asset, **body), organization=organization)
        return self.take(event, held)

    def take(self, event: AssetEvent, held: AssetRecord | None = None) -> AssetRecord:
        """The records of any event."""
        record = fold(event, at=builders.at(self._next()), held=held, root_version=1).asset
        for record_key, made, clear in key_records(self.keyring, record, self.given):
            self.clear |= clear
            period = made.period.index if made.period else -1
            for track in made.tracks:
                self.kids[record.asset, track.label, made.key_version, str(period)] = track.kid
            self.put_key_record(record_key, made)
        self.put(asset_key(record.organization, record.asset), record)
        return record

    def put_key_record(self, record_key: bytes, record: KeyRecord) -> None:
        """Publish a key record."""
        self.put(record_key, record)

    def kid(self, asset: str, label: str = "HD", version: int = 1, period: int = -1) -> bytes:
        """The KID of a track."""
        return self.kids[asset, label, version, str(period)]

    def token(
        self, asset: str | None = "film", *, organization: str = "demo", expires_in: float = 60, **claims: Any
    ) -> str:
        """A player token of the organization's portal. A claim given as None is left out."""
        headers = claims.pop("headers", {"kid": "portal"})
        payload = {"organization": organization, "asset": asset, "exp": time.time() + expires_in, **claims}
        payload = {name: value for name, value in payload.items() if value is not None}
        return jwt.encode(payload, self.signers[organization], algorithm="EdDSA", headers=headers)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request to the application."""
        return self.together((method, path, options))[0]

    def together(self, *requests: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
        """Requests at the same time: method, path, options."""

        async def send(method: str, path: str, options: dict[str, Any]) -> httpx.Response:
            given = dict(options)
            transport = httpx.ASGITransport(self.app, client=(given.pop("client", "127.0.0.1"), 4711))
            async with httpx.AsyncClient(transport=transport, base_url="http://proxy") as http:
                return await http.request(method, path, **given)

        async def send_all() -> list[httpx.Response]:
            return await asyncio.gather(*[send(*each) for each in requests])

        return self.runner.run(send_all())

    def clearkey(self, asset: str, *kids: bytes, token: str | None = None, **options: Any) -> httpx.Response:
        """Ask the dedicated endpoint."""
        organization = options.pop("organization", "demo")
        body = options.pop("content", challenge(*kids, type=options.pop("type", "temporary")))
        params = {"token": self.token(asset) if token is None else token}
        return self.request("POST", f"/clearkey/{organization}/{asset}", params=params, content=body, **options)

    def keys_of(self, response: httpx.Response) -> dict[bytes, bytes]:
        """The keys of a license."""
        assert response.status_code == 200, response.text
        return {unb64(key["kid"]): unb64(key["k"]) for key in response.json()["keys"]}

    def _next(self) -> int:
        self._offset += 1
        return self._offset


def public_pem(signer: Any) -> str:
    """The PEM of a private key's public half."""
    pem: bytes = signer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


@contextmanager
def listening(rig: ProxyRig) -> Iterator[str]:
    """The application behind a socket, its loop in a thread; the base URL."""
    with listen("127.0.0.1", 0) as bound:
        server = uvicorn.Server(uvicorn.Config(rig.app, lifespan="off", log_config=None, ws="none"))
        thread = threading.Thread(target=lambda: rig.runner.run(server.serve(sockets=[bound])))
        thread.start()
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
