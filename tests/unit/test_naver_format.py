"""NAVER's policy body: both spellings, numbers as text, useYn, ranges, and each way in which the page is misread."""

import json

import pytest

from keymill.core.formats.native import plain
from keymill.core.formats.naver import read, request_of
from keymill.core.formats.naver_document import PolicyRequest
from keymill.errors import InvalidRecord
from schemas.policy import Cgms, FairPlayTerms, Hdcp, PlayReadyTerms, Policy, SrmRule, WidevineTerms

PRINTED = {
    "drmPolicyConfig": {
        "fairplay": {"allowAirPlay": True, "allowAvAdaptor": True, "hdcpEnforcement": "-1", "useYn": True},
        "playready": {
            "analogVideoProtectionLevel": "100",
            "digitalAudioProtectionLevel": "100",
            "digitalVideoProtectionLevel": "100",
            "hdcpUseYn": True,
            "securityLevel": "150",
            "useYn": True,
        },
        "widevine": {
            "cgms": "CGMS_NONE",
            "deviceRevocation": True,
            "disableAnalogOutputYn": True,
            "hdcp": "HDCP_NONE",
            "hdcpSrmRule": "HDCP_SRM_RULE_NONE",
            "securityLevel": "1",
            "useYn": True,
        },
    },
    "persistent": True,
    "playbackDuration": 0,
    "policyName": "mySamplePolicy",
    "rentalDuration": 0,
}
ANSWERED = {
    "policyName": "mySamplePolicy",
    "persistent": True,
    "rentalDuration": 0,
    "playbackDuration": 0,
    "drmPolicyConfig": {
        "wideVine": {
            "useYn": True,
            "securityLevel": 1,
            "hdcp": "HDCP_NONE",
            "cgms": "CGMS_NONE",
            "disableAnalogOutputYn": True,
            "hdcpSrmRule": "HDCP_SRM_RULE_NONE",
            "deviceRevocation": True,
        },
        "playReady": {
            "useYn": True,
            "securityLevel": 150,
            "digitalVideoProtectionLevel": 100,
            "analogVideoProtectionLevel": 100,
            "digitalAudioProtectionLevel": 100,
            "hdcpUseYn": True,
        },
        "fairPlay": {"useYn": True, "hdcpEnforcement": -1, "allowAirPlay": True, "allowAvAdaptor": True},
    },
}
UNUSED = {"useYn": False}


def policy(body):
    return read(json.dumps(body).encode()).policy


def answered(body):
    imported = read(json.dumps(body).encode())
    return plain(request_of(imported.policy, imported.name))


def refused(body):
    with pytest.raises(InvalidRecord) as refusal:
        policy(body)
    return refusal.value.field


def config(**systems):
    return {"policyName": "p", "drmPolicyConfig": systems}


def test_the_printed_request_is_what_it_says():
    """Each setting in its system's own type; true disables analog output, and licenses revoked devices."""
    assert policy(PRINTED) == Policy(
        can_play=True,
        can_persist=True,
        rental_duration_s=0,
        playback_duration_s=0,
        widevine=WidevineTerms(
            security_level=1,
            hdcp=Hdcp.HDCP_NONE,
            cgms=Cgms.CGMS_NONE,
            disable_analog_output=True,
            hdcp_srm_rule=SrmRule.HDCP_SRM_RULE_NONE,
            override_device_revocation=True,
        ),
        playready=PlayReadyTerms(
            security_level=150,
            digital_video_level=100,
            analog_video_level=100,
            digital_audio_level=100,
            hdcp_type1=True,
        ),
        fairplay=FairPlayTerms(hdcp_enforcement=-1, allow_airplay=True, allow_av_adapter=True),
    )


def test_the_printed_request_is_answered_as_printed():
    """Lower case and text in, camel case and numbers out, in the printed order."""
    assert json.dumps(answered(PRINTED)) == json.dumps(ANSWERED)
    assert answered(ANSWERED) == ANSWERED


def test_the_second_printed_request():
    """fairPlay with useYn false answers useYn alone."""
    body = PRINTED | {"drmPolicyConfig": PRINTED["drmPolicyConfig"] | {"fairplay": UNUSED}}
    assert answered(body)["drmPolicyConfig"] == ANSWERED["drmPolicyConfig"] | {"fairPlay": UNUSED}


def test_use_yn_false_applies_nothing_of_the_system():
    """Its settings are not applied, and not answered."""
    body = config(wideVine={"useYn": False, "securityLevel": 5}, playReady=UNUSED, fairPlay=UNUSED)
    assert policy(body).widevine is None
    assert answered(body)["drmPolicyConfig"] == {"wideVine": UNUSED, "playReady": UNUSED, "fairPlay": UNUSED}


def test_a_missing_system_is_answered_as_unused():
    """None of the three objects is required."""
    assert answered(config())["drmPolicyConfig"] == {"wideVine": UNUSED, "playReady": UNUSED, "fairPlay": UNUSED}


def test_use_yn_missing_means_true():
    """In wideVine and playReady; fairPlay's is required."""
    body = config(wideVine={"securityLevel": 3}, playReady={})
    assert answered(body)["drmPolicyConfig"] == {
        "wideVine": {"useYn": True, "securityLevel": 3},
        "playReady": {"useYn": True},
        "fairPlay": UNUSED,
    }
    assert refused(config(fairPlay={"allowAirPlay": True})) == "drmPolicyConfig.fairPlay.useYn"


