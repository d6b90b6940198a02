"""
What a license allows, typed per DRM system: the content of policies, of overrides and of limits.

Every member may be absent: then the next one in the merge order decides (`keymill.core.merging`), and at the end the
license server's own default. What a document of another format says beyond these members stays in `source`.
"""

from enum import StrEnum
from typing import Final

from keymill.errors import InvalidRecord
from schemas.values import KID_SIZE, Record, check_label, check_labels, check_range, check_size

MAX_LONG: Final = 2**63 - 1
"""Avro's long; Widevine's durations are int64."""
MAX_DOCUMENT: Final = 32_768
"""Characters of an imported document; its record must fit its topic's 64 KiB."""
MAX_TOKEN: Final = 4096
"""Bytes of a session token; Widevine names no limit."""
MAX_URL: Final = 2048
PLAYREADY_LEVELS: Final = (150, 2000, 3000)
DIGITAL_VIDEO_LEVELS: Final = (100, 250, 270, 300, 301)
ANALOG_VIDEO_LEVELS: Final = (100, 150, 200, 201)
DIGITAL_AUDIO_LEVELS: Final = (100, 250, 300, 301)
"""Output protection levels of the NAVER policy API; 201 and 301 let nothing pass."""
HDCP_ENFORCEMENTS: Final = (-1, 0, 1)
"""FairPlay: none, type 0 (any version), type 1 (2.2 and above)."""


class Hdcp(StrEnum):
    """Widevine's digital output protection, the loosest first."""

    HDCP_NONE = "HDCP_NONE"
    HDCP_V1 = "HDCP_V1"
    HDCP_V2 = "HDCP_V2"
    HDCP_V2_1 = "HDCP_V2_1"
    HDCP_V2_2 = "HDCP_V2_2"
    HDCP_V2_3 = "HDCP_V2_3"
    HDCP_NO_DIGITAL_OUTPUT = "HDCP_NO_DIGITAL_OUTPUT"


class Cgms(StrEnum):
    """Analog copy protection (CGMS-A), the loosest first."""

    CGMS_NONE = "CGMS_NONE"
    COPY_FREE = "COPY_FREE"
    COPY_ONCE = "COPY_ONCE"
    COPY_NEVER = "COPY_NEVER"


class SrmRule(StrEnum):
    """Whether the newest system renewability message is needed, the loosest first."""

    HDCP_SRM_RULE_NONE = "HDCP_SRM_RULE_NONE"
    CURRENT_SRM = "CURRENT_SRM"


class WidevineTerms(Record, frozen=True, kw_only=True):
    """What Widevine demands of a device. `security_level` 1 (SW_SECURE_CRYPTO, the weakest) to 5 (HW_SECURE_ALL)."""

    security_level: int | None = None
    hdcp: Hdcp | None = None
    cgms: Cgms | None = None
    disable_analog_output: bool | None = None
    hdcp_srm_rule: SrmRule | None = None
    override_device_revocation: bool | None = None

    def __post_init__(self) -> None:
        check_range(self.security_level, 1, 5, "security_level")


class PlayReadyTerms(Record, frozen=True, kw_only=True):
    """What PlayReady demands of a device; `hdcp_type1` demands HDCP 2.2 and above where the levels apply HDCP."""

    security_level: int | None = None
    digital_video_level: int | None = None
    analog_video_level: int | None = None
    digital_audio_level: int | None = None
    hdcp_type1: bool | None = None

    def __post_init__(self) -> None:
        _check_one_of(self.security_level, PLAYREADY_LEVELS, "security_level")
        _check_one_of(self.digital_video_level, DIGITAL_VIDEO_LEVELS, "digital_video_level")
        _check_one_of(self.analog_video_level, ANALOG_VIDEO_LEVELS, "analog_video_level")
        _check_one_of(self.digital_audio_level, DIGITAL_AUDIO_LEVELS, "digital_audio_level")


class FairPlayTerms(Record, frozen=True, kw_only=True):
    """What FairPlay demands of a device."""

    hdcp_enforcement: int | None = None
    allow_airplay: bool | None = None
    allow_av_adapter: bool | None = None

    def __post_init__(self) -> None:
        _check_one_of(self.hdcp_enforcement, HDCP_ENFORCEMENTS, "hdcp_enforcement")


