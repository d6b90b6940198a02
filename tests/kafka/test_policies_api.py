"""Policies and entitlements over HTTP end to end: real broker, real processor, real gateway, each a process."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from keymill.kafka.admin import end_offsets
from keymill.kafka.scan import scan_partition
from keymill.ops.credentials import Kind, create_credential, revoke_credential
from schemas import topics
from schemas.access import Entitlement
from schemas.codec import decode
from schemas.records import PolicyRecord
from tests.broker import running_broker
from tests.gateway_rig import ORGANIZATION, Rig, eventually, paused, running
from tests.unit.test_azure_widevine import EVERYTHING
from tests.unit.test_naver_format import ANSWERED, PRINTED, UNUSED

PROBLEM = "application/problem+json"
POLICIES = f"/v1/organizations/{ORGANIZATION}/policies"
NAVER = "/api/v1/policy"
AZURE = {"format": "azure-widevine"}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One of everything for the module."""
    with running_broker() as bootstrap, running(bootstrap, tmp_path_factory.mktemp("data")) as up:
        yield up


def records(rig: Rig, topic: topics.Topic) -> list[tuple[bytes, bytes | None]]:
    """Record keys and values of a topic, partition by partition."""
    found = []
    for partition, end in end_offsets(rig.bootstrap, topic.name).items():
        found += [(m.key() or b"", m.value()) for m in scan_partition(rig.bootstrap, topic.name, partition, end=end)]
    return found


def create(rig: Rig, document: object, expected: int = 201, **query: str) -> dict[str, Any]:
    """POST a policy."""
    answer = rig.client.post(POLICIES, params=query, json=document)
    assert answer.status_code == expected, answer.text
    told: dict[str, Any] = answer.json()
    return told


def one(rig: Rig, policy_id: int, **query: str) -> httpx.Response:
    """GET a policy."""
    return rig.client.get(f"{POLICIES}/{policy_id}", params=query)


def test_a_template_becomes_a_policy(rig: Rig) -> None:
    """201 with id and version when it can be read; the export is the import, byte for byte."""
    text = json.dumps(EVERYTHING, indent=3)
    answer = rig.client.post(POLICIES, params=AZURE, content=text)
    assert answer.status_code == 201, answer.text
    told = answer.json()
    assert told == {"policy_id": told["policy_id"], "version": 1, "warnings": []}
    assert answer.headers["location"] == f"{POLICIES}/{told['policy_id']}"
    shown = one(rig, told["policy_id"]).json()
    assert (shown["name"], shown["state"], shown["version"]) == ("gold", "READY", 1)
    assert shown["policy"]["tracks"][1] == {"label": "HD", "widevine": {"security_level": 5, "hdcp": "HDCP_V2"}}
    assert shown["created"].endswith("Z") and shown["created"] == shown["changed"]
    exported = one(rig, told["policy_id"], **AZURE)
    assert exported.text == text and exported.headers["content-type"] == "application/json"


def test_an_empty_template_plays(rig: Rig) -> None:
    """`{}` and the built-in policy 0 say the same; overrides without can_play are warned of."""
    made = create(rig, {}, **AZURE)
    assert made["warnings"] == [] and one(rig, made["policy_id"]).json()["policy"]["can_play"] is True
    first = one(rig, 0).json()
    assert (first["version"], first["policy"]) == (0, {"can_play": True}) and "created" not in first
    assert one(rig, 0, **AZURE).json() == {}
    denied = create(rig, {"policy_overrides": {}}, **AZURE)
    assert "can_play" in denied["warnings"][0]
    assert one(rig, denied["policy_id"]).json()["policy"]["can_play"] is False


