"""The Azure document's whole message on the Widevine endpoints: what it may change, and for whom."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from keymill.core.merging import widevine_terms
from keymill.proxy.request import STATUS, Reason
from schemas.policy import Hdcp, TrackTerms, WidevineTerms
from schemas.values import DrmSystem
from tests.fakes import LicenseServer
from tests.proxy_rig import ProxyRig

CHALLENGE = b"\x08\x01\x12" + b"\xfe challenge" * 8
SPECS = [{"track_type": label} for label in ("SD", "HD", "AUDIO")]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[ProxyRig]:
    """A proxy with an asset under a policy that stores nothing and lasts ten minutes."""
    made = ProxyRig(tmp_path, missing_wait_ms=0)
    made.ingest("film", "SD", "HD", "AUDIO", policy_id=3)
    demands = WidevineTerms(security_level=3, hdcp=Hdcp.HDCP_V1)
    made.put_policy(3, can_persist=False, license_duration_s=600, widevine=demands)
    yield made
    made.close()


@pytest.fixture
def server(rig: ProxyRig) -> LicenseServer:
    """Its Widevine license server."""
    return rig.put_license_server(DrmSystem.WIDEVINE)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ask(
    rig: ProxyRig, *, server_side: bool = False, path: str = "/widevine/demo/film", **message: Any
) -> httpx.Response:
    """One request with a message; a member given as None is left out."""
    claims = message.pop("claims", {})
    token = rig.token("film", server_side=server_side or None, **claims)
    body = {"payload": b64(CHALLENGE)} | message
    content = json.dumps({name: value for name, value in body.items() if value is not None})
    query = {"token": token, **({"drm": "widevine", "asset": "film"} if path == "/license" else {})}
    headers = {"content-type": "application/json; charset=utf-8"}
    return rig.request("POST", path, params=query, content=content, headers=headers)


def refused(answer: httpx.Response, reason: Reason, *words: str) -> None:
    """The problem document of that reason; its detail holds the words."""
    assert (STATUS[reason], reason.value) == (answer.status_code, answer.json()["code"]), answer.text
    for word in words:
        assert word in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/widevine/demo/film", "/license"])
def test_payload_is_the_challenge(rig: ProxyRig, server: LicenseServer, path: str) -> None:
    """On the dedicated endpoint and on the single one; a message that says no more changes nothing."""
    assert 200 == ask(rig, path=path).status_code
    (granted,) = server.asked
    assert CHALLENGE == granted.challenge
    assert (True, False, 600) == (
        granted.policy.can_play,
        granted.policy.can_persist,
        granted.policy.license_duration_s,
    )


def test_without_json_the_body_is_the_challenge(rig: ProxyRig, server: LicenseServer) -> None:
    """Even if it looks like a message."""
    body = json.dumps({"payload": b64(CHALLENGE), "parse_only": True}).encode()
    for content_type in ("application/octet-stream", "text/plain"):
        headers = {"content-type": content_type}
        rig.request("POST", "/widevine/demo/film", params={"token": rig.token("film")}, content=body, headers=headers)
    assert [body, body] == [granted.challenge for granted in server.asked]


OVERRIDES = {"can_play": True, "can_persist": True, "license_duration_seconds": 0, "rental_duration_seconds": 5}
LOOSE_SPECS = [
    {"track_type": label, "security_level": 1, "required_output_protection": {"hdcp": "HDCP_NONE"}}
    for label in ("SD", "HD", "AUDIO")
]


@pytest.mark.parametrize("server_side", [False, True])
def test_a_server_may_loosen_and_a_player_may_not(rig: ProxyRig, server: LicenseServer, server_side: bool) -> None:
    """A looser value is a server's override, and of a player ignored without a word; a tighter one holds for both."""
    answer = ask(rig, server_side=server_side, policy_overrides=OVERRIDES, content_key_specs=LOOSE_SPECS)
    assert 200 == answer.status_code
    (granted,) = server.asked
    expected = (True, 0, 5) if server_side else (False, 600, 5)
    policy = granted.policy
    assert expected == (policy.can_persist, policy.license_duration_s, policy.rental_duration_s)
    demands = WidevineTerms(security_level=1, hdcp=Hdcp.HDCP_NONE) if server_side else rig_demands()
    assert demands == widevine_terms(policy, "HD")


