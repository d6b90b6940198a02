"""Azure's Widevine template: every member, its defaults, and each way in which the page is misread."""

import base64
import json

import pytest

from keymill.core.formats.azure_document import _MEMBERS
from keymill.core.formats.azure_widevine import MessageKey, read_message, read_template
from keymill.core.formats.table import export_policy
from keymill.core.policy import uncovered
from keymill.errors import InvalidRecord
from keymill.secret import Secret
from schemas.policy import (
    Hdcp,
    Policy,
    Renewal,
    SessionInit,
    TrackTerms,
    WidevineRequest,
    WidevineTerms,
)
from tests.builders import folded, ingest

KID = bytes(range(16))
CEK = bytes(range(16, 32))
EVERYTHING = {
    "content_id": base64.b64encode(b"film").decode(),
    "provider": "widevine_test",
    "policy_name": "gold",
    "content_key_specs": [
        {
            "track_type": "SD",
            "security_level": 1,
            "required_output_protection": {"hdcp": "HDCP_NONE"},
            "key_id": base64.b64encode(KID).decode(),
        },
        {"track_type": "HD", "security_level": 5, "required_output_protection": {"hdcp": "HDCP_V2"}},
        {"track_type": "AUDIO"},
    ],
    "use_policy_overrides_exclusively": False,
    "policy_overrides": {
        "can_play": True,
        "can_persist": True,
        "can_renew": True,
        "rental_duration_seconds": 86400,
        "playback_duration_seconds": 0,
        "license_duration_seconds": 9223372036854775807,
        "renewal_recovery_duration_seconds": 60,
        "renewal_server_url": "https://renew.example/",
        "renewal_delay_seconds": 30,
        "renewal_retry_interval_seconds": 10,
        "renew_with_usage": True,
    },
    "session_init": {
        "provider_session_token": "c2Vzc2lvbg==",
        "provider_client_token": "Y2xpZW50",
        "override_provider_client_token": True,
    },
}


def template(document):
    return read_template(json.dumps(document).encode())


def refused(document, read=template):
    with pytest.raises(InvalidRecord) as refusal:
        read(document)
    return refusal.value.field, str(refusal.value)


def test_every_member_is_kept():
    """Each of the document's members has its place in the policy, and none brings a warning."""
    imported = template(EVERYTHING)
    assert imported.warnings == () and imported.name == "gold"
    assert imported.policy == Policy(
        can_play=True,
        can_persist=True,
        can_renew=True,
        license_duration_s=2**63 - 1,
        rental_duration_s=86400,
        playback_duration_s=0,
        renewal=Renewal(
            server_url="https://renew.example/",
            delay_s=30,
            retry_interval_s=10,
            recovery_duration_s=60,
            with_usage=True,
        ),
        tracks=(
            TrackTerms(label="SD", kid=KID, widevine=WidevineTerms(security_level=1, hdcp=Hdcp.HDCP_NONE)),
            TrackTerms(label="HD", widevine=WidevineTerms(security_level=5, hdcp=Hdcp.HDCP_V2)),
            TrackTerms(label="AUDIO"),
        ),
        session_init=SessionInit(
            provider_session_token=b"session", provider_client_token=b"client", override_provider_client_token=True
        ),
        widevine_request=WidevineRequest(
            content_id=b"film",
            provider="widevine_test",
            policy_name="gold",
            use_policy_overrides_exclusively=False,
        ),
        source=imported.policy.source,
    )


def test_export_is_the_import_member_for_member():
    """Order, spacing and all: the document itself is kept."""
    text = json.dumps(EVERYTHING, indent=5)
    assert export_policy("azure-widevine", read_template(text.encode()).policy, "x").decode() == text


@pytest.mark.parametrize("document", [{}, {"allowed_track_types": "SD_HD"}, {"provider": "x"}])
def test_without_policy_overrides_it_plays(document):
    """`{}` is offered as "all defaults", so it is playable, and says so without a warning."""
    imported = template(document)
    assert imported.policy.can_play is True and imported.policy.can_persist is None and imported.warnings == ()


@pytest.mark.parametrize("overrides", [{}, {"can_persist": True}, {"license_duration_seconds": 60}])
def test_policy_overrides_without_can_play_is_false_and_warned_of(overrides):
    """The documented default of can_play holds where policy_overrides is there, and nobody is surprised."""
    imported = template({"policy_overrides": overrides})
    assert imported.policy.can_play is False
    assert len(imported.warnings) == 1 and "can_play" in imported.warnings[0]


def test_track_types_and_specs_together_are_refused():
    """As the page's own .NET example has them; the message says which to drop."""
    example = {
        "allowed_track_types": "SD_HD",
        "content_key_specs": [
            {"required_output_protection": {"hdcp": "HDCP_NONE"}, "security_level": 1, "track_type": "SD"}
        ],
        "policy_overrides": {"can_play": True, "can_persist": True, "can_renew": False},
    }
    field, message = refused(example)
    assert field == "allowed_track_types" and "drop allowed_track_types" in message
    del example["allowed_track_types"]
    assert template(example).policy.can_persist is True


