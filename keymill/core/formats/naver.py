"""
The policy of NAVER Cloud Platform's One Click Multi DRM: the body of its policy API to a policy and back. Pure.

Both spellings of the DRM systems are read (the API's table says wideVine, its examples say widevine), numbers as
numbers or as text; written are the table's spelling and numbers. One policy covers all tracks.

    useYn false       the system's settings are not applied, its defaults are, and licenses still issue
    deviceRevocation  true gives licenses to revoked devices too
    disableAnalogOutputYn  true disables, whatever the table's words may suggest

Source: "Create policy", api.ncloud-docs.com, One Click Multi DRM.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from keymill.core.bodies import read_json
from keymill.core.formats.contract import Format, Imported
from keymill.core.formats.naver_document import (
    DrmPolicyConfig,
    FairPlay,
    NaverHdcp,
    PlayReady,
    PolicyRequest,
    WideVine,
)
from keymill.errors import InvalidRecord
from schemas.policy import (
    ANALOG_VIDEO_LEVELS,
    DIGITAL_AUDIO_LEVELS,
    DIGITAL_VIDEO_LEVELS,
    HDCP_ENFORCEMENTS,
    PLAYREADY_LEVELS,
    FairPlayTerms,
    Hdcp,
    PlayReadyTerms,
    Policy,
    WidevineTerms,
)
from schemas.values import MAX_INT

NAME: Final = "naver"
SPELLINGS: Final = {"wideVine": "widevine", "playReady": "playready", "fairPlay": "fairplay"}
_SECURITY_LEVELS: Final = (1, 2, 3, 4, 5)


def read(data: bytes) -> Imported:
    """A policy and its name; raises `InvalidRecord` naming the member in the API's words."""
    request = read_json(data, PolicyRequest)
    config = request.drm_policy_config
    _check_spelling(config)
    persistent = request.persistent is True
    rental_s = _duration(request.rental_duration, "rentalDuration")
    if rental_s and not persistent:
        raise InvalidRecord("rentalDuration needs persistent: true", field="rentalDuration")
    policy = Policy(
        can_play=True,
        can_persist=persistent,
        rental_duration_s=rental_s,
        playback_duration_s=_duration(request.playback_duration, "playbackDuration"),
        widevine=_widevine(config.wide_vine or config.widevine),
        playready=_playready(config.play_ready or config.playready),
        fairplay=_fairplay(config.fair_play or config.fairplay),
    )
    return Imported(policy=policy, name=request.policy_name)


def request_of(policy: Policy, name: str) -> PolicyRequest:
    """What the API says of a policy: the body that makes it, with numbers as numbers."""
    return PolicyRequest(
        policy_name=name,
        persistent=policy.can_persist is True,
        rental_duration=policy.rental_duration_s or 0,
        playback_duration=policy.playback_duration_s or 0,
        drm_policy_config=DrmPolicyConfig(
            wide_vine=_wide_vine(policy.widevine),
            play_ready=_play_ready(policy.playready),
            fair_play=_fair_play(policy.fairplay),
        ),
    )


def write(policy: Policy, name: str) -> bytes:
    """The body that makes the policy."""
    return msgspec.json.format(msgspec.json.encode(request_of(policy, name)), indent=2) + b"\n"


FORMAT: Final = Format(name=NAME, read=read, write=write)


def _widevine(given: WideVine | None) -> WidevineTerms | None:
    if given is None:
        return None
    terms = WidevineTerms(
        security_level=_one_of(given.security_level, _SECURITY_LEVELS, "wideVine.securityLevel"),
        hdcp=None if given.hdcp is None else Hdcp(given.hdcp),
        cgms=given.cgms,
        disable_analog_output=given.disable_analog_output_yn,
        hdcp_srm_rule=given.hdcp_srm_rule,
        override_device_revocation=given.device_revocation,
    )
    return None if given.use_yn is False else terms


