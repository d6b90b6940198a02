"""Widevine's GetLicense call: published vectors, what stands in a message, and what is made of an answer."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.core.merging import widevine_terms
from keymill.proxy.request import Answer, Reason, Refusal
from keymill.proxy.upstream.widevine_answer import license_in, parsed_in
from keymill.proxy.upstream.widevine_message import certificate_message, license_message, signature, signed
from keymill.secret import Secret
from schemas.policy import Policy, Renewal, SessionInit, TrackTerms, WidevineRequest, WidevineTerms
from schemas.values import DEFAULT_LABELS
from tests import builders
from tests.granted import granted, key

# The account `widevine_test`, whose key is public: alfg/widevine (MIT) on GitHub, crypto_test.go.
TEST_KEY = Secret(bytes.fromhex("1ae8ccd0e7985cc0b6203a55855a1034afc252980e970ca90e5202689f947ab9"))
TEST_IV = Secret(bytes.fromhex("d58ce954203b7c9a9a9d467f59839249"))
# Found as a comment in a license proxy written in Go, with the endpoint license.uat.widevine.com/cenc/getlicense.
GET_LICENSE = (
    "ewogICJwYXlsb2FkIiA6ICJDQUVTaEFFS1RBZ0FFa2dBQUFBQ0FBQVFXUFhiaHRiL3E0M2YzU2Z1QzJWUDNxMGplQUVDVzNlbVFrV24yd1hDWVZP"
    "bnZsV1BETnFoOFZWSUI0R21zTkE4ZVZWRmlnWGtRV0lHTjBHbGdNS2pwVUVTTEFvcUNoUUlBUklRSk1QQ3psMmJWaXlNUUV0eUsvZ3RtUkFCR2hB"
    "eU5XWTNPRE16TVRjeU1tSmpNMkV5R0FFZ3Y1aVFrQVVhSUMzT04xelZnZVYwclA3dzJWbVZMR29ycUNsY01RTzRCZGJIUHlrM0dzblkiLAogICJw"
    "cm92aWRlciIgOiAid2lkZXZpbmVfdGVzdCIsCiAgImNvbnRlbnRfaWQiOiAiWm10cU0yeHFZVk5rWm1Gc2EzSXphZz09IiwKICAiY29udGVudF9r"
    "ZXlfc3BlY3MiOiBbCiAgICB7ICJ0cmFja190eXBlIjogIlNEIiB9LAogICAgeyAidHJhY2tfdHlwZSI6ICJIRCIgfSwKICAgIHsgInRyYWNrX3R5"
    "cGUiOiAiQVVESU8iIH0KICBdCn0K"
)
VECTORS = {
    "alfg/widevine, TestGenerateSignature": (
        b'{"isTest":true,"test":"testing","test2":"testing2","test3":"testing3"}',
        "ga80QzRuUM+jnPcoR6UWs5TXrTQ2VgeYiu0FoqCNRH4=",
    ),
    "a whole GetLicense message": (base64.b64decode(GET_LICENSE), "xPkAbb3tjOY/ybdz0tmJMq9erH9ILnS5natMZr3QEW8="),
}


def message(*args: Any, **more: Any) -> dict[str, Any]:
    """The message as the license server reads it."""
    read: dict[str, Any] = json.loads(license_message(granted(*args, **more)))
    return read


def b64(value: bytes) -> str:
    """Base64 as Widevine takes it."""
    return base64.b64encode(value).decode()


@pytest.mark.parametrize("vector", VECTORS)
def test_signatures_are_those_of_published_vectors(vector: str) -> None:
    """Over the exact bytes: without its last line break the second one has another."""
    body, expected = VECTORS[vector]
    assert expected == b64(signature(body, key=TEST_KEY, iv=TEST_IV))
    assert expected != b64(signature(body.rstrip() + b" ", key=TEST_KEY, iv=TEST_IV))


def test_the_body_holds_the_message_as_it_was_signed() -> None:
    """Base64 of the bytes, their signature, the signer; nothing else."""
    body, expected = VECTORS["a whole GetLicense message"]
    posted = json.loads(signed(body, signer="widevine_test", key=TEST_KEY, iv=TEST_IV))
    assert {"request": GET_LICENSE, "signature": expected, "signer": "widevine_test"} == posted


def test_a_plain_policy_says_what_is_allowed() -> None:
    """Permissions are always said, since what is absent means false there; nothing else is."""
    assert {
        "payload": b64(b"\x08\x01challenge\xff"),
        "provider": "widevine_test",
        "content_id": b64(b"bbb"),
        "content_key_specs": [{"track_type": "HD", "key_id": b64(b"\1\3" * 8), "key": b64(b"\1\1" * 8)}],
        "policy_overrides": {"can_play": True, "can_persist": False, "can_renew": False},
    } == message()


def test_everything_that_a_policy_demands_arrives() -> None:
    """Every member of Azure's template and of NAVER's policy that concerns a license request."""
    policy = Policy(
        can_play=True, can_persist=True, can_renew=True, license_duration_s=1, rental_duration_s=0,
        playback_duration_s=2**62,
        renewal=Renewal(
            server_url="https://renew.example", delay_s=3, retry_interval_s=4, recovery_duration_s=5, with_usage=True
        ),
        widevine=WidevineTerms(
            security_level=5, hdcp="HDCP_V2_2", cgms="COPY_NEVER", disable_analog_output=True,
            hdcp_srm_rule="CURRENT_SRM", override_device_revocation=True,
        ),
        session_init=SessionInit(
            provider_session_token=b"s\xff", provider_client_token=b"c", override_provider_client_token=False
        ),
        widevine_request=WidevineRequest(
            content_id=b"\0id", provider="other", policy_name="gold", use_policy_overrides_exclusively=True
        ),
    )  # fmt: skip
    said = message(policy)
    assert ("other", b64(b"\0id"), "gold") == (said["provider"], said["content_id"], said["policy_name"])
    assert (True, True) == (said["use_policy_overrides_exclusively"], said["override_device_revocation"])
    (spec,) = said["content_key_specs"]
    assert 5 == spec["security_level"]
    assert {
        "hdcp": "HDCP_V2_2", "cgms_flags": "COPY_NEVER", "disable_analog_output": True, "hdcp_srm_rule": "CURRENT_SRM"
    } == spec["required_output_protection"]  # fmt: skip
    assert {
        "can_play": True, "can_persist": True, "can_renew": True, "license_duration_seconds": 1,
        "rental_duration_seconds": 0, "playback_duration_seconds": 2**62, "renewal_server_url": "https://renew.example",
        "renewal_delay_seconds": 3, "renewal_retry_interval_seconds": 4, "renewal_recovery_duration_seconds": 5,
        "renew_with_usage": True,
    } == said["policy_overrides"]  # fmt: skip
    assert {
        "provider_session_token": b64(b"s\xff"), "provider_client_token": b64(b"c"),
        "override_provider_client_token": False,
    } == said["session_init"]  # fmt: skip


def test_a_track_may_demand_more_than_the_whole() -> None:
    """Terms of a track go over those of the policy, member by member."""
    policy = Policy(
        can_play=True,
        widevine=WidevineTerms(security_level=1, hdcp="HDCP_V1"),
        tracks=(TrackTerms(label="HD", widevine=WidevineTerms(security_level=3)), TrackTerms(label="SD")),
    )
    specs = message(policy, key("SD", 1), key("HD", 2))["content_key_specs"]
    assert [1, 3] == [spec["security_level"] for spec in specs]
    assert [{"hdcp": "HDCP_V1"}] * 2 == [spec["required_output_protection"] for spec in specs]


@pytest.mark.parametrize(
    ("sd", "hd", "said"),
    [(True, True, True), (True, None, None), (None, None, None), (True, False, False), (False, None, False)],
)
def test_revoked_devices_need_every_tracks_word(sd: bool | None, hd: bool | None, said: bool | None) -> None:
    """One switch for the whole license: on only if all say so, off as soon as one does."""
    tracks = tuple(
        TrackTerms(label=label, widevine=WidevineTerms(override_device_revocation=value))
        for label, value in (("SD", sd), ("HD", hd))
    )
    policy = Policy(can_play=True, tracks=tracks)
    assert said == message(policy, key("SD", 1), key("HD", 2)).get("override_device_revocation")


def test_labels_that_widevine_does_not_know_are_named_by_their_kid_alone() -> None:
    """An unknown track type would cost the whole request."""
    specs = message(None, *(key(label, n) for n, label in enumerate(("HD1", "HD+UHD1", "UHD2"), 1)))[
        "content_key_specs"
    ]
    assert [None, None, "UHD2"] == [spec.get("track_type") for spec in specs]
    assert all({"key_id", "key"} <= set(spec) for spec in specs)


def test_parse_only_sends_no_key() -> None:
    """No license is wanted, so nothing need leave the process; everything else stands as for a license."""
    asked = message(None, key("SD", 1), key("HD", 2), parse_only=True)
    assert True is asked.pop("parse_only")
    expected = message(None, key("SD", 1), key("HD", 2))
    for spec in expected["content_key_specs"]:
        del spec["key"]
    assert expected == asked


def test_without_a_provider_none_is_named() -> None:
    """The signer's own is meant."""
    assert "provider" not in message(provider="")