@pytest.mark.parametrize(
    ("name", "labels"), [("SD_ONLY", ("SD", "AUDIO")), ("SD_HD", ("SD", "HD", "AUDIO")), (None, None)]
)
def test_allowed_track_types(name, labels):
    """Sound is always released, all tracks where nothing is said."""
    assert template({"allowed_track_types": name} if name else {}).policy.allowed_tracks == labels


def test_specs_must_name_every_declared_track():
    """A template that leaves one out shows where it meets the asset; a spec for a track it lacks is ignored."""
    policy = template({"content_key_specs": [{"track_type": "SD"}, {"track_type": "UHD1"}]}).policy
    assert uncovered(folded(ingest("SD", "HD", "AUDIO")), policy) == ("HD", "AUDIO")
    assert uncovered(folded(ingest("SD")), policy) == ()


@pytest.mark.parametrize("hdcp", Hdcp)
def test_hdcp_has_all_names(hdcp):
    """The page prints three of Widevine's seven; all are taken."""
    spec = {"track_type": "SD", "required_output_protection": {"hdcp": hdcp.value}}
    assert template({"content_key_specs": [spec]}).policy.tracks[0].widevine.hdcp is hdcp


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"payload": "YQ=="}, "payload"),
        ({"content_key_specs": [{"track_type": "SD", "key": base64.b64encode(CEK).decode()}]}, "content_key_specs.key"),
    ],
)
def test_a_template_holds_no_challenge_and_no_key(document, field):
    """Both belong to a request."""
    assert refused(document)[0] == field


@pytest.mark.parametrize(
    ("document", "right"),
    [
        ({"policy_overrides": {"can persist": True}}, "spelt can_persist"),
        ({"policy_overrides": {"can play": True}}, "spelt can_play"),
        ({"can_play": True}, "spelt policy_overrides.can_play"),
        (
            {"content_key_specs": [{"track_type": "SD", "required_output_protection": {"hdc": "HDCP_V1"}}]},
            "spelt hdcp",
        ),
        (
            {"content_key_specs": [{"track_type": "SD", "required_output_protection.hdc": "HDCP_V1"}]},
            "spelt content_key_specs.required_output_protection.hdcp",
        ),
        ({"content_key_specs": [{"track_type": "SD", "hdcp": "HDCP_V1"}]}, "required_output_protection.hdcp"),
        ({"content_key_spec": []}, "spelt content_key_specs"),
        ({"policy_overrides": {"license_duration_second": 1}}, "spelt license_duration_seconds"),
    ],
)
def test_slips_are_refused_with_the_right_name(document, right):
    """The page's own typing slips among them."""
    assert right in refused(document)[1]


@pytest.mark.parametrize("where", ["", "policy_overrides", "session_init", "content_key_specs"])
def test_unknown_members_are_refused_by_name(where):
    """Not ignored, wherever they stand."""
    part = {"xyzzy": 1}
    document = {where: [part | {"track_type": "SD"}] if where.endswith("specs") else part} if where else part
    field, message = refused(document)
    assert field == (f"{where}.xyzzy" if where else "xyzzy") and "'xyzzy'" in message and "spelt" not in message


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"policy_overrides": {"can_play": "true"}}, "policy_overrides.can_play"),
        ({"policy_overrides": {"can_play": None}}, "policy_overrides.can_play"),
        ({"policy_overrides": {"license_duration_seconds": -1}}, "policy_overrides.license_duration_seconds"),
        ({"policy_overrides": {"license_duration_seconds": 2**63}}, "policy_overrides.license_duration_seconds"),
        ({"policy_overrides": {"rental_duration_seconds": "60"}}, "policy_overrides.rental_duration_seconds"),
        ({"policy_overrides": {"renewal_server_url": "x" * 2049}}, "policy_overrides.renewal_server_url"),
        ({"policy_overrides": None}, "policy_overrides"),
        ({"allowed_track_types": "HD_ONLY"}, "allowed_track_types"),
        ({"content_key_specs": []}, "content_key_specs"),
        ({"content_key_specs": [{"track_type": "SD", "security_level": 0}]}, "content_key_specs.security_level"),
        ({"content_key_specs": [{"track_type": "SD", "security_level": 6}]}, "content_key_specs.security_level"),
        ({"content_key_specs": [{"track_type": "8K"}]}, "content_key_specs.track_type"),
        ({"content_key_specs": [{"track_type": "SD"}, {"track_type": "SD"}]}, "content_key_specs.track_type"),
        ({"content_key_specs": [{"key_id": "AAECAwQFBgcICQoLDA0ODw=="}]}, "content_key_specs.track_type"),
        ({"content_key_specs": [{"track_type": "SD", "key_id": "AAEC"}]}, "content_key_specs.key_id"),
        ({"content_id": "not base64"}, "content_id"),
        ({"session_init": {"provider_client_token": "A" * 8000}}, "session_init.provider_client_token"),
        ([], "document"),
        ({"provider": "x" * 40_000}, "source"),
    ],
)
def test_what_is_wrong_is_named_in_the_documents_words(document, field):
    """Types, ranges and names are checked one by one."""
    assert refused(document)[0] == field


