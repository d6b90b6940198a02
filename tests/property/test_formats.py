"""Policy documents: what was imported is exported, and no export leaves anything out without saying so."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.core.formats import azure_widevine, native, naver
from keymill.core.formats.azure_document import AllowedTrackTypes
from keymill.core.formats.naver_document import NaverHdcp
from keymill.core.formats.table import FORMATS, export_policy, lost_member
from keymill.errors import Reject
from schemas.policy import (
    ANALOG_VIDEO_LEVELS,
    DIGITAL_AUDIO_LEVELS,
    DIGITAL_VIDEO_LEVELS,
    HDCP_ENFORCEMENTS,
    MAX_LONG,
    PLAYREADY_LEVELS,
    Cgms,
    Hdcp,
    SrmRule,
)
from schemas.values import MAX_INT
from tests.property.strategies import LABEL, POLICIES, TEXT


def base64_of(size=None):
    return st.binary(min_size=size or 0, max_size=size or 30).map(lambda data: json.loads(msgspec.json.encode(data)))


def objects(**members):
    return st.fixed_dictionaries({}, optional=members)


SECONDS = st.integers(0, MAX_LONG)
FLAGS = st.booleans()
OVERRIDES = objects(
    **dict.fromkeys(["can_play", "can_persist", "can_renew", "renew_with_usage"], FLAGS),
    **dict.fromkeys([f"{name}_duration_seconds" for name in ("rental", "playback", "license")], SECONDS),
    **dict.fromkeys([f"renewal_{name}_seconds" for name in ("delay", "retry_interval", "recovery_duration")], SECONDS),
    renewal_server_url=TEXT,
)
SPEC = st.builds(
    lambda label, rest: {"track_type": label} | rest,
    LABEL,
    objects(
        security_level=st.integers(1, 5),
        required_output_protection=objects(hdcp=st.sampled_from([each.value for each in Hdcp])),
        key_id=base64_of(16),
    ),
)
SPECS = st.lists(SPEC, min_size=1, max_size=4, unique_by=lambda spec: spec["track_type"])
COMMON = {
    "content_id": base64_of(),
    "provider": TEXT,
    "policy_name": TEXT,
    "use_policy_overrides_exclusively": FLAGS,
    "policy_overrides": OVERRIDES,
    "session_init": objects(
        provider_session_token=base64_of(), provider_client_token=base64_of(), override_provider_client_token=FLAGS
    ),
}
TEMPLATES = st.one_of(
    objects(**COMMON, content_key_specs=SPECS),
    objects(**COMMON, allowed_track_types=st.sampled_from([each.value for each in AllowedTrackTypes])),
)


def numbers(values):
    """As a number or as text."""
    return st.sampled_from(values).flatmap(lambda value: st.sampled_from([value, str(value)]))


SYSTEMS = {
    "wideVine": objects(
        useYn=FLAGS,
        securityLevel=numbers([1, 2, 3, 4, 5]),
        hdcp=st.sampled_from([each.value for each in NaverHdcp]),
        cgms=st.sampled_from([each.value for each in Cgms]),
        disableAnalogOutputYn=FLAGS,
        hdcpSrmRule=st.sampled_from([each.value for each in SrmRule]),
        deviceRevocation=FLAGS,
    ),
    "playReady": objects(
        useYn=FLAGS,
        securityLevel=numbers(PLAYREADY_LEVELS),
        digitalVideoProtectionLevel=numbers(DIGITAL_VIDEO_LEVELS),
        analogVideoProtectionLevel=numbers(ANALOG_VIDEO_LEVELS),
        digitalAudioProtectionLevel=numbers(DIGITAL_AUDIO_LEVELS),
        hdcpUseYn=FLAGS,
    ),
    "fairPlay": st.fixed_dictionaries(
        {"useYn": FLAGS},
        optional={"hdcpEnforcement": numbers(HDCP_ENFORCEMENTS), "allowAirPlay": FLAGS, "allowAvAdaptor": FLAGS},
    ),
}
BODIES = st.builds(
    lambda durations, config, lower, rest: (
        {
            "policyName": "p",
            "persistent": True,
            "drmPolicyConfig": {naver.SPELLINGS[name] if lower else name: value for name, value in config.items()},
        }
        | durations
        | rest
    ),
    objects(rentalDuration=st.integers(0, MAX_INT), playbackDuration=st.integers(0, MAX_INT).map(str)),
    objects(**SYSTEMS),
    FLAGS,
    objects(policyName=TEXT),
)


@given(TEMPLATES, st.sampled_from([None, 2]))
def test_template_comes_back_member_for_member(document, indent):
    """Whatever was imported is exported as it was."""
    text = json.dumps(document, indent=indent).encode()
    assert export_policy("azure-widevine", azure_widevine.read_template(text).policy, "x") == text


@given(TEMPLATES)
def test_a_template_without_its_source_says_the_same(document):
    """What is built of the policy alone reads as the same policy."""
    policy = azure_widevine.read_template(json.dumps(document).encode()).policy
    built = export_policy("azure-widevine", msgspec.structs.replace(policy, source=None), "x")
    again = azure_widevine.read_template(built).policy
    assert lost_member(policy, again) is None


@given(BODIES)
def test_naver_body_comes_back_in_the_answers_spelling(body):
    """An answer says what the request said, and is itself a request that says so."""
    once = naver.read(json.dumps(body).encode())
    answer = naver.write(once.policy, once.name)
    twice = naver.read(answer)
    assert twice == once and naver.write(twice.policy, twice.name) == answer
    for name, given_ in body["drmPolicyConfig"].items():
        table = {lower: camel for camel, lower in naver.SPELLINGS.items()}.get(name, name)
        told = json.loads(answer)["drmPolicyConfig"][table]
        used = {member: int(v) if str(v).lstrip("-").isdigit() else v for member, v in given_.items()}
        assert told == (used | {"useYn": True} if given_.get("useYn", True) else {"useYn": False})


@given(POLICIES)
def test_native_comes_back(policy):
    """keymill's own format holds every policy."""
    again = native.read(native.write(policy, "x")).policy
    assert lost_member(policy, again) is None and again.source == policy.source