def test_a_content_id_that_is_no_asset_id_goes_back_to_its_bytes() -> None:
    """What the packager sent, not how keymill spells it."""
    asset = builders.folded(builders.ingest(asset="hex:00ff"))
    assert b64(b"\x00\xff") == message(asset=asset)["content_id"]


def test_a_certificate_request_names_nothing() -> None:
    """Only the challenge, eight and four."""
    assert {"payload": b64(b"\x08\x04")} == json.loads(certificate_message(b"\x08\x04"))


@given(
    st.lists(st.sampled_from((*DEFAULT_LABELS, "HD1", "STEREO_AUDIO", "HD+UHD1")), min_size=1, max_size=12),
    st.builds(
        WidevineTerms,
        security_level=st.none() | st.integers(1, 5),
        hdcp=st.none() | st.sampled_from(["HDCP_NONE", "HDCP_V1", "HDCP_V2_3", "HDCP_NO_DIGITAL_OUTPUT"]),
        disable_analog_output=st.none() | st.booleans(),
    ),
    st.binary(min_size=1, max_size=200),
)
def test_exactly_the_granted_keys_stand_in_it(labels: list[str], terms: WidevineTerms, challenge: bytes) -> None:
    """In their order, each with its demands; the challenge comes out as it went in."""
    tracks = (TrackTerms(label=labels[0], widevine=terms),)
    policy = Policy(can_play=True, widevine=WidevineTerms(cgms="COPY_ONCE"), tracks=tracks)
    keys = [key(label, number) for number, label in enumerate(labels, 1)]
    said = message(policy, *keys, challenge=challenge)
    assert challenge == base64.b64decode(said["payload"])
    specs = said["content_key_specs"]
    assert [(b64(k.kid), b64(k.clear.cek.reveal())) for k in keys] == [(s["key_id"], s["key"]) for s in specs]
    for each, spec in zip(keys, specs, strict=True):
        demanded = widevine_terms(policy, each.label)
        protection = spec["required_output_protection"]
        assert demanded.security_level == spec.get("security_level")
        assert (demanded.hdcp, demanded.cgms) == (protection.get("hdcp"), protection["cgms_flags"])
        assert demanded.disable_analog_output == protection.get("disable_analog_output")


