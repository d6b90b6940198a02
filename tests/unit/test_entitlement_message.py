"""The message to a license service as Axinom's: signature, keys, license terms and demands, per DRM system."""

import base64
import json
from typing import Any
from uuid import UUID

import jwt
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.proxy.upstream.entitlement_message import (
    MAX_MESSAGE,
    certificate_message,
    encrypted_key,
    license_message,
)
from keymill.proxy.upstream.entitlement_terms import unsayable, usage_policy
from keymill.secret import Secret
from schemas.policy import (
    Cgms,
    FairPlayTerms,
    Hdcp,
    PlayReadyTerms,
    Policy,
    Renewal,
    SrmRule,
    TrackTerms,
    WidevineTerms,
)
from schemas.values import DEFAULT_LABELS, DrmSystem
from tests.granted import granted, key
from tests.license_server.protocols import inline_keys

KEY = b"communication key of 32 bytes !!"
KEY_ID = "cc36e85d-2fdf-462c-b395-030907447afc"
EXPIRES_MS = 1_800_000_000_999
OPENSSL = "9ceEm4Li02UnVwT1e5j4ag=="
SYSTEMS = (DrmSystem.WIDEVINE, DrmSystem.PLAYREADY, DrmSystem.FAIRPLAY)


def envelope(*args: Any, **more: Any) -> dict[str, Any]:
    """The whole message as the license service reads it, its signature checked."""
    token = license_message(granted(*args, **more), key=Secret(KEY), key_id=KEY_ID, expires_ms=EXPIRES_MS)
    assert {"alg": "HS256", "typ": "JWT"} == jwt.get_unverified_header(token)
    read: dict[str, Any] = jwt.decode(token, KEY, algorithms=["HS256"])
    return read


def terms(policy: Policy, system: DrmSystem, label: str = "HD") -> dict[str, Any]:
    """A track's demands."""
    message = envelope(policy, key(label), system=system)["message"]
    (usage,) = message["content_key_usage_policies"]
    assert label == usage.pop("name") == message["content_keys_source"]["inline"][0]["usage_policy"]
    ((name, demands),) = usage.items()
    assert system == name
    return demands


def license_of(system: DrmSystem, **policy: Any) -> dict[str, Any]:
    """The license terms."""
    read: dict[str, Any] = envelope(Policy(can_play=True, **policy), system=system)["message"]["license"]
    return read


def test_the_envelope_names_version_key_and_end() -> None:
    """And nothing of the player."""
    read = envelope()
    assert ["version", "com_key_id", "expiration_date", "message"] == list(read)
    assert (1, KEY_ID, "2027-01-15T08:00:00Z") == (read["version"], read["com_key_id"], read["expiration_date"])
    assert ("entitlement_message", 2) == (read["message"]["type"], read["message"]["version"])


def test_another_key_does_not_verify_it() -> None:
    """Nor does a change of its payload."""
    token = license_message(granted(), key=Secret(KEY), key_id=KEY_ID, expires_ms=EXPIRES_MS)
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(token, KEY[::-1], algorithms=["HS256"])


def test_a_key_is_encrypted_as_openssl_does() -> None:
    """AES-256-CBC, the KID as IV, no padding; the expected value is `openssl enc -aes-256-cbc -nopad`'s."""
    cek, kid = b"\1" * 16, b"\1\3" * 8
    assert OPENSSL == base64.b64encode(encrypted_key(kid, Secret(cek), Secret(KEY))).decode()


