"""From a player's license and a refused event to what ops find out about them, beside running programs."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import Producer

from keymill.kafka.admin import end_offsets
from keymill.kafka.embedded import EmbeddedKafka
from keymill.kafka.producer import Outgoing, Publisher
from keymill.kafka.scan import Scanner
from keymill.ops.supervise import Child
from keymill.ops.tokens import ensure_token_key
from schemas import topics
from schemas.audit import AuditEvent
from schemas.codec import decode, encode
from schemas.events import AssetEvent, AssetIngested, TrackWish
from schemas.ids import asset_key, claim_key
from schemas.operations import OwnerRequest, RequestKind
from schemas.records import Claim
from schemas.values import LogPosition, Scheme
from tests.broker import embedded_kafka
from tests.gateway_rig import ORGANIZATION, PARTITIONS, Rig, eventually, running
from tests.proxy_rig import challenge

pytestmark = pytest.mark.timeout(240)


@dataclass
class Place:
    """Everything that runs."""

    kafka: EmbeddedKafka
    rig: Rig
    proxy: Child

    def keymill(self, *arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        """A command on the rig's data folder and brokers."""
        command = [sys.executable, "-m", "keymill.ops.cli", *map(str, arguments)]
        bare = {name: value for name, value in os.environ.items() if not name.startswith("KEYMILL_")}
        where = {"KEYMILL_BOOTSTRAP": self.rig.bootstrap, "KEYMILL_DATA": str(self.rig.data)}
        done = subprocess.run(command, env=bare | where, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    def told(self, *arguments: str | Path, code: int = 0) -> Any:
        """What it prints as JSON."""
        return json.loads(self.keymill(*arguments, "--json", code=code).stdout)

    def license(self, asset: str, kids: list[str], request_id: str, user: str = "anna") -> httpx.Response:
        """Ask the proxy as a player does."""
        token = self.keymill(
            "token", "issue", "--organization", ORGANIZATION, "--asset", asset, "--user", user, "--data", self.rig.data
        ).stdout.strip()
        return httpx.post(
            f"{self.proxy.url}/clearkey/{ORGANIZATION}/{asset}",
            params={"token": token},
            content=challenge(*[bytes.fromhex(kid.replace("-", "")) for kid in kids]),
            headers={"x-request-id": request_id},
        )

    def audited(self) -> list[AuditEvent]:
        """The audit topic."""
        found, topic = [], topics.AUDIT.name
        with Scanner(self.rig.bootstrap) as scanner:
            for partition, end in end_offsets(self.rig.bootstrap, topic).items():
                for message in scanner.read(topic, partition, end=end):
                    found.append(decode(message.value() or b"", AuditEvent))
        return found

    def send(
        self, organization: str, asset: str, value: bytes | None = None, kid: bytes | None = None
    ) -> tuple[int, int]:
        """An event straight to the topic; its partition and offset."""
        body = AssetIngested(tracks=(TrackWish(label="HD", kid=kid),))
        event = AssetEvent(
            organization=organization, asset=asset, event_id=f"e-{asset}", request_hash=bytes(32),
            event_time=time.time_ns() // 1_000_000, body=body,
        )  # fmt: skip
        key = asset_key(organization, asset)
        partition = topics.partition_of(topics.ASSETS, key, PARTITIONS)
        places: list[int] = []
        producer = Producer({"bootstrap.servers": self.rig.bootstrap})
        producer.produce(
            topics.ASSETS.name, encode(event) if value is None else value, key, partition,
            on_delivery=lambda _, message: places.append(message.offset()),
        )  # fmt: skip
        assert producer.flush(10) == 0
        return partition, places[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A broker, a gateway, a processor and a proxy with two workers on one data folder."""
    data = tmp_path_factory.mktemp("data")
    with embedded_kafka() as kafka, running(kafka.bootstrap, data) as rig:
        ensure_token_key(data, kafka.bootstrap, ORGANIZATION)
        environment = {
            "KEYMILL_BOOTSTRAP": kafka.bootstrap, "KEYMILL_DATA": str(data), "KEYMILL_MAP_SIZE_GIB": "1",
            "KEYMILL_PROXY_PORT": "0", "KEYMILL_WORKERS": "2",
        }  # fmt: skip
        proxy = Child("proxy", ["proxy"], environment)
        proxy.start()
        try:
            proxy.wait_listening()
            proxy.wait_ready()
            yield Place(kafka, rig, proxy)
        finally:
            proxy.signal_stop()
            proxy.wait_stopped(time.monotonic() + 25)


def kids_of(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 201, answer.text
    return [track["kid"] for track in answer.json()["tracks"]]


def test_a_license_is_explained_by_its_request_id(place: Place) -> None:
    """Who got it, when, under which policy; its keys, their event, and who sent that; a refusal and a KID likewise."""
    made = place.rig.post("?wait=1", {"asset_id": "film", "tracks": ["SD", "HD"]}, x_request_id="ingest-film")
    kids = kids_of(made)
    answer = place.license("film", kids, "license-1")
    assert (200, "license-1") == (answer.status_code, answer.headers["x-request-id"])
    assert 404 == place.license("nothing", kids, "license-2").status_code
    eventually(lambda: {"license-1", "license-2", "ingest-film"} <= {each.request_id for each in place.audited()})
    told = place.told("explain", "license-1")
    (asked,) = told["answers"]
    expected = ("license", "granted", "granted", "clearkey", ORGANIZATION, "film", "anna", "127.0.0.1", [1], 0, 0)
    names = ("what", "outcome", "reason", "drm_system", "organization", "asset", "user", "client")
    assert expected == tuple(asked[name] for name in (*names, "key_versions", "policy_id", "policy_version"))
    assert sorted(kids) == sorted(asked["kids"]) == sorted(key["kid"] for key in told["keys"])
    assert asked["caller"]
    for key in told["keys"]:
        event = key["event"]
        assert (made.json()["offset"], True, "AssetIngested") == tuple(event[n] for n in ("offset", "found", "kind"))
        assert ("ingest-film", "asset_event") == (event["asked"]["request_id"], event["asked"]["what"])
        assert event["asked"]["caller"] == place.rig.key.credential
        assert (0, "DERIVED") == (key["policy"]["id"], key["origin"])
    assert [(0, 0, "built-in default")] == [(p["id"], p["version"], p["name"]) for p in told["policies"]]
    refused = place.told("explain", "license-2")
    assert ("refused", "unknown_asset") == tuple(refused["answers"][0][name] for name in ("outcome", "reason"))
    of_kid = place.told("explain", kids[0])
    assert ["license-1"] == [each["request_id"] for each in of_kid["audit"]]
    of_asset = place.told("explain", f"{ORGANIZATION}/film")
    assert sorted(kids) == sorted(key["kid"] for key in of_asset["keys"])
    assert ["AssetIngested"] == [event["kind"] for event in of_asset["events"]]
    shown = place.keymill("explain", "license-1").stdout
    assert all(word in shown for word in ("license-1", "anna", kids[0], "ingest-film"))
    assert "no request of that id" in place.keymill("explain", "license-3", code=1).stderr


def test_a_license_names_the_policy_as_it_was(place: Place) -> None:
    """Also after the policy has changed: the version of the license with its coordinates, beside what is now."""
    number = place.rig.make_policy()
    made = place.rig.post("?wait=1", {"asset_id": "ruled", "tracks": ["SD"], "policy_id": number})
    eventually(lambda: place.license("ruled", kids_of(made), "under-1").status_code == 200)
    path = f"/v1/organizations/{ORGANIZATION}/policies/{number}"
    changed = place.rig.client.put(path, params={"name": "stricter"}, json={"can_play": True, "can_renew": False})
    assert 200 == changed.status_code, changed.text
    eventually(lambda: "under-1" in {each.request_id for each in place.audited()})
    told = place.told("explain", "under-1")
    (policy,) = told["policies"]
    assert (number, 1, topics.POLICIES.name) == (policy["id"], policy["version"], policy["place"]["topic"])
    eventually(lambda: place.told("explain", "under-1")["keys"][0]["policy"]["version"] == 2)


def test_a_chosen_key_leads_to_the_claim_that_won_it(place: Place) -> None:
    """And the dead letter of the one that came too late is listed."""
    kid = bytes(range(16))
    _, first = place.send(ORGANIZATION, "chosen", kid=kid)
    eventually(lambda: place.rig.get("chosen").status_code == 200)
    partition, second = place.send(ORGANIZATION, "latecomer", kid=kid)
    told = place.told("explain", kid.hex(), "--organization", ORGANIZATION)
    assert ("CHOSEN", first) == (told["origin"], told["event"]["offset"])
    assert ("chosen", 1, False) == tuple(told["claim"][name] for name in ("asset", "key_version", "imported"))
    assert topics.CLAIMS.name == told["claim"]["place"]["topic"]
    where = f"{topics.ASSETS.name}/{partition}/{second}"
    eventually(lambda: [where] == [row["coordinates"] for row in place.told("dlq", "list", "--asset", "latecomer")])
    (again,) = place.told("dlq", "redrive", "--asset", "latecomer", "--apply", code=1)
    assert ("refused", "kid_taken") == (again["outcome"], again["outcome_reason"])


def test_a_packager_s_keys_are_audited_and_its_refusal(place: Place) -> None:
    """Which KIDs it got with which signer; what was refused to whom nobody could prove to be."""
    inner = {"content_id": "cGFja2FnZWQ=", "tracks": [{"type": "SD"}], "drm_types": ["WIDEVINE"], "policy": ""}
    got = place.rig.ask_keys(inner)
    assert "OK" == got["status"]
    stranger = {**place.rig.signer.secrets, "widevine_key_hex": "00" * 32}
    assert "SIGNATURE_FAILED" == place.rig.ask_keys(inner, signer=stranger)["status"]
    key = ("key_delivery", "packaged", True)

    def deliveries() -> list[AuditEvent]:
        return [each for each in place.audited() if each.what == "key_delivery"]

    eventually(lambda: len(deliveries()) >= 2)
    first, second = sorted(deliveries(), key=lambda each: each.sequence)
    assert (*key, place.rig.signer.secrets["widevine_signer"], 1) == (
        first.what, first.asset, first.granted, first.caller, len(first.kids),
    )  # fmt: skip
    assert (False, "signature_failed", "", ()) == (second.granted, second.reason, second.caller, second.kids)
    secrets = [key["key"] for key in got["tracks"]]
    spools = [path.read_bytes() for path in (place.rig.data / "spool").rglob("*") if path.is_file()]
    for secret in secrets:
        assert not any(secret.encode() in text for text in spools)
        assert not any(secret in repr(event) for event in place.audited())


def test_a_refused_event_is_redriven_after_the_fix(place: Place) -> None:
    """Listed, shown, planned, sent again, accepted; again it changes nothing; what stays wrong is refused again."""
    partition, offset = place.send("late", "film")
    where = f"{topics.ASSETS.name}/{partition}/{offset}"
    listed = lambda *more: place.told("dlq", "list", *more)  # noqa: E731
    eventually(lambda: [where] == [row["coordinates"] for row in listed("--organization", "late")])
    (row,) = listed("--reason", "unknown_organization", "--since", "1h")
    assert (None, "film", "e-film") == (row["redriven"], row["asset"], row["event_id"])
    shown = place.told("dlq", "show", where)
    assert (True, "film") == (shown["stands"], shown["event"]["asset"])
    early = place.told("dlq", "redrive", where, "--apply", code=1)
    assert ("refused", "unknown_organization") == (early[0]["outcome"], early[0]["outcome_reason"])
    place.keymill("org", "create", "late")
    plan = place.told("dlq", "redrive", where, code=1)
    assert [True] == [each["send"] for each in plan]
    (done,) = place.told("dlq", "redrive", where, "--apply")
    assert ("accepted", True) == (done["outcome"], done["at"].startswith(topics.ASSETS.name))
    rows = {row["coordinates"]: row["redriven"] for row in listed("--organization", "late")}
    assert f"accepted at {done['at']}" == rows[where]
    (twice,) = place.told("dlq", "redrive", where, "--apply")
    assert "accepted, a repeat that changes nothing" == twice["outcome"]
    quiet = place.told("dlq", "redrive", "--organization", "late", "--reason", "unknown_organization")
    assert [False] * len(quiet) == [each["send"] for each in quiet]
    partition, offset = place.send("late", "broken", b"no event at all")
    broken = f"{topics.ASSETS.name}/{partition}/{offset}"
    eventually(lambda: broken in {row["coordinates"] for row in listed()})
    (again,) = place.told("dlq", "redrive", broken, "--apply", code=1)
    assert "refused" == again["outcome"]


def test_who_entitled_a_user_is_in_the_trail(place: Place) -> None:
    """And who withdrew it: by which key, and for what, which is the record key at the coordinates."""
    url = f"/v1/organizations/{ORGANIZATION}/entitlements/greta/gold"
    answers = [place.rig.client.put(url, json={"valid_until": None}), place.rig.client.delete(url)]
    assert [200, 204] == [answer.status_code for answer in answers]
    for answer, what, kind in zip(answers, ("entitlement", "withdrawal"), ("Entitlement", "Withdrawal"), strict=True):
        request_id = answer.headers["x-request-id"]
        eventually(lambda request_id=request_id: request_id in {each.request_id for each in place.audited()})
        told = place.told("explain", request_id)
        (asked,) = told["answers"]
        assert (what, "granted", "accepted", "greta") == (
            asked["what"], asked["outcome"], asked["reason"], asked["user"],
        )  # fmt: skip
        assert asked["caller"] and asked["organization"] == ORGANIZATION
        (event,) = told["events"]
        assert (True, kind, f"{ORGANIZATION}/greta/gold") == (event["found"], event["kind"], event["event_id"])


def publish(place: Place, record: Outgoing) -> None:
    """As a program with the keys."""
    with closing(Publisher(place.rig.bootstrap, {record.topic: PARTITIONS})) as publisher:
        publisher.flush_all([publisher.send_batch([record])])


def test_a_kid_that_is_claimed_and_has_no_key_is_explained(place: Place) -> None:
    """As after an event that was refused for another of its KIDs: whose it is, and that nobody else can have it."""
    kid = uuid.uuid4()
    key = claim_key(ORGANIZATION, kid.bytes)
    claim = Claim(
        organization=ORGANIZATION, kid=kid.bytes, asset="unborn", key_version=1, label="SD", scheme=Scheme.CBCS,
        root_version=1, event=LogPosition(generation=0, offset=3),
    )  # fmt: skip
    number = topics.partition_of(topics.CLAIMS, key, PARTITIONS)
    assert 1 == place.keymill("explain", str(kid), "--as", "kid", code=1).stderr.count("is not in the view")
    publish(place, Outgoing(topic=topics.CLAIMS.name, record_key=key, value=encode(claim), partition=number))
    for more in ((), ("--as", "kid"), ("--organization", ORGANIZATION)):
        told = place.keymill("explain", str(kid), *more, code=1).stderr
        assert f"has no key. It was claimed for asset {ORGANIZATION}/unborn, key version 1" in told
    taken = place.rig.post("?wait=1", {"asset_id": "other", "tracks": [{"track_type": "SD", "kid": str(kid)}]})
    assert (409, "kid_taken") == (taken.status_code, taken.json()["code"])
    made = place.rig.post("?wait=1", {"asset_id": "unborn", "tracks": [{"track_type": "SD", "kid": str(kid)}]})
    assert [str(kid)] == kids_of(made)
    eventually(lambda: "unborn" == place.told("explain", str(kid))["asset"])


def test_what_an_owner_refused_is_shown_with_its_reason_and_never_sent_again(place: Place) -> None:
    """As the runbook says of a rotation that waits; the command that made the request makes another."""
    key = asset_key(ORGANIZATION, "nowhere")
    request = OwnerRequest(
        organization=ORGANIZATION, asset="nowhere", kind=RequestKind.REPAIR, offsets=(10**9,), request_id="r-1",
        requested=1,
    )  # fmt: skip
    number = topics.partition_of(topics.REQUESTS, key, PARTITIONS)
    publish(place, Outgoing(topic=topics.REQUESTS.name, record_key=key, value=encode(request), partition=number))
    listed = lambda: place.told("dlq", "list", "--asset", "nowhere")  # noqa: E731
    eventually(lambda: ["event_missing"] == [row["reason"] for row in listed()])
    where = listed()[0]["coordinates"]
    shown = place.told("dlq", "show", where)
    assert ("r-1", "REPAIR", True) == (shown["event"]["request_id"], shown["event"]["kind"], shown["stands"])
    assert "at offset 1000000000 of this partition" in shown["message"]
    (never,) = place.told("dlq", "redrive", where, "--apply")
    assert (False, True) == (never["send"], "keymill replay --repair" in never["note"])


def test_audit_events_arrive_when_the_brokers_are_back(place: Place) -> None:
    """Licenses go on without brokers, and each stands in the topic afterwards, once and in order. Last: it kills."""
    kids = kids_of(place.rig.post("?wait=1", {"asset_id": "away", "tracks": ["SD"]}))
    eventually(lambda: place.license("away", kids, "before").status_code == 200)
    place.kafka.kill()
    wanted = [f"away-{number}" for number in range(12)]
    assert {200} == {place.license("away", kids, name).status_code for name in wanted}
    time.sleep(2)
    assert [*(place.rig.data / "spool" / "proxy").iterdir()]
    place.kafka.restart()

    def arrived() -> list[AuditEvent]:
        return [each for each in place.audited() if each.request_id in wanted]

    eventually(lambda: {each.request_id for each in arrived()} == set(wanted), 60)
    by_writer: dict[str, list[AuditEvent]] = {}
    for event in arrived():
        by_writer.setdefault(event.instance, []).append(event)
    for events in by_writer.values():
        numbers = list(dict.fromkeys(event.sequence for event in events))
        assert sorted(numbers) == numbers