def test_a_policy_is_replaced_and_deleted(rig: Rig) -> None:
    """Versions go up; a deleted policy stays readable, leaves the list, takes no change, and its id stays taken."""
    made = create(rig, {"can_play": True, "can_persist": True}, name="first")["policy_id"]
    answer = rig.client.put(f"{POLICIES}/{made}", params=AZURE, json={"allowed_track_types": "SD_ONLY"})
    assert (answer.status_code, answer.json()) == (200, {"policy_id": made, "version": 2, "warnings": []})
    shown = one(rig, made).json()
    assert shown["name"] == "first" and shown["policy"]["allowed_tracks"] == ["SD", "AUDIO"]
    gone = rig.client.delete(f"{POLICIES}/{made}")
    assert (gone.status_code, gone.json()) == (200, {"policy_id": made, "version": 3, "state": "DELETED"})
    assert rig.client.delete(f"{POLICIES}/{made}").json() == gone.json()
    assert one(rig, made).json()["state"] == "DELETED" and one(rig, made, **AZURE).status_code == 200
    late = rig.client.put(f"{POLICIES}/{made}", json={"can_play": True})
    assert (late.status_code, late.json()["code"], late.headers["content-type"]) == (409, "policy_deleted", PROBLEM)
    listed = {each["policy_id"]: each for each in rig.client.get(POLICIES).json()["policies"]}
    assert made not in listed and {0, 1} <= set(listed) and "policy" not in listed[1]
    every = rig.client.get(POLICIES, params={"deleted": "1"}).json()["policies"]
    assert [each["policy_id"] for each in every] == sorted(each["policy_id"] for each in every)
    assert made in {each["policy_id"] for each in every}
    assert create(rig, {"can_play": True})["policy_id"] > made


def test_policy_0_can_be_changed_and_not_deleted(rig: Rig) -> None:
    """It is the default of every asset that names no policy."""
    changed = rig.client.put(f"{POLICIES}/0", params={"name": "ours"}, json={"can_play": True, "can_renew": False})
    assert changed.status_code == 200 and changed.json()["version"] >= 1
    assert one(rig, 0).json()["name"] == "ours"
    refused = rig.client.delete(f"{POLICIES}/0")
    assert (refused.status_code, refused.json()["code"]) == (409, "default_policy")
    error = rig.ncp_call("DELETE", f"{NAVER}/0")
    assert (error.status_code, error.json()["error"]["name"]) == (409, "default_policy")


@pytest.mark.parametrize(
    ("query", "body", "status", "field"),
    [
        ({"format": "yaml"}, b"{}", 400, "format"),
        (AZURE, b'{"policy_overrides": {"can persist": true}}', 400, "policy_overrides.can persist"),
        (AZURE, b'{"allowed_track_types": "SD_HD", "content_key_specs": [{"track_type": "SD"}]}', 400, None),
        (AZURE, b'{"payload": "AAAA"}', 400, "payload"),
        (AZURE, b"", 400, "document"),
        ({}, b'{"can_play": "yes"}', 400, "can_play"),
        ({}, b'{"tracks": [{"label": "8K"}]}', 400, "tracks.label"),
        ({"name": "x" * 513}, b"{}", 400, "name"),
        ({}, b'{"session_init": {"provider_client_token": "' + b"A" * 1_100_000 + b'"}}', 413, "body"),
        ({"format": "naver"}, b'{"policyName": "p"}', 400, "drmPolicyConfig"),
    ],
)
def test_a_bad_document_is_refused(
    rig: Rig, query: dict[str, str], body: bytes, status: int, field: str | None
) -> None:
    """A 4xx that names the member, and nothing reaches the log."""
    before = end_offsets(rig.bootstrap, topics.POLICY_CHANGES.name)
    for answer in (
        rig.client.post(POLICIES, params=query, content=body),
        rig.client.put(f"{POLICIES}/1", params=query, content=body),
    ):
        assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), answer.text
        assert field is None or answer.json()["field"] == field
    assert end_offsets(rig.bootstrap, topics.POLICY_CHANGES.name) == before


def test_what_is_not_there_and_what_cannot_be_exported(rig: Rig) -> None:
    """404 for an unknown policy, 400 for what is no id, 422 naming the member that a format cannot hold."""
    for answer in (one(rig, 9999), rig.client.put(f"{POLICIES}/9999", json={}), rig.client.delete(f"{POLICIES}/9999")):
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (
            404,
            "policy_unknown",
            "policy_id",
        )
    assert rig.client.get(f"{POLICIES}/x").status_code == 400
    made = create(rig, {"can_play": True, "fairplay": {"hdcp_enforcement": 1}})["policy_id"]
    refused = one(rig, made, **AZURE)
    assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (
        422,
        "not_expressible",
        "fairplay.hdcp_enforcement",
    )
    assert one(rig, made, format="naver").json()["drmPolicyConfig"]["fairPlay"] == {
        "useYn": True,
        "hdcpEnforcement": 1,
    }