def _playready(given: PlayReady | None) -> PlayReadyTerms | None:
    if given is None:
        return None
    video, analog, audio = (
        _one_of(getattr(given, f"{name}_protection_level"), levels, f"playReady.{spelt}ProtectionLevel")
        for name, levels, spelt in (
            ("digital_video", DIGITAL_VIDEO_LEVELS, "digitalVideo"),
            ("analog_video", ANALOG_VIDEO_LEVELS, "analogVideo"),
            ("digital_audio", DIGITAL_AUDIO_LEVELS, "digitalAudio"),
        )
    )
    terms = PlayReadyTerms(
        security_level=_one_of(given.security_level, PLAYREADY_LEVELS, "playReady.securityLevel"),
        digital_video_level=video,
        analog_video_level=analog,
        digital_audio_level=audio,
        hdcp_type1=given.hdcp_use_yn,
    )
    return None if given.use_yn is False else terms


def _fairplay(given: FairPlay | None) -> FairPlayTerms | None:
    if given is None:
        return None
    terms = FairPlayTerms(
        hdcp_enforcement=_one_of(given.hdcp_enforcement, HDCP_ENFORCEMENTS, "fairPlay.hdcpEnforcement"),
        allow_airplay=given.allow_air_play,
        allow_av_adapter=given.allow_av_adaptor,
    )
    return terms if given.use_yn else None


def _wide_vine(terms: WidevineTerms | None) -> WideVine:
    if terms is None:
        return WideVine(use_yn=False)
    return WideVine(
        use_yn=True,
        security_level=terms.security_level,
        hdcp=NaverHdcp(terms.hdcp) if terms.hdcp in set(map(str, NaverHdcp)) else None,
        cgms=terms.cgms,
        disable_analog_output_yn=terms.disable_analog_output,
        hdcp_srm_rule=terms.hdcp_srm_rule,
        device_revocation=terms.override_device_revocation,
    )


def _play_ready(terms: PlayReadyTerms | None) -> PlayReady:
    if terms is None:
        return PlayReady(use_yn=False)
    return PlayReady(
        use_yn=True,
        security_level=terms.security_level,
        digital_video_protection_level=terms.digital_video_level,
        analog_video_protection_level=terms.analog_video_level,
        digital_audio_protection_level=terms.digital_audio_level,
        hdcp_use_yn=terms.hdcp_type1,
    )


def _fair_play(terms: FairPlayTerms | None) -> FairPlay:
    if terms is None:
        return FairPlay(use_yn=False)
    return FairPlay(
        use_yn=True,
        hdcp_enforcement=terms.hdcp_enforcement,
        allow_air_play=terms.allow_airplay,
        allow_av_adaptor=terms.allow_av_adapter,
    )


def _check_spelling(config: DrmPolicyConfig) -> None:
    used = {name for name in config.__struct_fields__ if getattr(config, name) is not None}
    examples = used & set(SPELLINGS.values())
    if examples and used - examples:
        table, printed = ", ".join(SPELLINGS), ", ".join(SPELLINGS.values())
        text = f"the DRM systems are spelt {table}, or {printed}: not both in one body"
        raise InvalidRecord(text, field="drmPolicyConfig")


def _number(value: int | str | None, field: str) -> int | None:
    if isinstance(value, str) and not value[-1:].isdigit():  # `$` lets a line's end pass
        raise InvalidRecord(f"{field} must be a number", field=field)
    return int(value) if isinstance(value, str) else value


def _duration(value: int | str | None, field: str) -> int:
    number = _number(value, field) or 0
    if not 0 <= number <= MAX_INT:
        raise InvalidRecord(f"{field} must be 0 to {MAX_INT}", field=field)
    return number


def _one_of(value: int | str | None, allowed: Sequence[int], member: str) -> int | None:
    field = f"drmPolicyConfig.{member}"
    number = _number(value, field)
    if number is not None and number not in allowed:
        raise InvalidRecord(f"{field} must be one of {', '.join(map(str, allowed))}", field=field)
    return number
