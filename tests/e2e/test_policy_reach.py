"""A policy that changes is in force at once: from the API's answer, through the log, to the license server."""

import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from keymill.kafka.authentication import install
from keymill.kafka.producer import Publisher
from keymill.kms.record_keys import record_keys_of
from keymill.ops.demo.stack import Stack, issue_token
from schemas import topics
from schemas.codec import encode
from schemas.events import PolicyChange, PolicyUpdated
from schemas.policy import Policy
from tests.e2e.programs import get, wait_for
from tests.e2e.up import keymill_up
from tests.gateway_rig import ncp_headers
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
        install(record_keys_of(Path(self._up.data) / "keys.json"))
        self._publisher = Publisher(self._up.kafka, {topics.POLICY_CHANGES.name: topics.PARTITIONS})
        self._api = httpx.Client(base_url=stack.up.gateway, headers=authorization, trust_env=False, timeout=30)

    def close(self) -> None:
        """Let go."""
        self._api.close()
        self._publisher.close()

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

    def naver(self, method: str, path: str, duration_s: int) -> int:
        """A change through NAVER's API, whose playbackDuration is *duration_s*; the policy's id."""
        body = {"policyName": "reach", "playbackDuration": duration_s, "drmPolicyConfig": {}}
        credentials = self._up.credentials
        headers = ncp_headers(credentials.ncp_access_key, credentials.ncp_secret_key, method, path)
        answer = self._api.request(method, path, content=json.dumps(body), headers=headers)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["content"]["policyId"])

    def event(self, policy_id: int, duration_s: int) -> None:
        """A change written to the log; returns at its acknowledgement."""
        policy = Policy(can_play=True, playback_duration_s=duration_s)
        body = PolicyUpdated(policy_id=policy_id, name="reach", policy=policy)
        change = PolicyChange(organization="demo", event_time=time.time_ns() // 1_000_000, body=body)
        delivery = self._publisher.send(topics.POLICY_CHANGES.name, b"demo", encode(change))
        self._publisher.flush_all([delivery])

    def reach_s(self, license_url: str, duration_s: int) -> float:
        """How long until a request shows that playback duration."""
        begun = time.monotonic()
        wait_for(lambda: self.seen(license_url).get("playback_duration_seconds") == duration_s, 5, 0.002)
        return time.monotonic() - begun


@pytest.fixture(scope="module")
def door(stack: Stack, double: Double) -> Iterator[Door]:
    made = Door(stack, double)
    yield made
    made.close()


@pytest.mark.parametrize("way", ["native PUT", "NAVER PUT", "event"])
def test_a_changed_policy_reaches_the_license_server_at_once(door: Door, way: str) -> None:
    """From the API's answer, or the event's acknowledgement, to a license that has it: 100 ms in the median."""
    policy_id = door.say("POST", f"{POLICIES}?name=reach", {"can_play": True})["policy_id"]
    url = door.asset(f"changed-{way.replace(' ', '-')}", policy_id=policy_id)
    taken = []
    for number in range(1, CHANGES + 1):
        match way:
            case "native PUT":
                door.say("PUT", f"{POLICIES}/{policy_id}?name=reach", {"can_play": True, "playback_duration_s": number})
            case "NAVER PUT":
                door.naver("PUT", f"/api/v1/policy/{policy_id}", number)
            case _:
                door.event(policy_id, number)
        taken.append(door.reach_s(url, number))
    print(f"changed by {way}: at the license server in {1000 * statistics.median(taken):.1f} ms (median)")
    assert statistics.median(taken) <= REACH_S


@pytest.mark.parametrize("way", ["Azure", "NAVER"])
def test_a_created_and_assigned_policy_reaches_the_license_server_at_once(door: Door, way: str) -> None:
    """POST, assign with ?wait=1, and the next license has it: 100 ms in the median."""
    asset = f"assigned-{way}"
    url, taken = door.asset(asset), []
    for number in range(1, CHANGES + 1):
        if way == "Azure":
            template = {"policy_overrides": {"can_play": True, "playback_duration_seconds": number}}
            policy_id = door.say("POST", f"{POLICIES}?name=a&format=azure-widevine", template)["policy_id"]
        else:
            policy_id = door.naver("POST", "/api/v1/policy", number)
        door.say("POST", f"{ASSETS}/{asset}/policy?wait=1", {"policy_id": policy_id})
        taken.append(door.reach_s(url, number))
    print(f"created by {way}: at the license server in {1000 * statistics.median(taken):.1f} ms (median)")
    assert statistics.median(taken) <= REACH_S