def rig_demands() -> WidevineTerms:
    """Of the stored policy."""
    return WidevineTerms(security_level=3, hdcp=Hdcp.HDCP_V1)


def test_exclusive_overrides_are_a_servers(rig: ProxyRig, server: LicenseServer) -> None:
    """Nothing of the stored policy holds then; a player's word for it is ignored."""
    for server_side in (True, False):
        overrides = {"can_play": True}
        answer = ask(rig, server_side=server_side, policy_overrides=overrides, use_policy_overrides_exclusively=True)
        assert 200 == answer.status_code
    alone, merged = server.asked
    assert (None, None, WidevineTerms()) == (
        alone.policy.license_duration_s,
        alone.policy.can_persist,
        widevine_terms(alone.policy, "HD"),
    )
    assert (600, False, rig_demands()) == (
        merged.policy.license_duration_s,
        merged.policy.can_persist,
        widevine_terms(merged.policy, "HD"),
    )


def test_exclusive_overrides_without_can_play_are_a_refusal(rig: ProxyRig, server: LicenseServer) -> None:
    """As the document has it: false unless it is said."""
    silent = ask(rig, server_side=True, policy_overrides={}, use_policy_overrides_exclusively=True)
    refused(silent, Reason.PLAYBACK_DENIED)
    assert 200 == ask(rig, policy_overrides={}, use_policy_overrides_exclusively=True).status_code  # a player's word


def test_a_servers_specs_widen_what_the_stored_policy_allows(rig: ProxyRig, server: LicenseServer) -> None:
    """Specs and allowed track types exclude each other, so a server's specs stand in their place; a player's do not."""
    rig.put_policy(3, version=2, allowed_tracks=("SD", "AUDIO"))
    for server_side in (True, False):
        assert 200 == ask(rig, server_side=server_side, content_key_specs=SPECS).status_code
    wide, narrow = ({key.label for key in granted.keys} for granted in server.asked)
    assert ({"SD", "HD", "AUDIO"}, {"SD", "AUDIO"}) == (wide, narrow)


def test_a_key_for_a_track_that_the_asset_lacks_is_no_stored_key(rig: ProxyRig, server: LicenseServer) -> None:
    """409, and the message says that there is no such track."""
    specs = [*SPECS, {"track_type": "UHD1", "key": b64(bytes(16))}]
    refused(ask(rig, server_side=True, content_key_specs=specs), Reason.KEY_MISMATCH, "UHD1", "does not have")


def test_nobody_plays_what_is_denied_by_asking(rig: ProxyRig, server: LicenseServer) -> None:
    """A player cannot say can_play, a server can; a message that says nothing of it allows nothing."""
    rig.put_policy(3, version=2, can_play=False)
    for message in ({}, {"policy_overrides": {}}, {"policy_overrides": {"can_play": True}}):
        refused(ask(rig, **message), Reason.PLAYBACK_DENIED)
    refused(ask(rig, server_side=True), Reason.PLAYBACK_DENIED)
    assert 200 == ask(rig, server_side=True, policy_overrides={"can_play": True}).status_code


@pytest.mark.parametrize("server_side", [False, True])
def test_specs_must_name_every_declared_track(rig: ProxyRig, server: LicenseServer, server_side: bool) -> None:
    """400 names those that are missing; specs for tracks that the asset lacks are ignored."""
    answer = ask(rig, server_side=server_side, content_key_specs=SPECS[:1])
    refused(answer, Reason.TRACKS_NOT_NAMED, "HD, AUDIO missing")
    assert 200 == ask(rig, server_side=server_side, content_key_specs=[*SPECS, {"track_type": "UHD1"}]).status_code
    assert ["SD", "HD", "AUDIO"] == [key.label for key in server.asked[0].keys]