@given(
    st.lists(st.sampled_from((*DEFAULT_LABELS, "HD1", "HD+UHD1")), min_size=1, max_size=12), st.sampled_from(SYSTEMS)
)
def test_exactly_the_granted_keys_stand_in_it(labels: list[str], system: DrmSystem) -> None:
    """In their order, each under the policy of its track; an IV beside FairPlay's keys alone."""
    keys = [key(label, number) for number, label in enumerate(labels, 1)]
    message = envelope(None, *keys, system=system)["message"]
    found = inline_keys(message, KEY)
    assert [(k.kid, k.clear.cek.reveal(), k.label) for k in keys] == [(f.kid, f.cek, f.label) for f in found]
    ivs = [k.clear.iv.reveal() if system is DrmSystem.FAIRPLAY else b"" for k in keys]
    assert ivs == [f.iv for f in found]
    assert list(dict.fromkeys(labels)) == [each["name"] for each in message["content_key_usage_policies"]]


def test_a_certificate_request_entitles_to_nothing() -> None:
    """Signed all the same, for the service takes no request without."""
    token = certificate_message(key=Secret(KEY), key_id=KEY_ID, expires_ms=EXPIRES_MS)
    message = jwt.decode(token, KEY, algorithms=["HS256"])["message"]
    assert {"type": "entitlement_message", "version": 2, "content_keys_source": {"inline": []}} == message


def test_widevine_demands() -> None:
    """In the service's words."""
    demanded = WidevineTerms(
        security_level=3, hdcp=Hdcp.HDCP_V2_2, cgms=Cgms.COPY_ONCE, disable_analog_output=True,
        hdcp_srm_rule=SrmRule.HDCP_SRM_RULE_NONE, override_device_revocation=True,
    )  # fmt: skip
    assert {
        "device_security_level": "HW_SECURE_CRYPTO", "cgms-a": "once", "hdcp": "2.2", "disable_analog_output": True
    } == terms(Policy(can_play=True, widevine=demanded), DrmSystem.WIDEVINE)  # fmt: skip
    none = WidevineTerms(hdcp=Hdcp.HDCP_NONE, cgms=Cgms.CGMS_NONE)
    assert {} == terms(Policy(can_play=True, widevine=none), DrmSystem.WIDEVINE)


@pytest.mark.parametrize("level", range(1, 6))
def test_a_security_level_has_a_name(level: int) -> None:
    """From the weakest to the strongest."""
    named = terms(Policy(can_play=True, widevine=WidevineTerms(security_level=level)), DrmSystem.WIDEVINE)
    expected = ["SW_SECURE_CRYPTO", "SW_SECURE_DECODE", "HW_SECURE_CRYPTO", "HW_SECURE_DECODE", "HW_SECURE_ALL"]
    assert {"device_security_level": expected[level - 1]} == named


def test_playready_demands() -> None:
    """Levels per kind of output; type 1 with the restriction's GUID."""
    demanded = PlayReadyTerms(
        security_level=2000, digital_video_level=301, analog_video_level=200, digital_audio_level=300, hdcp_type1=True
    )
    assert {
        "min_device_security_level": 2000, "uncompressed_digital_video_opl": 301, "analog_video_opl": 200,
        "compressed_digital_audio_opl": 300, "uncompressed_digital_audio_opl": 300,
        "digital_video_output_protections": [{"id": "ABB2C6F1-E663-4625-A945-972D17B231E7", "config_data": "AAAAAQ=="}],
    } == terms(Policy(can_play=True, playready=demanded), DrmSystem.PLAYREADY)  # fmt: skip


@pytest.mark.parametrize("level", [None, 100, 250, 270, 300, 301])
def test_type_1_leaves_the_level_as_it_was_set(level: int | None) -> None:
    """Whether HDCP applies is the level's to say; the restriction goes along whatever the level."""
    policy = Policy(can_play=True, playready=PlayReadyTerms(digital_video_level=level, hdcp_type1=True))
    said = terms(policy, DrmSystem.PLAYREADY)
    assert level == said.get("uncompressed_digital_video_opl")
    assert ["ABB2C6F1-E663-4625-A945-972D17B231E7"] == [each["id"] for each in said["digital_video_output_protections"]]