@pytest.mark.parametrize("text", ["", "{“payload”:1}", "[" * 100_000, '{"provider": "\\ud800"}'])
def test_what_is_no_json_is_refused(text):
    """The page's own listing, with its typographic quotes, among it."""
    with pytest.raises(InvalidRecord):
        read_template(text.encode())


def test_renewal_without_can_renew_is_warned_of():
    """Those fields are only used if can_renew is true; they are kept."""
    imported = template({"policy_overrides": {"can_play": True, "renewal_delay_seconds": 5, "renew_with_usage": True}})
    assert imported.policy.renewal == Renewal(delay_s=5, with_usage=True)
    assert [w for w in imported.warnings if "can_renew" in w and "renewal_delay_seconds, renew_with_usage" in w]
    renewed = {"can_play": True, "can_renew": True, "renewal_delay_seconds": 5}
    assert template({"policy_overrides": renewed}).warnings == ()


def test_parse_only_in_a_template_is_warned_of():
    """It is about one request."""
    assert "parse_only" in template({"parse_only": True}).warnings[0]


def request(document):
    return read_message(json.dumps(document).encode())


def test_a_request_has_its_challenge_keys_and_switches():
    """What a request alone may say is read beside the policy."""
    spec = {"track_type": "SD", "key": base64.b64encode(CEK).decode(), "key_id": base64.b64encode(KID).decode()}
    message = request({"payload": "Y2hhbGxlbmdl", "content_key_specs": [spec], "parse_only": True})
    assert (message.payload, message.parse_only, message.exclusively) == (b"challenge", True, False)
    assert message.injected == (MessageKey(cek=Secret(CEK), label="SD", kid=KID),)
    assert message.policy == Policy(tracks=(TrackTerms(label="SD", kid=KID),))
    assert request({}).payload is None
    assert CEK.hex() not in repr(message) and "challenge" not in repr(message)


def test_a_request_says_no_more_than_it_says():
    """What is absent is the stored policy's to say: can_play too, where policy_overrides leaves it out."""
    assert request({}).policy == Policy()
    assert request({"policy_overrides": {"can_persist": False}}).policy == Policy(can_persist=False)
    assert request({"policy_overrides": {"can_play": False}}).policy == Policy(can_play=False)


@pytest.mark.parametrize(
    ("document", "can_play"),
    [({}, True), ({"policy_overrides": {}}, False), ({"policy_overrides": {"can_play": True}}, True)],
)
def test_an_exclusive_request_has_the_documents_defaults(document, can_play):
    """Nothing stands behind it then, so what a template means by absence it means too; it says no more than it did."""
    message = request(document | {"use_policy_overrides_exclusively": True})
    assert message.exclusively and message.can_play is can_play
    assert message.policy.can_play is document.get("policy_overrides", {}).get("can_play")


def test_a_spec_may_name_its_track_by_key_id():
    """The asset's KIDs say which track it is; a spec for a KID that it lacks says nothing."""
    spec = {"key_id": base64.b64encode(KID).decode(), "key": base64.b64encode(CEK).decode(), "security_level": 3}
    message = request({"content_key_specs": [spec]})
    assert message.injected == (MessageKey(cek=Secret(CEK), kid=KID),)
    terms = TrackTerms(label="HD", kid=KID, widevine=WidevineTerms(security_level=3))
    assert message.resolved({KID: ["HD"]}).tracks == (terms,)
    assert message.resolved({}).tracks == ()
    twice = request({"content_key_specs": [spec, {"track_type": "HD"}]})
    assert refused(None, lambda _: twice.resolved({KID: ["HD"]}))[0] == "content_key_specs.key_id"
    nothing = {"content_key_specs": [{"key": base64.b64encode(CEK).decode()}]}
    assert refused(nothing, request)[0] == "content_key_specs.track_type"


def test_a_key_has_sixteen_bytes():
    """Another length is refused before anybody compares it."""
    short = {"content_key_specs": [{"track_type": "SD", "key": "AAEC"}]}
    assert refused(short, request)[0] == "content_key_specs.key"


def test_every_printed_member_is_known():
    """The tables of the page, row by row."""
    printed = """payload content_id provider policy_name allowed_track_types content_key_specs
        use_policy_overrides_exclusively policy_overrides session_init parse_only track_type security_level
        required_output_protection hdcp key key_id can_play can_persist can_renew license_duration_seconds
        rental_duration_seconds playback_duration_seconds renewal_server_url renewal_delay_seconds
        renewal_retry_interval_seconds renewal_recovery_duration_seconds renew_with_usage provider_session_token
        provider_client_token override_provider_client_token"""
    assert set(printed.split()) == set(_MEMBERS)