def test_defaulted_tracks_without_a_spec_are_withheld(rig: ProxyRig, server: LicenseServer) -> None:
    """Of an asset whose event named no tracks the specs choose the keys."""
    rig.ingest("any", tracks=None)
    body = json.dumps({"payload": b64(CHALLENGE), "content_key_specs": SPECS[:2]})
    headers = {"content-type": "application/json"}
    query = {"token": rig.token("any")}
    answer = rig.request("POST", "/widevine/demo/any", params=query, content=body, headers=headers)
    assert 200 == answer.status_code
    assert ["SD", "HD"] == [key.label for key in server.asked[0].keys]


@pytest.mark.parametrize(
    ("allowed", "labels"),
    [("SD_ONLY", ["SD", "AUDIO"]), ("SD_HD", ["SD", "HD", "AUDIO"]), (None, ["SD", "HD", "AUDIO"])],
)
def test_allowed_track_types_choose_the_keys(
    rig: ProxyRig, server: LicenseServer, allowed: str | None, labels: list[str]
) -> None:
    """Sound is always among them."""
    assert 200 == ask(rig, allowed_track_types=allowed).status_code
    assert labels == [key.label for key in server.asked[0].keys]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"allowed_track_types": "SD_HD", "content_key_specs": SPECS}, ("drop allowed_track_types",)),
        ({"policy_overrides": {"can persist": True}}, ("can_persist",)),
        ({"content_key_specs": [{"track_type": "SD", "required_output_protection": {"hdc": "HDCP_V1"}}]}, ("hdcp",)),
        ({"payload": "*"}, ()),
        ({"payload": 7}, ()),
        ({"content_key_specs": [{}]}, ("track_type",)),
        ({"content_key_specs": [{"track_type": "8K"}]}, ("track_type",)),
        ({"policy_overrides": {"license_duration_seconds": -1}}, ()),
        ({"content_key_specs": [{"track_type": "SD", "security_level": 6}]}, ()),
        ({"content_key_specs": [{"track_type": "SD", "key": b64(b"short")}]}, ()),
    ],
)
def test_a_broken_message_is_400(rig: ProxyRig, message: dict[str, Any], words: tuple[str, ...]) -> None:
    """The member is named, a misspelt one with its right name."""
    refused(ask(rig, **message), Reason.MALFORMED, *words)


@pytest.mark.parametrize("message", [{"payload": None}, {"payload": ""}, {"payload": None, "parse_only": True}])
def test_a_message_without_payload_has_no_challenge(rig: ProxyRig, message: dict[str, Any]) -> None:
    """As an empty body has none."""
    refused(ask(rig, **message), Reason.MISSING_CHALLENGE)


def test_parse_only_gives_no_license(rig: ProxyRig, server: LicenseServer) -> None:
    """200 with JSON of the license server's, and a single-use token is good for its license afterwards."""
    claims = {"jti": "parsed"}
    for _ in range(2):
        answer = ask(rig, parse_only=True, claims=claims)
        assert (200, "application/json") == (answer.status_code, answer.headers["content-type"])
        assert {"status": "OK", "platform": "test", "size": len(CHALLENGE)} == answer.json()
    assert [True, True] == [granted.parse_only for granted in server.asked]
    assert 200 == ask(rig, claims=claims).status_code
    refused(ask(rig, claims=claims), Reason.TOKEN_USED)


def specs_with(label: str, **more: str) -> list[dict[str, str]]:
    return [{**spec, **(more if spec["track_type"] == label else {})} for spec in SPECS]


def test_a_key_that_is_the_stored_one_is_taken(rig: ProxyRig, server: LicenseServer) -> None:
    """By track type, by key id, or both; the license server gets the stored keys."""
    kid = rig.kid("film", "HD")
    key, key_id = b64(rig.clear[kid]), b64(kid)
    for spec in ({"key": key}, {"key": key, "key_id": key_id}):
        assert 200 == ask(rig, server_side=True, content_key_specs=specs_with("HD", **spec)).status_code
    by_id = [SPECS[0], {"key_id": key_id, "key": key}, SPECS[2]]
    assert 200 == ask(rig, server_side=True, content_key_specs=by_id).status_code
    for granted in server.asked:
        assert ["SD", "HD", "AUDIO"] == [each.label for each in granted.keys]
        assert rig.clear[kid] == granted.keys[1].clear.cek.reveal()


