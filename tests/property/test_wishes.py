"""What a request says about the policy, through the whole procedure: a player's wish never loosens, a server's may."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.core.merging import widevine_terms
from schemas.policy import Hdcp, Policy, TrackTerms, WidevineTerms
from schemas.values import DrmSystem
from tests.fakes import LicenseServer
from tests.property.strategies import optional
from tests.proxy_rig import ProxyRig

LABELS = ("SD", "HD", "AUDIO")
CHALLENGE = b"challenge " * 8
SECONDS = st.sampled_from((0, 1, 60, 2**40))
LEVELS = st.integers(1, 5)
DURATIONS = ("license_duration_s", "rental_duration_s", "playback_duration_s")
PERMISSIONS = ("can_persist", "can_renew")
TERMS = st.builds(WidevineTerms, security_level=optional(LEVELS), hdcp=optional(st.sampled_from(Hdcp)))


def tracks_of(labels: tuple[str, ...]) -> st.SearchStrategy[tuple[TrackTerms, ...]]:
    """Terms for each of the labels."""
    each = [st.builds(TrackTerms, label=st.just(label), widevine=optional(TERMS)) for label in labels]
    return st.tuples(*each)


STORED = st.builds(
    Policy,
    can_play=st.just(True),
    widevine=optional(TERMS),
    allowed_tracks=optional(st.sampled_from([("SD", "AUDIO"), ("HD", "SD")])),
    tracks=optional(tracks_of(LABELS)),
    **{name: optional(st.booleans()) for name in PERMISSIONS},
    **{name: optional(SECONDS) for name in DURATIONS},
)


@st.composite
def specs(draw: st.DrawFn) -> list[dict[str, Any]]:
    """content_key_specs that name every track."""
    found = []
    for label in (*LABELS, *draw(st.sampled_from([(), ("UHD1",)]))):
        spec: dict[str, Any] = {"track_type": label}
        if draw(st.booleans()):
            spec["security_level"] = draw(LEVELS)
        if draw(st.booleans()):
            spec["required_output_protection"] = {"hdcp": draw(st.sampled_from(Hdcp)).value}
        found.append(spec)
    return draw(st.permutations(found))


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    """A message of the Azure document with any wishes; `can_play` is never false, for then there is no license."""
    overrides: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "can_play": st.just(True),
                "can_persist": st.booleans(),
                "can_renew": st.booleans(),
                "license_duration_seconds": SECONDS,
                "rental_duration_seconds": SECONDS,
                "playback_duration_seconds": SECONDS,
                "renewal_server_url": st.just("https://elsewhere.example/renew"),
                "renewal_delay_seconds": SECONDS,
            },
        )
    )
    message: dict[str, Any] = {"policy_overrides": overrides} if overrides else {}
    match draw(st.sampled_from(("specs", "allowed", "neither"))):
        case "specs":
            message["content_key_specs"] = draw(specs())
        case "allowed":
            message["allowed_track_types"] = draw(st.sampled_from(("SD_ONLY", "SD_HD")))
    if draw(st.booleans()):
        message["session_init"] = {"provider_session_token": "AAAA", "override_provider_client_token": True}
    if draw(st.booleans()):
        message |= {"provider": "somebody", "content_id": "AAAA"}
    if draw(st.booleans()) and overrides.get("can_play"):
        message["use_policy_overrides_exclusively"] = True
    return message


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyRig]:
    """One proxy for all."""
    made = ProxyRig(tmp_path_factory.mktemp("wishes"), missing_wait_ms=0)
    made.ingest("film", *LABELS)
    yield made
    made.close()


def ask(rig: ProxyRig, message: dict[str, Any] | None, *, form: str = "azure", server_side: bool = False):
    """What the license server is handed, or why there is no license."""
    rig.beat()
    server = rig.put_license_server(DrmSystem.WIDEVINE)
    payload = base64.b64encode(CHALLENGE).decode()
    token = rig.token("film", server_side=server_side or None)
    if message is None:
        answer = rig.request("POST", "/widevine/demo/film", params={"token": token}, content=CHALLENGE)
    elif form == "azure":
        answer = send(rig, "/widevine/demo/film", {"token": token}, {"payload": payload, **message})
    else:
        answer = send(
            rig, "/api/v1/demo/assets/film/drm_license", {"access_token": token}, {"player_payload": payload, **message}
        )
    return granted_by(server, answer)


def send(rig: ProxyRig, path: str, query: dict[str, str], body: dict[str, Any]) -> httpx.Response:
    """JSON to a path."""
    headers = {"content-type": "application/json"}
    return rig.request("POST", path, params=query, content=json.dumps(body), headers=headers)


def granted_by(server: LicenseServer, answer: httpx.Response):
    """The one thing that it was asked for."""
    if answer.status_code != 200:
        assert [] == server.asked
        return answer.json()["code"]
    (granted,) = server.asked
    return granted


def longer(seconds: int | None) -> float:
    """A duration by its length; nobody's word is the license server's own, and 0 is without end."""
    return float("inf") if not seconds else seconds


def check_never_looser(plain, wished) -> None:
    """Every member that *wished* was given is as strict as *plain*'s, or stricter."""
    assert {key.kid for key in wished.keys} <= {key.kid for key in plain.keys}
    for name in PERMISSIONS:
        assert getattr(wished.policy, name) in (getattr(plain.policy, name), False)
    for name in DURATIONS:
        assert longer(getattr(wished.policy, name)) <= longer(getattr(plain.policy, name))
    for key in wished.keys:
        before, after = widevine_terms(plain.policy, key.label), widevine_terms(wished.policy, key.label)
        assert (after.security_level or 0) >= (before.security_level or 0)
        order = [None, *Hdcp]
        assert order.index(after.hdcp) >= order.index(before.hdcp)
    for name in ("renewal", "session_init", "widevine_request"):
        assert getattr(wished.policy, name) == getattr(plain.policy, name)