class TrackTerms(Record, frozen=True, kw_only=True):
    """Demands of one track type, over those of the whole policy. `kid`, if given, must be the track's."""

    label: str
    kid: bytes | None = None
    widevine: WidevineTerms | None = None
    playready: PlayReadyTerms | None = None
    fairplay: FairPlayTerms | None = None

    def __post_init__(self) -> None:
        check_label(self.label, "tracks.label")
        check_size(self.kid, KID_SIZE, "tracks.kid")


class Renewal(Record, frozen=True, kw_only=True):
    """How a license is renewed; seconds. Only looked at where `can_renew` is true."""

    server_url: str | None = None
    delay_s: int | None = None
    retry_interval_s: int | None = None
    recovery_duration_s: int | None = None
    with_usage: bool | None = None

    def __post_init__(self) -> None:
        if self.server_url is not None and len(self.server_url) > MAX_URL:
            raise InvalidRecord(f"renewal.server_url must have at most {MAX_URL} characters", field="renewal")
        for name in ("delay_s", "retry_interval_s", "recovery_duration_s"):
            check_range(getattr(self, name), 0, MAX_LONG, f"renewal.{name}")


class SessionInit(Record, frozen=True, kw_only=True):
    """Data that Widevine passes into the license; bytes, base64 in JSON."""

    provider_session_token: bytes | None = None
    provider_client_token: bytes | None = None
    override_provider_client_token: bool | None = None

    def __post_init__(self) -> None:
        for name in ("provider_session_token", "provider_client_token"):
            if len(getattr(self, name) or b"") > MAX_TOKEN:
                raise InvalidRecord(f"session_init.{name} must have at most {MAX_TOKEN} bytes", field="session_init")


class WidevineRequest(Record, frozen=True, kw_only=True):
    """What a request to Widevine's license server names beside keys and policy."""

    content_id: bytes | None = None
    provider: str | None = None
    policy_name: str | None = None
    use_policy_overrides_exclusively: bool | None = None


class PolicySource(Record, frozen=True, kw_only=True):
    """The document that a policy was imported from, as JSON text, so that its export is the same document."""

    format: str
    document: str

    def __post_init__(self) -> None:
        if len(self.document) > MAX_DOCUMENT:
            raise InvalidRecord(f"source.document must have at most {MAX_DOCUMENT} characters", field="source")


class Policy(Record, frozen=True, kw_only=True, omit_defaults=True):
    """
    What a license allows. Durations in seconds, 0 is unlimited.

    `allowed_tracks` None releases every track. `tracks`, where it is not None, must name every track that the asset's
    event declared, and withholds those that were only defaulted. A license needs `can_play` true.
    """

    can_play: bool | None = None
    can_persist: bool | None = None
    can_renew: bool | None = None
    license_duration_s: int | None = None
    rental_duration_s: int | None = None
    playback_duration_s: int | None = None
    renewal: Renewal | None = None
    allowed_tracks: tuple[str, ...] | None = None
    tracks: tuple[TrackTerms, ...] | None = None
    widevine: WidevineTerms | None = None
    playready: PlayReadyTerms | None = None
    fairplay: FairPlayTerms | None = None
    session_init: SessionInit | None = None
    widevine_request: WidevineRequest | None = None
    source: PolicySource | None = None

    def __post_init__(self) -> None:
        for name in ("license_duration_s", "rental_duration_s", "playback_duration_s"):
            check_range(getattr(self, name), 0, MAX_LONG, name)
        check_labels(self.allowed_tracks, "allowed_tracks")
        named = [track.label for track in self.tracks or ()]
        check_labels(tuple(named), "tracks")
        if len(set(named)) != len(named):
            raise InvalidRecord("tracks names a label twice", field="tracks")


def _check_one_of(value: int | None, allowed: tuple[int, ...], field: str) -> None:
    if value is not None and value not in allowed:
        raise InvalidRecord(f"{field} must be one of {', '.join(map(str, allowed))}", field=field)