def test_policies_need_the_organizations_api_key(rig: Rig) -> None:
    """401 without, 403 with another's, on every method."""
    url = rig.gateway.url + POLICIES
    other = create_credential(rig.bootstrap, rig.data / "keys.json", "other", Kind.API_KEY)
    theirs = {"authorization": f"Bearer {other.secrets['api_key']}"}
    eventually(lambda: httpx.get(url, headers=theirs).status_code == 403, 2)
    entitlement = f"{rig.gateway.url}/v1/organizations/{ORGANIZATION}/entitlements/u/p"
    for method, address in (
        ("POST", url),
        ("GET", url),
        ("GET", f"{url}/1"),
        ("PUT", f"{url}/1"),
        ("DELETE", f"{url}/1"),
        ("PUT", entitlement),
        ("DELETE", entitlement),
    ):
        assert httpx.request(method, address).status_code == 401
        assert httpx.request(method, address, headers=theirs).status_code == 403


def test_an_idempotency_key_makes_one_policy(rig: Rig) -> None:
    """The same key and body give the same policy, whatever happened to it since; another body is 409."""
    headers = {"idempotency-key": "make it"}
    first = rig.client.post(POLICIES, json={"can_play": True}, headers=headers).json()
    before = end_offsets(rig.bootstrap, topics.POLICY_CHANGES.name)
    assert rig.client.post(POLICIES, json={"can_play": True}, headers=headers).json() == first
    assert end_offsets(rig.bootstrap, topics.POLICY_CHANGES.name) == before
    for answer in (
        rig.client.post(POLICIES, json={"can_play": False}, headers=headers),
        rig.client.put(f"{POLICIES}/{first['policy_id']}", json={"can_play": True}, headers=headers),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_conflict")
    again = {"idempotency-key": "change it"}
    for _ in range(2):
        answer = rig.client.put(f"{POLICIES}/{first['policy_id']}", json={"can_play": False}, headers=again)
        assert (answer.status_code, answer.json()["version"]) == (200, 2)
    assert rig.client.post(POLICIES, json={"can_play": True}, headers=headers).json()["policy_id"] == first["policy_id"]
    bad = rig.client.post(POLICIES, json={}, headers={"idempotency-key": "x" * 256})
    assert (bad.status_code, bad.json()["field"]) == (400, "Idempotency-Key")


def test_a_retry_after_503_makes_no_second_policy(rig: Rig) -> None:
    """While the processor stands still both interfaces say 503; the retry gets the policy that the first call made."""
    body = PRINTED | {"policyName": "late"}
    with paused(rig.processor):
        native = rig.client.post(POLICIES, json={"can_play": True}, headers={"idempotency-key": "r1"})
        assert (native.status_code, native.json()["code"]) == (503, "not_ready") and native.headers["retry-after"]
        naver = rig.ncp_call("POST", NAVER, body, idempotency_key="r2")
        assert naver.status_code == 503 and naver.headers["retry-after"] and naver.json()["success"] is False
        assert rig.client.post(POLICIES, json={}, headers={"idempotency-key": "r1"}).status_code == 409
    made = rig.client.post(POLICIES, json={"can_play": True}, headers={"idempotency-key": "r1"}).json()
    told = rig.ncp_call("POST", NAVER, body, idempotency_key="r2").json()["content"]
    assert told["policyId"] == made["policy_id"] + 1
    stored = [decode(value or b"", PolicyRecord) for _, value in records(rig, topics.POLICIES)]
    assert [each.policy_id for each in stored if each.name == "late"] == [told["policyId"]]
    assert create(rig, {"can_play": True})["policy_id"] == told["policyId"] + 1


def test_concurrent_creates_have_ids_of_their_own(rig: Rig) -> None:
    """Through both interfaces at once: every id once, without a gap, each with its own name."""
    start = create(rig, {"can_play": True})["policy_id"]

    def make(index: int) -> tuple[int, str]:
        name = f"many-{index}"
        if index % 2:
            answer = rig.ncp_call("POST", NAVER, PRINTED | {"policyName": name})
            assert answer.status_code == 200, answer.text
            return answer.json()["content"]["policyId"], name
        answer = rig.client.post(POLICIES, params={"name": name}, json={"can_play": True})
        assert answer.status_code == 201, answer.text
        return answer.json()["policy_id"], name

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make, range(40)))
    assert sorted(policy_id for policy_id, _ in made) == list(range(start + 1, start + 41))
    for policy_id, name in made:
        assert one(rig, policy_id).json()["name"] == name