@pytest.mark.parametrize(("enforcement", "said"), [(-1, "NONE"), (0, "TYPE0"), (1, "TYPE1")])
def test_fairplay_demands(enforcement: int, said: str) -> None:
    """NAVER's numbers by name."""
    demanded = FairPlayTerms(hdcp_enforcement=enforcement, allow_airplay=False, allow_av_adapter=True)
    policy = Policy(can_play=True, fairplay=demanded)
    expected = {"hdcp": said, "allow_airplay": False, "allow_av_adapter": True}
    assert expected == terms(policy, DrmSystem.FAIRPLAY)


@pytest.mark.parametrize("system", SYSTEMS)
def test_nothing_of_another_drm_system_is_said(system: DrmSystem) -> None:
    """Demands of the others are not this license's."""
    others = {
        "widevine": WidevineTerms(security_level=5, hdcp=Hdcp.HDCP_NO_DIGITAL_OUTPUT),
        "playready": PlayReadyTerms(security_level=3000),
        "fairplay": FairPlayTerms(hdcp_enforcement=1),
    }
    policy = Policy(can_play=True, **{name: value for name, value in others.items() if name != system})
    assert {} == terms(policy, system)
    assert unsayable(policy, system, ["HD"]) is None


def test_a_track_may_demand_more_than_the_whole() -> None:
    """Each track's key names its own policy."""
    policy = Policy(
        can_play=True,
        widevine=WidevineTerms(security_level=1),
        tracks=(TrackTerms(label="HD", widevine=WidevineTerms(security_level=5)), TrackTerms(label="SD")),
    )
    assert "HW_SECURE_ALL" == terms(policy, DrmSystem.WIDEVINE, "HD")["device_security_level"]
    assert "SW_SECURE_CRYPTO" == terms(policy, DrmSystem.WIDEVINE, "SD")["device_security_level"]


@pytest.mark.parametrize(
    ("demanded", "named"),
    [
        (WidevineTerms(hdcp=Hdcp.HDCP_NO_DIGITAL_OUTPUT), "hdcp HDCP_NO_DIGITAL_OUTPUT"),
        (WidevineTerms(hdcp_srm_rule=SrmRule.CURRENT_SRM), "hdcp_srm_rule CURRENT_SRM"),
        (WidevineTerms(hdcp=Hdcp.HDCP_V2_3, hdcp_srm_rule=SrmRule.HDCP_SRM_RULE_NONE), None),
    ],
)
def test_what_cannot_be_said_is_named(demanded: WidevineTerms, named: str | None) -> None:
    """On any track that a key is granted for, and on no other."""
    policy = Policy(can_play=True, tracks=(TrackTerms(label="HD", widevine=demanded), TrackTerms(label="SD")))
    assert named == unsayable(policy, DrmSystem.WIDEVINE, ["SD", "HD"])
    assert unsayable(policy, DrmSystem.WIDEVINE, ["SD"]) is None


@given(st.sampled_from(list(Hdcp)), st.sampled_from(list(Cgms)))
def test_every_demand_is_said_or_refused(hdcp: Hdcp, cgms: Cgms) -> None:
    """Nothing falls through: what demands something has a word, or there is no license."""
    policy = Policy(can_play=True, widevine=WidevineTerms(hdcp=hdcp, cgms=cgms))
    said = usage_policy(policy, DrmSystem.WIDEVINE, ["HD"]).widevine
    assert said is not None
    refused = unsayable(policy, DrmSystem.WIDEVINE, ["HD"]) is not None
    assert (hdcp is Hdcp.HDCP_NONE) == (said.hdcp is None and not refused)
    assert (cgms is Cgms.CGMS_NONE) == (said.cgms is None)