@given(stored=STORED, message=messages())
def test_a_players_message_never_loosens(rig: ProxyRig, stored: Policy, message: dict[str, Any]) -> None:
    """Whatever it says, in the Azure document's words: the license server is handed the same or less, or nothing."""
    put(rig, stored)
    plain, wished = ask(rig, None), ask(rig, message)
    assert not isinstance(plain, str)
    if isinstance(wished, str):
        assert wished == "no_key_allowed"  # the wish left nothing that the policy allows
    else:
        check_never_looser(plain, wished)


@given(stored=STORED, asked=specs())
def test_a_players_specs_never_loosen(rig: ProxyRig, stored: Policy, asked: list[dict[str, Any]]) -> None:
    """In TPStreams' words, and each of them holds where it is the stricter."""
    put(rig, stored)
    plain, wished = ask(rig, None), ask(rig, {"widevine": {"content_key_specs": asked}}, form="tpstreams")
    check_never_looser(plain, wished)
    assert {key.kid for key in wished.keys} == {key.kid for key in plain.keys}
    for spec in asked:
        if spec["track_type"] in LABELS:
            after = widevine_terms(wished.policy, spec["track_type"])
            assert (after.security_level or 0) >= spec.get("security_level", 0)


@given(stored=STORED, asked=specs())
def test_a_servers_specs_say_the_last_word(rig: ProxyRig, stored: Policy, asked: list[dict[str, Any]]) -> None:
    """Looser or not: what a spec says is what the license server is told."""
    put(rig, stored)
    granted = ask(rig, {"widevine": {"content_key_specs": asked}}, form="tpstreams", server_side=True)
    for spec in asked:
        after = widevine_terms(granted.policy, spec["track_type"])
        if spec["track_type"] in LABELS and "security_level" in spec:
            assert spec["security_level"] == after.security_level
        if spec["track_type"] in LABELS and "required_output_protection" in spec:
            assert spec["required_output_protection"]["hdcp"] == after.hdcp


@given(stored=STORED, message=messages())
def test_a_wish_leaves_no_trace(rig: ProxyRig, stored: Policy, message: dict[str, Any]) -> None:
    """The next request without one gets the stored policy's terms, though merged policies are remembered."""
    put(rig, stored)
    before = ask(rig, None)
    ask(rig, message)
    ask(rig, message, server_side=True)
    after = ask(rig, None)
    assert before.policy == after.policy
    assert before.keys == after.keys


def put(rig: ProxyRig, stored: Policy) -> None:
    """Make it the organization's policy."""
    members = {name: getattr(stored, name) for name in stored.__struct_fields__}
    rig.put_policy(0, version=rig._next(), **members)