def test_concurrent_repeats_make_one_policy(rig: Rig) -> None:
    """Eight callers with one Idempotency-Key get one policy."""

    def make(_: int) -> int:
        answer = rig.client.post(POLICIES, json={"can_play": True}, headers={"idempotency-key": "storm"})
        assert answer.status_code == 201, answer.text
        made: int = answer.json()["policy_id"]
        return made

    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(make, range(16)))
    assert len(made) == 1
    assert create(rig, {"can_play": True})["policy_id"] == made.pop() + 1


def test_an_assignment_must_name_every_declared_track(rig: Rig) -> None:
    """400 names the missing ones, on every way to assign; tracks that were only defaulted are withheld instead."""
    document = {"content_key_specs": [{"track_type": "SD"}, {"track_type": "AUDIO"}]}
    narrow = create(rig, document, **AZURE)["policy_id"]
    rig.post("?wait=1", {"asset_id": "declared", "tracks": ["SD", "HD", "AUDIO", "UHD1"]})
    rig.post("?wait=1", {"asset_id": "defaulted"})
    for path, body in (
        ("/declared/policy", {}),
        ("", {"asset_id": "declared"}),
        ("", {"asset_id": "new", "tracks": ["hd", {"track_type": "UHD1"}]}),
        ("", {"asset_id": "defaulted", "tracks": ["HD", "UHD1"]}),
    ):
        answer = rig.post(path, body | {"policy_id": narrow})
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (
            400,
            "tracks_not_named",
            "policy_id",
        )
        assert "HD, UHD1 missing" in answer.json()["detail"]
    for path, body in (
        ("/defaulted/policy?wait=1", {}),
        ("?wait=1", {"asset_id": "two", "tracks": ["SD"]}),
        ("?wait=1", {"asset_id": "three"}),
    ):
        answer = rig.post(path, body | {"policy_id": narrow})
        assert (answer.status_code, answer.json()["policy"]["id"]) == (201, narrow), answer.text
    labels = [{"type": label} for label in ("SD", "HD")]
    packager = {"content_id": base64.b64encode(b"packed").decode(), "policy": str(narrow), "tracks": labels}
    assert rig.ask_keys(packager) == {"status": "INVALID_ARGUMENT"}
    assert rig.ask_keys(packager | {"tracks": labels[:1]})["status"] == "OK"


def test_an_asset_whose_event_is_on_the_way_is_waited_for(rig: Rig) -> None:
    """An assignment right behind the ingest is checked against its tracks."""
    narrow = create(rig, {"content_key_specs": [{"track_type": "SD"}]}, **AZURE)["policy_id"]
    assert rig.post("", {"asset_id": "hasty", "tracks": ["SD", "HD"]}).status_code == 202
    answer = rig.post("/hasty/policy", {"policy_id": narrow})
    assert (answer.status_code, answer.json()["code"]) == (400, "tracks_not_named")


def test_a_deleted_policy_holds_on_and_takes_no_assignment(rig: Rig) -> None:
    """Its assets keep it with its last version; the API refuses it for others."""
    made = create(rig, {"can_play": True})["policy_id"]
    rig.post("?wait=1", {"asset_id": "keeper", "policy_id": made})
    rig.client.put(f"{POLICIES}/{made}", json={"can_play": True, "can_persist": True})
    assert rig.get("keeper").json()["policy"] == {"id": made, "version": 2}
    rig.client.delete(f"{POLICIES}/{made}")
    assert rig.get("keeper").json()["policy"] == {"id": made, "version": 3}
    for path, body in (("/keeper/policy", {}), ("", {"asset_id": "another"})):
        answer = rig.post(path, body | {"policy_id": made})
        assert (answer.status_code, answer.json()["code"]) == (409, "policy_deleted")


# NAVER


