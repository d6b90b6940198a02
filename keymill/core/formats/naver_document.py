"""
The bodies of NAVER Cloud Platform's policy API; a member that it does not have is refused by name.

Source: "Create policy", api.ncloud-docs.com, One Click Multi DRM.
"""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.policy import Cgms, SrmRule
from schemas.values import MAX_TEXT

Number = int | Annotated[str, Meta(pattern=r"^-?[0-9]{1,10}$")]


class NaverHdcp(StrEnum):
    """The API's HDCP names: Widevine's without HDCP_V2_3."""

    HDCP_NONE = "HDCP_NONE"
    HDCP_V1 = "HDCP_V1"
    HDCP_V2 = "HDCP_V2"
    HDCP_V2_1 = "HDCP_V2_1"
    HDCP_V2_2 = "HDCP_V2_2"
    HDCP_NO_DIGITAL_OUTPUT = "HDCP_NO_DIGITAL_OUTPUT"


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """An object of the API; members in the order in which its examples answer them."""


class WideVine(Part, frozen=True, kw_only=True):
    """Widevine's settings; `useYn` is true where it is absent."""

    use_yn: bool | None = None
    security_level: Number | None = None
    hdcp: NaverHdcp | None = None
    cgms: Cgms | None = None
    disable_analog_output_yn: bool | None = None
    hdcp_srm_rule: SrmRule | None = None
    device_revocation: bool | None = None


class PlayReady(Part, frozen=True, kw_only=True):
    """PlayReady's settings; `useYn` is true where it is absent."""

    use_yn: bool | None = None
    security_level: Number | None = None
    digital_video_protection_level: Number | None = None
    analog_video_protection_level: Number | None = None
    digital_audio_protection_level: Number | None = None
    hdcp_use_yn: bool | None = None


class FairPlay(Part, frozen=True, kw_only=True):
    """FairPlay's settings."""

    use_yn: bool
    hdcp_enforcement: Number | None = None
    allow_air_play: bool | None = None
    allow_av_adaptor: bool | None = None


class DrmPolicyConfig(Part, frozen=True, kw_only=True):
    """Settings per DRM system, in one of the two spellings."""

    wide_vine: WideVine | None = None
    play_ready: PlayReady | None = None
    fair_play: FairPlay | None = None
    widevine: WideVine | None = None
    playready: PlayReady | None = None
    fairplay: FairPlay | None = None


class PolicyRequest(Part, frozen=True, kw_only=True):
    """The body of POST and PUT."""

    policy_name: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
    persistent: bool | None = None
    rental_duration: Number | None = None
    playback_duration: Number | None = None
    drm_policy_config: DrmPolicyConfig
