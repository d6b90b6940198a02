"""A policy that changes is in force at once: from the API's answer, through the log, to the license server."""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from keymill.ops.demo.stack import Stack, issue_token
from tests.e2e.programs import get, wait_for
from tests.e2e.up import keymill_up
from tests.upstream_rig import SIGNER_IV, SIGNER_KEY, Double, double_of

CHANGES = 20
REACH_S = 0.1
"""From the API's last answer to a request at the license server that has the change; the median of `CHANGES`."""
CHALLENGE = b"a Widevine challenge, opaque to the proxy, of more than fifty bytes"
ASSETS = "/v1/organizations/demo/assets"
POLICIES = "/v1/organizations/demo/policies"


@pytest.fixture(scope="module")
def double() -> Iterator[Double]:
    with double_of() as running:
        yield running


@pytest.fixture(scope="module")
def stack(double: Double, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`keymill up` whose organization demo has a Widevine license server."""
    settings = tmp_path_factory.mktemp("settings") / "keymill.toml"
    settings.write_text(
        f"""
upstream_allow = ["127.0.0.1"]
[upstreams.double]
kind = "widevine"
organization = "demo"
drm_system = "widevine"
url = "{double.url}/widevine"
signer = "demo"
key_hex = "{SIGNER_KEY}"
iv_hex = "{SIGNER_IV}"
"""
    )
    with keymill_up(arguments=("--settings", str(settings))) as running:
        yield running


class Door:
    """The gateway as an operator, the proxy as a player."""

    def __init__(self, stack: Stack, double: Double) -> None:
        self._up, self._double = stack.up, double
        authorization = {"Authorization": f"Bearer {stack.up.credentials.api_key}"}
        self._api = httpx.Client(base_url=stack.up.gateway, headers=authorization, trust_env=False, timeout=30)

    def say(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """One call of the gateway's API, which must succeed."""
        answer = self._api.request(method, path, json=body)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    def asset(self, name: str, **body: Any) -> str:
        """An asset with keys; the URL of its licenses."""
        self.say("POST", f"{ASSETS}?wait=1", {"asset_id": name, "tracks": ["SD", "AUDIO"], **body})
        token = issue_token(Path(self._up.data), organization="demo", asset=name, expires_in_s=600)
        return f"{self._up.proxy}/widevine/demo/{name}?token={token}"

    def seen(self, license_url: str) -> dict[str, Any]:
        """The policy of the request that the license server gets when a player asks now."""
        self._double.next()
        status, body = get(license_url, CHALLENGE)
        assert status == 200, body
        return self._double.requests()[-1]["message"]["policy_overrides"]

    def reach_s(self, license_url: str, duration_s: int) -> float:
        """How long until a request shows that license duration."""
        begun = time.monotonic()
        wait_for(lambda: self.seen(license_url).get("license_duration_seconds") == duration_s, 5, 0.002)
        return time.monotonic() - begun


@pytest.fixture(scope="module")
def door(stack: Stack, double: Double) -> Door:
    return Door(stack, double)


def test_a_changed_policy_reaches_the_license_server_at_once(door: Door) -> None:
    """PUT, and the next license has it: within 100 ms in the median."""
    policy_id = door.say("POST", f"{POLICIES}?name=reach", {"can_play": True})["policy_id"]
    url = door.asset("reach-changed", policy_id=policy_id)
    taken = []
    for number in range(1, CHANGES + 1):
        door.say("PUT", f"{POLICIES}/{policy_id}?name=reach", {"can_play": True, "license_duration_s": number})
        taken.append(door.reach_s(url, number))
    print(f"a changed policy reached the license server in {1000 * statistics.median(taken):.1f} ms (median)")
    assert statistics.median(taken) <= REACH_S


def test_a_created_and_assigned_policy_reaches_the_license_server_at_once(door: Door) -> None:
    """POST, assign with ?wait=1, and the next license has it: within 100 ms in the median."""
    url = door.asset("reach-assigned")
    taken = []
    for number in range(1, CHANGES + 1):
        template = {"policy_overrides": {"can_play": True, "license_duration_seconds": number}}
        policy_id = door.say("POST", f"{POLICIES}?name=a&format=azure-widevine", template)["policy_id"]
        door.say("POST", f"{ASSETS}/reach-assigned/policy?wait=1", {"policy_id": policy_id})
        taken.append(door.reach_s(url, number))
    print(f"an assigned policy reached the license server in {1000 * statistics.median(taken):.1f} ms (median)")
    assert statistics.median(taken) <= REACH_S