@pytest.mark.parametrize(
    ("clocks", "duration", "ends_playback"),
    [
        ({}, None, False),
        ({"license_duration_s": 0, "rental_duration_s": 0, "playback_duration_s": 0}, None, False),
        ({"license_duration_s": 60}, 60, True),
        ({"rental_duration_s": 90}, 90, False),
        ({"license_duration_s": 60, "rental_duration_s": 90}, 60, True),
        ({"license_duration_s": 90, "rental_duration_s": 60}, 60, True),
        ({"license_duration_s": 0, "rental_duration_s": 60}, 60, False),
    ],
)
def test_of_three_clocks_two_remain(clocks: dict[str, int], duration: int | None, ends_playback: bool) -> None:
    """The shorter of license and rental; it ends playback where a license's end would. 0 is unlimited: not said."""
    for system in SYSTEMS:
        said = license_of(system, **clocks)
        switch = "real_time_duration_expiration" if system is DrmSystem.WIDEVINE else "real_time_expiration"
        assert (duration, ends_playback) == (said.get("duration"), said[system.value][switch])
        assert "playback_duration" not in said[system.value]


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_playback_clock_ends_playback(system: DrmSystem) -> None:
    """After the first play."""
    said = license_of(system, playback_duration_s=30)[system.value]
    assert 30 == said["playback_duration"]
    assert said["real_time_playback_expiration" if system is DrmSystem.WIDEVINE else "real_time_expiration"]


@pytest.mark.parametrize("allowed", [None, False, True])
def test_persistence_is_always_said(allowed: bool | None) -> None:
    """Only a policy that says yes means yes."""
    for system in SYSTEMS:
        assert bool(allowed) is license_of(system, can_persist=allowed)["allow_persistence"]


def test_renewal_is_widevines() -> None:
    """All six members where the policy renews; none where it does not."""
    renewal = Renewal(
        server_url="https://r.example", delay_s=1, retry_interval_s=2, recovery_duration_s=3, with_usage=True
    )
    said = license_of(DrmSystem.WIDEVINE, can_renew=True, renewal=renewal)["widevine"]
    assert {
        "allow_renewal": True, "renewal_url": "https://r.example", "renewal_delay": 1, "renewal_retry_interval": 2,
        "renewal_recovery": 3, "renew_with_usage": True,
    } == {name: value for name, value in said.items() if "renew" in name}  # fmt: skip
    said = license_of(DrmSystem.WIDEVINE, renewal=renewal)["widevine"]
    assert {"allow_renewal": False} == {name: value for name, value in said.items() if "renew" in name}
    for system in (DrmSystem.PLAYREADY, DrmSystem.FAIRPLAY):
        assert not [
            name for name in license_of(system, can_renew=True, renewal=renewal)[system.value] if "renew" in name
        ]


def test_no_clear_key_stands_in_it() -> None:
    """In no spelling; FairPlay's IV is no secret of this message."""
    token = license_message(granted(None, key("HD", 7)), key=Secret(KEY), key_id=KEY_ID, expires_ms=EXPIRES_MS)
    payload = base64.urlsafe_b64decode(token.split(".")[1] + "==")
    cek = key("HD", 7).clear.cek.reveal()
    for spelling in (cek, cek.hex().encode(), base64.b64encode(cek), KEY, base64.b64encode(KEY)):
        assert spelling not in payload
    assert json.loads(payload)


@pytest.mark.parametrize("count", [1, 16, 128, 620])
def test_a_message_stays_within_its_limit(count: int) -> None:
    """It travels as a header: what does not fit is left out from the end, and the first keys are always there."""
    keys = [msgspec.structs.replace(key(), kid=number.to_bytes(16, "big")) for number in range(1, count + 1)]
    given = granted(Policy(can_play=True), *keys, system=DrmSystem.FAIRPLAY)
    token = license_message(given, key=Secret(KEY), key_id=KEY_ID, expires_ms=EXPIRES_MS)
    assert len(token) <= MAX_MESSAGE
    inline = jwt.decode(token, KEY, algorithms=["HS256"])["message"]["content_keys_source"]["inline"]
    assert [each["id"] for each in inline] == [str(UUID(bytes=each.kid)) for each in keys[: len(inline)]]
    assert len(inline) == count or len(token) > MAX_MESSAGE * 0.9