def test_a_key_from_a_player_is_refused(rig: ProxyRig, server: LicenseServer) -> None:
    """Even the right one: a player that knows it has no need of a license."""
    key = b64(rig.clear[rig.kid("film", "HD")])
    refused(ask(rig, content_key_specs=specs_with("HD", key=key)), Reason.SERVER_SIDE_ONLY)
    assert [] == server.asked


def test_another_key_is_a_conflict(rig: ProxyRig, server: LicenseServer) -> None:
    """A stored key never changes: 409 for another one, for another track's, and for one of a KID that is not there."""
    hd, sd = rig.kid("film", "HD"), rig.kid("film", "SD")
    for spec in (
        {"key": b64(b"k" * 16)},
        {"key": b64(rig.clear[sd])},
        {"key": b64(rig.clear[sd]), "key_id": b64(hd)},
        {"key": b64(rig.clear[hd]), "key_id": b64(sd)},
        {"key_id": b64(sd)},
    ):
        answer = ask(rig, server_side=True, content_key_specs=specs_with("HD", **spec))
        refused(answer, Reason.KEY_MISMATCH)
        for secret in (rig.clear[hd], rig.clear[sd], b"k" * 16):
            assert b64(secret) not in answer.text and secret.hex() not in answer.text
    stranger = [*SPECS, {"key_id": b64(b"?" * 16), "key": b64(b"k" * 16)}]
    refused(ask(rig, server_side=True, content_key_specs=stranger), Reason.KEY_MISMATCH)
    lacking = [*SPECS, {"track_type": "UHD1", "key": b64(b"k" * 16)}]
    refused(ask(rig, server_side=True, content_key_specs=lacking), Reason.KEY_MISMATCH)
    assert [] == server.asked


def test_a_key_of_a_withheld_track_must_be_right_too(rig: ProxyRig, server: LicenseServer) -> None:
    """The token leaves the track out of the license; the message still says which key it has."""
    hd = rig.kid("film", "HD")
    right = specs_with("HD", key=b64(rig.clear[hd]))
    assert 200 == ask(rig, server_side=True, claims={"tracks": ["SD"]}, content_key_specs=right).status_code
    wrong = specs_with("HD", key=b64(b"k" * 16))
    refused(ask(rig, server_side=True, claims={"tracks": ["SD"]}, content_key_specs=wrong), Reason.KEY_MISMATCH)


def test_specs_by_key_id_name_their_tracks(rig: ProxyRig, server: LicenseServer) -> None:
    """Each stands for the track that has the KID; two for one track are 400, an unknown one says nothing."""
    by_id = [{"key_id": b64(rig.kid("film", label)), "security_level": 5} for label in ("SD", "HD", "AUDIO")]
    assert 200 == ask(rig, content_key_specs=by_id).status_code
    assert 5 == widevine_terms(server.asked[0].policy, "HD").security_level
    refused(ask(rig, content_key_specs=[*SPECS, by_id[1]]), Reason.MALFORMED, "HD")
    refused(ask(rig, content_key_specs=[*by_id[:2], {"key_id": b64(b"?" * 16)}]), Reason.TRACKS_NOT_NAMED, "AUDIO")


def test_a_stored_policys_tracks_stay_named(rig: ProxyRig, server: LicenseServer) -> None:
    """A wish beside stored specs is checked by itself."""
    tracks = tuple(TrackTerms(label=label) for label in ("SD", "HD", "AUDIO"))
    rig.put_policy(3, version=2, tracks=tracks)
    refused(ask(rig, content_key_specs=SPECS[1:]), Reason.TRACKS_NOT_NAMED, "SD missing")
    assert 200 == ask(rig, content_key_specs=SPECS).status_code