def test_naver_create_is_answered_as_printed(rig: Rig) -> None:
    """The page's first example, with the id and times that are its own; then READY."""
    began = time.time_ns() // 1_000_000
    answer = rig.ncp_call("POST", NAVER, PRINTED)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    content = told["content"]
    assert list(told) == ["success", "content"] and told["success"] is True
    assert list(content)[:5] == ["policyId", "policyName", "policyStatus", "policyCreatedTime", "policyUpdateTime"]
    assert {name: content[name] for name in ANSWERED} == ANSWERED and list(content)[5:] == list(ANSWERED)[1:]
    assert content["policyStatus"] == "CREATED"
    assert began - 5000 < content["policyCreatedTime"] == content["policyUpdateTime"] < began + 60_000
    for name, value in (
        ("content-type", "application/json;charset=utf-8"),
        ("access-control-allow-origin", "*"),
        ("x-ncp-trace-id", answer.headers["x-request-id"]),
    ):
        assert answer.headers[name] == value
    shown = rig.ncp_call("GET", f"{NAVER}/{content['policyId']}")
    assert shown.json() == {"success": True, "content": content | {"policyStatus": "READY"}}


def test_naver_second_example(rig: Rig) -> None:
    """Without fairPlay."""
    body = PRINTED | {"drmPolicyConfig": PRINTED["drmPolicyConfig"] | {"fairplay": UNUSED}}
    config = rig.ncp_call("POST", NAVER, body).json()["content"]["drmPolicyConfig"]
    assert config == ANSWERED["drmPolicyConfig"] | {"fairPlay": UNUSED}


def test_naver_put_and_delete(rig: Rig) -> None:
    """UPDATING, then READY; DELETED with its time, out of the list, its id taken."""
    made = rig.ncp_call("POST", NAVER, PRINTED).json()["content"]
    path = f"{NAVER}/{made['policyId']}"
    put = rig.ncp_call("PUT", path, PRINTED | {"policyName": "renamed", "persistent": False})
    changed = put.json()["content"]
    assert (put.status_code, changed["policyStatus"]) == (200, "UPDATING")
    assert (changed["policyName"], changed["persistent"]) == ("renamed", False)
    assert changed["policyCreatedTime"] == made["policyCreatedTime"] <= changed["policyUpdateTime"]
    assert rig.ncp_call("GET", path).json()["content"] == changed | {"policyStatus": "READY"}
    deleted = rig.ncp_call("DELETE", path).json()["content"]
    assert deleted["policyStatus"] == "DELETED" and deleted["policyDeletedTime"] >= changed["policyUpdateTime"]
    assert deleted["policyName"] == "renamed"
    assert rig.ncp_call("GET", path).json()["content"] == deleted
    page = rig.ncp_call("GET", f"{NAVER}?pageNo=1&pageSize=100").json()
    assert made["policyId"] not in {each["policyId"] for each in page["content"]}
    refused = rig.ncp_call("PUT", path, PRINTED)
    assert (refused.status_code, refused.json()["error"]["name"]) == (409, "policy_deleted")
    assert rig.ncp_call("POST", NAVER, PRINTED).json()["content"]["policyId"] > made["policyId"]