def answer(**members: Any) -> bytes:
    """What a license server answers."""
    return json.dumps({"status": "OK", "session_state": {"signing_key": "c2VjcmV0"}, **members}).encode()


@given(st.binary(min_size=1, max_size=1000))
def test_a_license_is_the_servers_byte_for_byte(made: bytes) -> None:
    """Whatever bytes it has."""
    assert Answer(body=made, content_type="application/octet-stream") == license_in(answer(license=b64(made)))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", Reason.UPSTREAM_FAILED),
        (b"<html>", Reason.UPSTREAM_FAILED),
        (b"\xff", Reason.UPSTREAM_FAILED),
        (b"[" * 5000, Reason.UPSTREAM_FAILED),
        (b"[]", Reason.UPSTREAM_FAILED),
        (b"{}", Reason.UPSTREAM_FAILED),
        (b'{"status": 7}', Reason.UPSTREAM_FAILED),
        (answer(), Reason.UPSTREAM_FAILED),
        (answer(license=None), Reason.UPSTREAM_FAILED),
        (answer(license=""), Reason.UPSTREAM_FAILED),
        (answer(license="*"), Reason.UPSTREAM_FAILED),
        (answer(license="AAA"), Reason.UPSTREAM_FAILED),
        (answer(license=7), Reason.UPSTREAM_FAILED),
        (answer(license="é"), Reason.UPSTREAM_FAILED),
        (answer(status="SIGNATURE_FAILED"), Reason.UPSTREAM_FAILED),
        (answer(status="INTERNAL_ERROR"), Reason.UPSTREAM_FAILED),
        (answer(status="<script>"), Reason.UPSTREAM_FAILED),
        (answer(status="INVALID_LICENSE_CHALLENGE"), Reason.MALFORMED),
        (answer(status="ACCESS_DENIED", license="AAAA"), Reason.UPSTREAM_REFUSED),
        (answer(status="DRM_DEVICE_CERTIFICATE_REVOKED"), Reason.UPSTREAM_REFUSED),
    ],
)
@pytest.mark.parametrize("read", [license_in, parsed_in])
def test_everything_else_is_refused(read: Any, body: bytes, reason: Reason) -> None:
    """With a reason that says whose fault it is; statuses are repeated, nothing else that the server sent."""
    outcome = read(body)
    if read is parsed_in and b'"status": "OK"' in body:
        assert isinstance(outcome, Answer)
        return
    assert isinstance(outcome, Refusal) and reason is outcome.reason
    assert "script" not in outcome.message and "c2VjcmV0" not in outcome.message


def test_parsed_values_hold_no_secret() -> None:
    """Members that are known, without keys at any depth; a license that came along all the same is left out."""
    outcome = parsed_in(
        answer(
            license="bGljZW5zZQ==", security_level=3, client_info=[{"name": "os", "value": "x"}], new={"a": "c2VjcmV0"},
            supported_tracks=[{"type": "HD", "key_id": "AA==", "key": "c2VjcmV0", "more": {"signing_key": "c2VjcmV0"}}],
        )
    )  # fmt: skip
    assert isinstance(outcome, Answer) and "application/json" == outcome.content_type
    assert {
        "status": "OK", "security_level": 3, "client_info": [{"name": "os", "value": "x"}],
        "supported_tracks": [{"type": "HD", "key_id": "AA==", "more": {}}],
    } == json.loads(outcome.body)  # fmt: skip
