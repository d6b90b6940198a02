"""
The OpenAPI documents against the running programs: schemathesis asks gateway and proxy what the documents allow, and
what they do not.

Each request is sent with a valid credential and names that exist; some also as they were made, and with a body that the
endpoint understands.
"""

import base64
import dataclasses
import hmac
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import requests
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.pytest.lazy import get_all_tests
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from keymill.errors import NotReady
from keymill.ops import access
from keymill.ops.supervise import Child
from keymill.ops.tokens import ensure_token_key, put_service
from keymill.snapshot.reader import SnapshotReader
from schemas.access import Service
from schemas.values import DrmSystem
from tests.broker import running_broker
from tests.conftest import PROFILE
from tests.e2e.programs import wait_for
from tests.gateway_rig import ORGANIZATION, Rig, eventually, running
from tests.license_server.licenses import challenge_of
from tests.proxy_rig import b64, challenge
from tests.unit.test_naver_format import PRINTED
from tests.upstream_rig import Double, double_of, table, toml

pytestmark = pytest.mark.timeout(170)
EXAMPLES = 10
"""Per operation, beside the ones that schemathesis makes of every document, about 40."""
STRANGE = 10
"""Examples of an operation that are sent as they are made, too, without and with a credential."""
UNDERSTOOD = 4
"""Examples of an operation that are sent with a body that is understood, too: each changes something."""
NOWHERE = "127.0.0.1:9"
"""The discard port, where nobody listens."""
SYSTEMS = {"widevine": "widevine", "playready": "entitlement", "fairplay": "forward"}
FIRSTLIGHT = "/getlicense"
HLS = "/hls/{organization}/{asset}/{kid}"
CLEARKEY = "/clearkey/{organization}/{asset}"
PLAYREADY = "/playready/{organization}/{asset}"
WIDEVINE = "/widevine/{organization}/{asset}"
FAIRPLAY = "/fairplay/{organization}/{asset}"
TPSTREAMS = "/api/v1/{organization}/assets/{asset}/drm_license"
ASSETS = "/v1/organizations/{organization}/assets"
POLICIES = "/v1/organizations/{organization}/policies"
ENTITLEMENT = "/v1/organizations/{organization}/entitlements/{user}/{product}"
NAVER = "/api/v1/policy"
HEALTH = {"/healthz", "/readyz"}
OCTETS, JSON = "application/octet-stream", "application/json"
DOCUMENTED = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]