def test_naver_list_is_paged(rig: Rig) -> None:
    """Policy 0 first, every policy once, total the same on every page; policies of any origin are shown."""
    azure = create(rig, {"policy_overrides": {"can_play": True, "rental_duration_seconds": 5}}, **AZURE)["policy_id"]
    whole = rig.ncp_call("GET", f"{NAVER}?pageNo=1&pageSize=100").json()
    assert list(whole) == ["success", "content", "total"] and whole["total"] == len(whole["content"])
    ids = [each["policyId"] for each in whole["content"]]
    assert ids == sorted(ids) and ids[:2] == [0, 1] and azure in ids
    assert {each["policyStatus"] for each in whole["content"]} == {"READY"}
    seen = []
    for number in range(1, len(ids) // 7 + 3):
        page = rig.ncp_call("GET", f"{NAVER}?pageSize=7&pageNo={number}").json()
        assert page["total"] == len(ids)
        seen += [each["policyId"] for each in page["content"]]
    assert seen == ids
    assert len(rig.ncp_call("GET", NAVER).json()["content"]) == min(20, len(ids))
    for query in ("pageNo=0", "pageSize=0", "pageSize=101", "pageNo=x", "pageNo=-1", "pageNo=%D9%A1"):
        answer = rig.ncp_call("GET", f"{NAVER}?{query}")
        assert (answer.status_code, answer.json()["error"]["name"]) == (400, "invalid_record"), query


def test_naver_errors_have_one_form(rig: Rig) -> None:
    """Whatever is wrong: success false, and three strings."""
    too_large = json.dumps(PRINTED | {"policyName": "x" * 1_100_000}).encode()
    refused = [
        (rig.ncp_call("POST", NAVER, b"{"), 400),
        (rig.ncp_call("POST", NAVER, PRINTED, content_type="text/plain"), 400),
        (rig.ncp_call("POST", NAVER, PRINTED, region="JP"), 400),
        (rig.ncp_call("PUT", f"{NAVER}/1", {"policyName": "x"}), 400),
        (rig.ncp_call("POST", NAVER, too_large), 413),
        (rig.ncp_call("GET", f"{NAVER}/9999"), 404),
        (rig.ncp_call("GET", f"{NAVER}/zero"), 404),
        (rig.ncp_call("DELETE", f"{NAVER}/9999"), 404),
        (rig.ncp_call("PATCH", NAVER), 405),
        (rig.ncp_call("GET", f"{NAVER}/1/2"), 404),
        (httpx.post(rig.gateway.url + NAVER, json=PRINTED), 401),
    ]
    for answer, status in refused:
        assert answer.status_code == status, answer.text
        told = answer.json()
        assert list(told) == ["success", "error"] and told["success"] is False
        assert list(told["error"]) == ["code", "name", "message"]
        assert all(isinstance(value, str) and value for value in told["error"].values())
        assert told["error"]["code"] == str(status)
        assert answer.headers["content-type"] == "application/json;charset=utf-8"
        assert answer.headers["access-control-allow-origin"] == "*" and answer.headers["x-ncp-trace-id"]
    assert "drmPolicyConfig" in refused[3][0].json()["error"]["message"]


def test_naver_region_is_a_header_with_an_underscore(rig: Rig) -> None:
    """x-ncp-region_code, required on every method."""
    key, secret = rig.ncp.secrets["ncp_access_key"], rig.ncp.secrets["ncp_secret_key"]
    stamp = str(time.time_ns() // 1_000_000)
    digest = hmac.new(secret.encode(), f"GET {NAVER}\n{stamp}\n{key}".encode(), hashlib.sha256).digest()
    headers = {
        "x-ncp-apigw-timestamp": stamp,
        "x-ncp-iam-access-key": key,
        "x-ncp-apigw-signature-v2": base64.b64encode(digest).decode(),
    }
    assert httpx.get(rig.gateway.url + NAVER, headers=headers).status_code == 400
    assert httpx.get(rig.gateway.url + NAVER, headers=headers | {"x-ncp-region_code": "KR"}).status_code == 200


def test_naver_signature_is_over_the_target_as_sent(rig: Rig) -> None:
    """Order, escapes and repetition stay as they are; a signature over a normal form does not fit."""
    target = f"{NAVER}?pageSize=%35&b=2&pageNo=1&a=%7e&a=+"
    assert rig.ncp_call("GET", target).status_code == 200
    stamp, key = str(time.time_ns() // 1_000_000), rig.ncp.secrets["ncp_access_key"]

    def status(signed: str, *, timestamp: str = stamp, method: str = "GET", secret: str = "") -> int:
        text = f"{method} {signed}\n{timestamp}\n{key}"
        mac = hmac.new((secret or rig.ncp.secrets["ncp_secret_key"]).encode(), text.encode(), hashlib.sha256)
        headers = {
            "x-ncp-apigw-timestamp": timestamp,
            "x-ncp-iam-access-key": key,
            "x-ncp-apigw-signature-v2": base64.b64encode(mac.digest()).decode(),
            "x-ncp-region_code": "KR",
        }
        return httpx.get(rig.gateway.url + target, headers=headers).status_code

    assert status(target) == 200
    sorted_query = f"{NAVER}?a=%7E&a=+&b=2&pageNo=1&pageSize=5"
    for wrong in (NAVER, sorted_query, target.replace("%35", "5"), target + "\n", f"{rig.gateway.url}{target}", ""):
        assert status(wrong) == 401, wrong
    assert status(target, method="POST") == status(target, secret="x" * 40) == 401
    now = time.time_ns() // 1_000_000
    for age in (300_000, -310_000, 10**12):
        assert status(target, timestamp=str(now - age)) == 401
    for age in (-290_000, 290_000):
        assert status(target, timestamp=str(now - age)) == 200
    for timestamp in ("", "now", f"{now}.0", "-1", "９" * 13):
        assert _status_of(rig, target, timestamp) == 401


def _status_of(rig: Rig, target: str, timestamp: str) -> int:
    """The status of a request with that timestamp, which may be none at all, in UTF-8."""
    secret, key = rig.ncp.secrets["ncp_secret_key"], rig.ncp.secrets["ncp_access_key"]
    text = f"GET {target}\n{timestamp}\n{key}".encode()
    digest = hmac.new(secret.encode(), text, hashlib.sha256).digest()
    headers = [
        (b"x-ncp-apigw-timestamp", timestamp.encode()),
        (b"x-ncp-iam-access-key", key.encode()),
        (b"x-ncp-apigw-signature-v2", base64.b64encode(digest)),
        (b"x-ncp-region_code", b"KR"),
    ]
    return httpx.get(rig.gateway.url + target, headers=headers).status_code


def test_naver_access_key_is_its_organizations(rig: Rig) -> None:
    """It shows its own policies only; revoked, it opens nothing."""
    theirs = create_credential(rig.bootstrap, rig.data / "keys.json", "other", Kind.NCP)
    eventually(lambda: rig.ncp_call("GET", NAVER, credential=theirs).status_code == 200, 2)
    page = rig.ncp_call("GET", NAVER, credential=theirs).json()
    assert [each["policyId"] for each in page["content"]] == [0] and page["total"] == 1
    assert "policyCreatedTime" not in page["content"][0]
    made = rig.ncp_call("POST", NAVER, PRINTED, credential=theirs).json()["content"]
    assert made["policyId"] == 1
    revoke_credential(rig.bootstrap, "other", theirs.credential)
    eventually(lambda: rig.ncp_call("GET", NAVER, credential=theirs).status_code == 401, 2)


def test_policy_0_over_naver(rig: Rig) -> None:
    """The default policy has an id like any other, and can be changed."""
    shown = rig.ncp_call("GET", f"{NAVER}/0").json()["content"]
    assert (shown["policyId"], shown["policyStatus"]) == (0, "READY")
    put = rig.ncp_call("PUT", f"{NAVER}/0", PRINTED | {"policyName": "default"}).json()["content"]
    assert (put["policyId"], put["policyName"], put["policyStatus"]) == (0, "default", "UPDATING")


# Entitlements


def test_an_entitlement_is_put_and_taken_away(rig: Rig) -> None:
    """A record of the compacted topic, then a signed one that ends it; both may be repeated."""
    path = f"/v1/organizations/{ORGANIZATION}/entitlements/ann@example/gold"
    record_key = f"{ORGANIZATION}/ann@example/gold".encode()

    def newest() -> bytes | None:
        return dict(records(rig, topics.ENTITLEMENTS))[record_key]

    answer = rig.client.put(path, json={"valid_until": "2030-01-01T01:00:00+01:00"})
    told = {"organization": ORGANIZATION, "user": "ann@example", "product": "gold"}
    assert (answer.status_code, answer.json()) == (200, told | {"valid_until": "2030-01-01T00:00:00Z"})
    held = decode(newest() or b"", Entitlement)
    assert held == Entitlement(
        organization=ORGANIZATION, user="ann@example", product="gold", valid_until=1893456000000,
        sequence=held.sequence,
    )  # fmt: skip
    for body in (b"", b"{}", b'{"valid_until": null}'):
        answer = rig.client.put(path, content=body)
        assert (answer.status_code, answer.json()) == (200, told | {"valid_until": None})
    for _ in range(2):
        answer = rig.client.delete(path)
        assert (answer.status_code, answer.content) == (204, b"")
        assert decode(newest() or b"", Entitlement).deleted
    rig.client.put(path, json={"valid_until": 5})
    assert not decode(newest() or b"", Entitlement).deleted


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("u/p", {"valid_until": "tomorrow"}, "valid_until"),
        ("u/p", {"valid_until": "2030-01-01T00:00:00"}, "valid_until"),
        ("u/p", {"valid_until": -1}, "valid_until"),
        ("u/p", {"validUntil": 5}, "validUntil"),
        ("u%20v/p", {}, "user"),
        ("u/p%C3%A9", {}, "product"),
    ],
)
def test_a_bad_entitlement_is_refused(rig: Rig, path: str, body: object, field: str) -> None:
    """Names and times are checked, and what is wrong is named."""
    answer = rig.client.put(f"/v1/organizations/{ORGANIZATION}/entitlements/{path}", json=body)
    assert (answer.status_code, answer.json()["field"]) == (400, field), answer.text