def test_required_members_with_a_default_take_it():
    """persistent, rentalDuration and playbackDuration are required, with defaults; the two others without."""
    told = answered(config())
    assert (told["persistent"], told["rentalDuration"], told["playbackDuration"]) == (False, 0, 0)
    assert refused({"drmPolicyConfig": {}}) == "policyName"
    assert refused({"policyName": "p"}) == "drmPolicyConfig"


def test_rental_needs_persistence():
    """0 is no rental."""
    assert refused(config() | {"rentalDuration": 1}) == "rentalDuration"
    assert refused(config() | {"rentalDuration": "1", "persistent": False}) == "rentalDuration"
    assert policy(config() | {"rentalDuration": 1, "persistent": True}).rental_duration_s == 1
    assert policy(config() | {"rentalDuration": 0}).rental_duration_s == 0


@pytest.mark.parametrize("spelling", [{"widevine": {}, "wideVine": {}}, {"widevine": {}, "playReady": {}}])
def test_both_spellings_in_one_body_are_refused(spelling):
    """Of one system or of two."""
    assert refused(config(**spelling)) == "drmPolicyConfig"


@pytest.mark.parametrize(
    ("member", "allowed", "refused_ones"),
    [
        ("wideVine.securityLevel", [1, 2, 3, 4, 5], [0, 6, 150]),
        ("playReady.securityLevel", [150, 2000, 3000], [1, 151, 3001]),
        ("playReady.digitalVideoProtectionLevel", [100, 250, 270, 300, 301], [150, 200, 201, 400]),
        ("playReady.analogVideoProtectionLevel", [100, 150, 200, 201], [250, 300, 301]),
        ("playReady.digitalAudioProtectionLevel", [100, 250, 300, 301], [150, 200, 270]),
        ("fairPlay.hdcpEnforcement", [-1, 0, 1], [-2, 2]),
    ],
)
def test_numbers_have_their_own_values_in_each_system(member, allowed, refused_ones):
    """As number and as text; what is beyond the list is refused, whether the system is used or not."""
    system, name = member.split(".")
    for value in allowed:
        for spelt in (value, str(value)):
            told = answered(config(**{system: {"useYn": True, name: spelt}}))
            assert told["drmPolicyConfig"][system][name] == value
    for value in refused_ones:
        for used in (True, False):
            assert refused(config(**{system: {"useYn": used, name: value}})) == f"drmPolicyConfig.{member}"


@pytest.mark.parametrize("value", ["", "1.0", "+1", " 1", "1\n", "١", "1e0", 1.5, True, [1], "99999999999"])
def test_what_is_no_number_is_refused(value):
    """Text is ASCII digits, with a minus at most."""
    assert refused(config(wideVine={"securityLevel": value})) == "drmPolicyConfig.wideVine.securityLevel"


@pytest.mark.parametrize(
    ("member", "allowed", "refused_ones"),
    [
        ("hdcp", [each.value for each in Hdcp if each is not Hdcp.HDCP_V2_3], ["HDCP_V2_3", "HDCP_V3", "hdcp_none", 1]),
        ("cgms", [each.value for each in Cgms], ["COPY_SOMETIMES", 0]),
        ("hdcpSrmRule", [each.value for each in SrmRule], ["SRM"]),
    ],
)
def test_enumerations(member, allowed, refused_ones):
    """The printed names; HDCP has no V2_3 here."""
    for value in allowed:
        assert answered(config(wideVine={member: value}))["drmPolicyConfig"]["wideVine"][member] == value
    for value in refused_ones:
        assert refused(config(wideVine={member: value})) == f"drmPolicyConfig.wideVine.{member}"


@pytest.mark.parametrize("name", ["rentalDuration", "playbackDuration"])
def test_durations_are_int32(name):
    """0 to 2,147,483,647, as number and as text."""
    for value in (0, 2_147_483_647):
        for spelt in (value, str(value)):
            assert answered(config() | {"persistent": True, name: spelt})[name] == value
    for value in (-1, 2_147_483_648, "-1"):
        assert refused(config() | {"persistent": True, name: value}) == name


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (config() | {"drmConfig": {}}, "drmConfig"),
        (config() | {"policyId": 1}, "policyId"),
        (config(wideVine={"secureLevel": 1}), "drmPolicyConfig.wideVine.secureLevel"),
        (config() | {"policyName": ""}, "policyName"),
        (config() | {"policyName": "x" * 513}, "policyName"),
        ({"policyName": "p", "drmPolicyConfig": [{}]}, "drmPolicyConfig"),
        (config(wideVine={"useYn": "true"}), "drmPolicyConfig.wideVine.useYn"),
        ([], "body"),
    ],
)
def test_unknown_and_mistyped_members_are_named(body, field):
    """drmConfig, as half of the table calls it, among them; drmPolicyConfig is an object in every example."""
    assert refused(body) == field


def test_what_has_no_name_here_is_left_out_of_the_answer():
    """A policy of another origin is shown as far as this API can."""
    told = plain(request_of(Policy(can_play=True, widevine=WidevineTerms(hdcp=Hdcp.HDCP_V2_3)), "p"))
    assert told["drmPolicyConfig"]["wideVine"] == {"useYn": True}
    assert isinstance(request_of(Policy(), "p"), PolicyRequest)