class Signature(requests.auth.AuthBase):
    """Signs whatever goes over the wire, as NAVER's policy API wants it."""

    def __init__(self, rig: Rig) -> None:
        self._key, self._secret = rig.ncp.secrets["ncp_access_key"], rig.ncp.secrets["ncp_secret_key"]

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        stamp = str(time.time_ns() // 1_000_000)
        message = f"{request.method} {request.path_url}\n{stamp}\n{self._key}".encode()
        digest = hmac.digest(self._secret.encode(), message, "sha256")
        request.headers["x-ncp-apigw-timestamp"] = stamp
        request.headers["x-ncp-iam-access-key"] = self._key
        request.headers["x-ncp-apigw-signature-v2"] = base64.b64encode(digest).decode()
        request.headers["x-ncp-region_code"] = "KR"
        return request


@dataclass
class Target:
    """
    A program, and what a caller of it knows.

    Args:
        document: where its document is, if elsewhere.
        names, query: parts of paths and members of queries that stand for something.
        bodies: a body that is understood, by method and path.
        headers, tokens, auth: a credential, in headers, in the query, or over the whole request.
        down: whether it lacks something, so that it may say so.
    """

    url: str
    names: Mapping[str, str]
    bodies: Mapping[tuple[str, str], tuple[str, Any]]
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)
    auth: "Signature | None" = None
    down: bool = False
    document: str = ""
    seen: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    asked: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    session: requests.Session = field(default_factory=requests.Session)

    def ask(self, case: schemathesis.Case) -> None:
        """Send the request with a credential and names that exist; the first ones also with less, and with more."""
        path, parts = case.operation.path, case.path_parameters or {}
        place = (case.operation.method.upper(), path)
        self.asked[place] += 1
        if self.asked[place] <= STRANGE:
            self.send(case)
            self.send(case, **self.credential(path))
        case.path_parameters = {**parts, **{name: value for name, value in self.names.items() if name in parts}}
        if self.asked[place] <= STRANGE:
            self.send(case)  # of the names above none may be one that is looked for before the credential is missed
        self.send(case, **self.credential(path, self.query))
        if place in self.bodies and self.asked[place] <= UNDERSTOOD:
            case.media_type, case.body = self.bodies[place]
            self.send(case, params=dict(self.query))
            self.send(case, **self.credential(path, self.query))

    def credential(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What makes a request this caller's; the query's other members beside it."""
        if self.auth and path.startswith(NAVER):
            return {"auth": self.auth}
        return {"headers": dict(self.headers), "params": {**self.tokens, **(query or {})}}

    def send(self, case: schemathesis.Case, **more: Any) -> None:
        """Send it; the answer must be as documented, and no fault of a server but where something is down."""
        response = case.call(session=self.session, **more)
        path, status = case.operation.path, response.status_code
        self.seen[path].add(status)
        case.validate_response(response, checks=DOCUMENTED if self.down else [*DOCUMENTED, not_a_server_error])
        if status >= 500:
            assert status in ({500} if path == FIRSTLIGHT else {502, 503, 504}), response.text


def document_of(target: Target, seed: int, examples: int = EXAMPLES, *, coverage: bool = True) -> Any:
    """The program's own document, and how much is asked of it."""
    told = {
        "seed": seed,
        "base-url": target.url,
        "generation": {"max-examples": examples, "deterministic": PROFILE == "ci", "database": "none"},
        "phases": {
            "coverage": {"enabled": coverage},
            "fuzzing": {"error-feedback": {"enabled": False}, "extra-data-sources": {"responses": False}},
            "stateful": {"enabled": False},
        },
    }
    where = f"{target.document or target.url}/openapi.json"
    return schemathesis.openapi.from_url(where, config=schemathesis.Config.from_dict(told))


@pytest.fixture(scope="module")
def seed(request: pytest.FixtureRequest) -> int:
    """Hypothesis's, which the header prints; always the same in CI."""
    return int(getattr(request.config.option, "hypothesis_seed", None) or 1)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A broker, a processor and a gateway; the asset `film` has keys, the organization what tokens need."""
    with running_broker() as bootstrap, running(bootstrap, tmp_path_factory.mktemp("data")) as up:
        ensure_token_key(up.data, bootstrap, ORGANIZATION)
        put_service(bootstrap, ORGANIZATION)
        service = Service(organization=ORGANIZATION, service="widevine", version="1.0", drm_system=DrmSystem.WIDEVINE)
        access.publish(bootstrap, [service])
        yield up


@pytest.fixture(scope="module")
def kids(rig: Rig) -> dict[str, bytes]:
    """The KIDs of `film` by track type."""
    labels = ["SD", "HD", "AUDIO", "HLS_AES128"]
    answer = rig.post("?wait=1", {"asset_id": "film", "tracks": labels})
    assert 201 == answer.status_code, answer.text
    return {track["track_type"]: UUID(track["kid"]).bytes for track in answer.json()["tracks"]}


@pytest.fixture(scope="module")
def double() -> Iterator[Double]:
    """The license server."""
    with double_of() as made:
        yield made


@contextmanager
def proxy_of(data: Path, bootstrap: str, tables: Mapping[str, Any], *, patience_s: float = 20) -> Iterator[str]:
    """Run a proxy with these license servers; its address. It may take so long to stop, and is killed then."""
    file = data / f"proxy-{time.monotonic_ns()}.toml"
    file.write_text(toml(tables))
    environment = {"KEYMILL_BOOTSTRAP": bootstrap, "KEYMILL_DATA": str(data), "KEYMILL_MAP_SIZE_GIB": "1"}
    given = {"KEYMILL_PROXY_PORT": "0", "KEYMILL_MISSING_WAIT_MS": "0", "KEYMILL_ADMIN_ON_MAIN_PORT": "1"}
    child = Child("proxy", ["proxy", "--settings", str(file)], environment | given)
    child.start()
    try:
        child.wait_listening()
        yield child.url
    finally:
        child.signal_stop()
        child.wait_stopped(time.monotonic() + patience_s)


def tables_of(double: Double, **more: Any) -> dict[str, Any]:
    """A license server of each DRM system."""
    return {f"a-{name}": table(kind, double, name, organization=ORGANIZATION, **more) for name, kind in SYSTEMS.items()}


def player(rig: Rig, url: str, kids: Mapping[str, bytes], *, service: str = "demo") -> Target:
    """The proxy as a player asks it."""
    issue = [sys.executable, "-m", "keymill.ops.cli", "token", "issue", "--data", str(rig.data), "--asset", "film"]
    issued = subprocess.run(
        [*issue, "--organization", ORGANIZATION, "--server-side"], capture_output=True, text=True, check=True
    )
    tokens, octets = dict.fromkeys(("token", "access_token", "ptoken"), issued.stdout.strip()), (OCTETS, challenge_of())
    query = {
        "drm": "widevine",
        "drm_type": "playready",
        "asset": "film",
        "service": service,
        "version": "1.0",
        "kid": kids["SD"].hex(),
    }
    names = {"organization": ORGANIZATION, "asset": "film", "kid": str(UUID(bytes=kids["HLS_AES128"]))}
    bodies: dict[str, tuple[str, Any]] = dict.fromkeys((WIDEVINE, FAIRPLAY, TPSTREAMS, "/license"), octets)
    bodies[PLAYREADY] = ("text/xml", octets[1])
    bodies[CLEARKEY] = (JSON, {"kids": [b64(kids["SD"])], "type": "temporary"})
    bodies[FIRSTLIGHT] = (OCTETS, challenge(kids["SD"]))
    return Target(url, names, {("POST", path): body for path, body in bodies.items()}, query, tokens=tokens)


def packager(rig: Rig, url: str) -> Target:
    """The gateway as an ingest system asks it."""
    change = ASSETS + "/{asset}"
    bodies: dict[tuple[str, str], tuple[str, Any]] = {
        ("POST", f"{change}/{name}"): (JSON, {}) for name in ("rotate", "revoke", "restore")
    }
    bodies |= {("POST", ASSETS): (JSON, {"asset_id": "asked"}), ("POST", f"{change}/policy"): (JSON, {"policy_id": 1})}
    bodies |= dict.fromkeys((("POST", POLICIES), ("PUT", POLICIES + "/{policy_id}")), (JSON, {"can_play": True}))
    bodies |= dict.fromkeys((("POST", NAVER), ("PUT", NAVER + "/{policy_id}")), (JSON, PRINTED))
    headers = {"authorization": f"Bearer {rig.key.secrets['api_key']}"}
    names = {"organization": ORGANIZATION, "asset": "asked", "policy_id": "1", "user": "u", "product": "p"}
    return Target(url, names, bodies, headers=headers, auth=Signature(rig))


@pytest.fixture(scope="module")
def proxy(rig: Rig, double: Double, kids: Mapping[str, bytes]) -> Iterator[Target]:
    """A proxy that has caught up."""
    with proxy_of(rig.data, rig.bootstrap, tables_of(double, deadline_s=1.0)) as url:
        eventually(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        yield player(rig, url, kids)


@pytest.fixture(scope="module")
def gateway(rig: Rig) -> Target:
    """The gateway, which knows the asset `asked`."""
    assert 201 == rig.post("?wait=1", {"asset_id": "asked"}).status_code
    return dataclasses.replace(packager(rig, rig.gateway.url), document=rig.gateway.admin_url)


def ask_all(target: Target, document: Any, subtests: pytest.Subtests) -> None:
    """Everything that the document makes schemathesis ask, operation by operation."""
    for made in get_all_tests(schema=document, test_func=ask, settings=None, given_kwargs=None):
        operation, run = made.ok()
        with subtests.test(operation.label):
            run(target=target)


def ask(case: schemathesis.Case, target: Target) -> None:
    """One example; a function of its own, since schemathesis gives it its arguments."""
    target.ask(case)


def test_gateway_answers_as_documented(gateway: Target, seed: int, subtests: pytest.Subtests) -> None:
    """Whatever is asked: a documented status, in its form, and never a fault of the gateway's."""
    ask_all(gateway, document_of(gateway, seed), subtests)
    assert {202, 400, 401, 403} <= gateway.seen[ASSETS]
    assert {200, 401, 403} <= gateway.seen[ASSETS + "/{asset}"]
    assert {201, 400, 401, 403} <= gateway.seen[POLICIES] and {200, 400, 401} <= gateway.seen[NAVER]
    assert {200, 401, 403} <= gateway.seen[ENTITLEMENT]


def test_proxy_answers_as_documented(proxy: Target, seed: int, subtests: pytest.Subtests) -> None:
    """Whatever is asked: a documented status, in its form, and never a fault of the proxy's; licenses are among it."""
    ask_all(proxy, document_of(proxy, seed), subtests)
    assert {} == {path: seen for path, seen in proxy.seen.items() if path not in HEALTH and not {200, 401} <= seen}


ASKS_SERVER = (WIDEVINE, PLAYREADY, FAIRPLAY, TPSTREAMS, "/license", FIRSTLIGHT)


def test_license_server_cannot_be_reached(
    rig: Rig, double: Double, kids: Mapping[str, bytes], seed: int, subtests: pytest.Subtests
) -> None:
    """Nobody listens there: 503 wherever a license server is needed, and on /getlicense 500."""
    with proxy_of(rig.data, rig.bootstrap, tables_of(Double(9, double.process))) as url:
        eventually(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        target = player(rig, url, kids, service="widevine")
        target.down = True
        ask_all(target, document_of(target, seed, 3, coverage=False), subtests)
        for path in ASKS_SERVER:
            assert (500 if path == FIRSTLIGHT else 503) in target.seen[path], path


@pytest.mark.parametrize(
    ("misbehaviour", "status", "paths"),
    [
        ({"mode": "status", "status": 500}, 502, ASKS_SERVER),
        ({"mode": "slow", "seconds": 3}, 504, (PLAYREADY, "/license", FIRSTLIGHT)),
    ],
    ids=["no license", "no answer in time"],
)
def test_license_server_misbehaves(
    rig: Rig, proxy: Target, double: Double, kids: Mapping[str, bytes], misbehaviour: Any, status: int, paths: list[str]
) -> None:
    """No license is 502, no answer in time 504, and on /getlicense 500; each is documented, in its form."""
    target = player(rig, proxy.url, kids, service="widevine")
    target.down = True
    document = document_of(target, 1)
    for path in paths:
        kind, body = target.bodies["POST", path]
        parts = {name: value for name, value in target.names.items() if f"{{{name}}}" in path}
        query = {**target.tokens, **target.query}
        double.next(misbehaviour)
        target.send(document[path]["POST"].Case(path_parameters=parts, query=query, media_type=kind, body=body))
        assert {500 if path == FIRSTLIGHT else status} == target.seen[path]
    double.next()


def test_proxy_that_never_caught_up(
    rig: Rig, kids: Mapping[str, bytes], tmp_path: Path, seed: int, subtests: pytest.Subtests
) -> None:
    """Without brokers a new proxy says 503 to every license request that can be read, and 500 on /getlicense."""
    shutil.copy(rig.data / "keys.json", tmp_path)
    with proxy_of(tmp_path, NOWHERE, {}, patience_s=0) as url:  # its follower waits 10 s for a broker
        target = player(rig, url, kids)
        target.down = True
        ask_all(target, document_of(target, seed, 3, coverage=False), subtests)
        licensed = {path: seen for path, seen in target.seen.items() if path not in HEALTH}
        assert {} == {path: seen for path, seen in licensed.items() if not {500, 503} & seen or {200, 401} & seen}


@contextmanager
def held_back(rig: Rig, data: Path) -> Iterator[str]:
    """A gateway whose view does not catch up: its follower stands still as soon as there is a snapshot to read."""
    environment = {"KEYMILL_BOOTSTRAP": rig.bootstrap, "KEYMILL_DATA": str(data), "KEYMILL_MAP_SIZE_GIB": "1"}
    environment |= {"KEYMILL_GATEWAY_PORT": "0", "KEYMILL_PACKAGER_WAIT_S": "1", "KEYMILL_ADMIN_ON_MAIN_PORT": "1"}
    child = Child("gateway", ["gateway"], environment)
    child.start()
    follower = 0
    try:
        follower = wait_for(lambda: follower_of(child.pid), 30)
        wait_for(lambda: is_readable(data / "views" / "gateway"), 30, 0.001)
        os.kill(follower, signal.SIGSTOP)
        child.wait_listening()
        yield child.url
    finally:
        if follower:
            os.kill(follower, signal.SIGCONT)
        child.signal_stop()
        child.wait_stopped(time.monotonic() + 20)


def is_readable(folder: Path) -> bool:
    """Whether a gateway finds a view there."""
    try:
        SnapshotReader(folder).open(wait_s=0).close()
    except NotReady:
        return False
    return True


def follower_of(parent: int) -> int:
    """The process id of a program's follower; 0 before there is one."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            if stat[1] == str(parent) and b"keymill.snapshot.follower" in (entry / "cmdline").read_bytes():
                return int(entry.name)
    return 0


def test_gateway_that_has_not_caught_up(rig: Rig, tmp_path: Path, seed: int, subtests: pytest.Subtests) -> None:
    """Every request that needs the view is 503; only a packager, who comes once, is told inside a 200."""
    shutil.copy(rig.data / "keys.json", tmp_path)
    with held_back(rig, tmp_path) as url:
        target = packager(rig, url)
        target.down = True
        ask_all(target, document_of(target, seed, 3, coverage=False), subtests)
        assets = {path: seen for path, seen in target.seen.items() if path.startswith("/v1/")}
        assert set() != set(assets) and {} == {path: seen for path, seen in assets.items() if {503} != seen}