@given(POLICIES, st.sampled_from(sorted(FORMATS)))
def test_no_export_leaves_anything_out(policy, name):
    """A document says all of a policy, or a member that it cannot hold is named."""
    try:
        document = export_policy(name, policy, "title")
    except Reject as refusal:
        assert refusal.field and refusal.field in str(refusal) and name != "native"
        return
    assert lost_member(policy, FORMATS[name].read(document).policy) is None


@pytest.mark.parametrize(
    ("name", "policy", "member"),
    [
        ("azure-widevine", {"can_play": True, "playready": {"security_level": 2000}}, "playready.security_level"),
        ("azure-widevine", {"can_play": True, "widevine": {"cgms": "COPY_NEVER"}}, "widevine.cgms"),
        ("azure-widevine", {"can_play": True, "allowed_tracks": ["UHD1"]}, "allowed_tracks"),
        ("azure-widevine", {"can_play": True, "tracks": []}, "tracks"),
        ("azure-widevine", {"can_play": True, "renewal": {}, "widevine": {"hdcp": "HDCP_V1"}}, "widevine.hdcp"),
        (
            "azure-widevine",
            {"can_play": True, "tracks": [{"label": "HD", "fairplay": {"allow_airplay": False}}]},
            "tracks.HD.fairplay.allow_airplay",
        ),
        ("naver", {"can_play": False}, "can_play"),
        ("naver", {"can_play": True, "license_duration_s": 60}, "license_duration_s"),
        ("naver", {"can_play": True, "widevine": {"hdcp": "HDCP_V2_3"}}, "widevine.hdcp"),
        ("naver", {"can_play": True, "can_renew": True}, "can_renew"),
        ("naver", {"can_play": True, "rental_duration_s": 5}, "rentalDuration"),
    ],
)
def test_what_a_format_cannot_hold_is_named(name, policy, member):
    """The first member that differs after reading back."""
    with pytest.raises(Reject) as refusal:
        export_policy(name, native.read(json.dumps(policy).encode()).policy, "title")
    assert (refusal.value.field, refusal.value.code) == (member, "not_expressible")


def test_an_edited_policy_is_not_exported_as_what_it_was():
    """A source that no longer says what the policy says is not believed."""
    imported = azure_widevine.read_template(b'{"provider": "x"}').policy
    edited = msgspec.structs.replace(imported, can_persist=True)
    assert json.loads(export_policy("azure-widevine", edited, "x"))["policy_overrides"] == {
        "can_play": True,
        "can_persist": True,
    }
