"""
A policy in the words of Axinom's entitlement message: license terms, and what each track demands of a device. Pure.

What the message cannot say is refused (`unsayable`): a license is never looser than its policy.

Source: Axinom's documentation (Entitlement Message: License Configuration, Content Key Usage Policies);
Axinom/mosaic-media-template on GitHub (FairPlay's HDCP names, Widevine's HDCP versions); Microsoft's PlayReady test
server (HDCP type restriction). CGMS's `free` and `never` and HDCP 2.1 and 2.3 are spelt after the ones found: a service
that does not know them denies the license.
"""

import base64
from collections.abc import Iterable, Sequence
from typing import Final, assert_never

import msgspec

from keymill.core.merging import fairplay_terms, playready_terms, widevine_terms
from schemas.policy import Cgms, Hdcp, Policy, Renewal, SrmRule
from schemas.values import DrmSystem

_LEVELS: Final = ("", "SW_SECURE_CRYPTO", "SW_SECURE_DECODE", "HW_SECURE_CRYPTO", "HW_SECURE_DECODE", "HW_SECURE_ALL")
_HDCP: Final = {
    Hdcp.HDCP_V1: "1.0", Hdcp.HDCP_V2: "2.0", Hdcp.HDCP_V2_1: "2.1", Hdcp.HDCP_V2_2: "2.2", Hdcp.HDCP_V2_3: "2.3"
}  # fmt: skip
"""None is demanded by saying nothing."""
_CGMS: Final = {Cgms.COPY_FREE: "free", Cgms.COPY_ONCE: "once", Cgms.COPY_NEVER: "never"}
_FAIRPLAY_HDCP: Final = {-1: "NONE", 0: "TYPE0", 1: "TYPE1"}
_HDCP_TYPE: Final = "ABB2C6F1-E663-4625-A945-972D17B231E7"
_HDCP_TYPE_1: Final = base64.b64encode((1).to_bytes(4, "big")).decode()
"""PlayReady looks at it where the level of digital video, which stays as it was set, applies HDCP: from 271 on."""


class _Widevine(msgspec.Struct, frozen=True, omit_defaults=True):
    device_security_level: str | None = None
    cgms: str | None = msgspec.field(default=None, name="cgms-a")
    hdcp: str | None = None
    disable_analog_output: bool | None = None


class _Protection(msgspec.Struct, frozen=True):
    id: str
    config_data: str


class _PlayReady(msgspec.Struct, frozen=True, omit_defaults=True):
    min_device_security_level: int | None = None
    uncompressed_digital_video_opl: int | None = None
    analog_video_opl: int | None = None
    compressed_digital_audio_opl: int | None = None
    uncompressed_digital_audio_opl: int | None = None
    digital_video_output_protections: tuple[_Protection, ...] = ()


class _FairPlay(msgspec.Struct, frozen=True, omit_defaults=True):
    hdcp: str | None = None
    allow_airplay: bool | None = None
    allow_av_adapter: bool | None = None


class UsagePolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one track's key demands; keys name it."""

    name: str
    widevine: _Widevine | None = None
    playready: _PlayReady | None = None
    fairplay: _FairPlay | None = None


class _System(msgspec.Struct, frozen=True, omit_defaults=True):
    """One DRM system's part of the license terms; Widevine has more of them."""

    playback_duration: int | None = None
    real_time_expiration: bool | None = None
    real_time_duration_expiration: bool | None = None
    real_time_playback_expiration: bool | None = None
    allow_playback: bool | None = None
    allow_renewal: bool | None = None
    renewal_url: str | None = None
    renewal_delay: int | None = None
    renewal_retry_interval: int | None = None
    renewal_recovery: int | None = None
    renew_with_usage: bool | None = None
    include_all_entitled_keys: bool | None = None


class LicenseTerms(msgspec.Struct, frozen=True, omit_defaults=True):
    """How long a license holds, and whether it may be stored."""

    allow_persistence: bool | None = None
    duration: int | None = None
    widevine: _System | None = None
    playready: _System | None = None
    fairplay: _System | None = None


def unsayable(policy: Policy, system: DrmSystem, labels: Iterable[str]) -> str | None:
    """The first demand of the policy that the message has no words for; None: all is said."""
    if system is not DrmSystem.WIDEVINE:
        return None
    for label in labels:
        terms = widevine_terms(policy, label)
        if terms.hdcp is Hdcp.HDCP_NO_DIGITAL_OUTPUT:
            return f"hdcp {terms.hdcp.value}"
        if terms.hdcp_srm_rule is SrmRule.CURRENT_SRM:
            return f"hdcp_srm_rule {terms.hdcp_srm_rule.value}"
    return None


def policy_name(labels: Sequence[str]) -> str:
    """The name of the demands of a key that opens these tracks; no label has a slash."""
    return "/".join(labels)


def usage_policy(policy: Policy, system: DrmSystem, labels: Sequence[str]) -> UsagePolicy:
    """The demands in that DRM system of a key that opens these tracks."""
    name = policy_name(labels)
    match system:
        case DrmSystem.WIDEVINE:
            return UsagePolicy(name=name, widevine=_widevine(policy, labels))
        case DrmSystem.PLAYREADY:
            return UsagePolicy(name=name, playready=_playready(policy, labels))
        case DrmSystem.FAIRPLAY:
            return UsagePolicy(name=name, fairplay=_fairplay(policy, labels))
        case DrmSystem.CLEARKEY:
            raise ValueError("the proxy itself makes ClearKey licenses")
    assert_never(system)


def license_terms(policy: Policy, system: DrmSystem) -> LicenseTerms:
    """
    The three clocks, of which the service has two: `duration` from the license's birth, and `playback_duration`.

    A rental ends before playback begins, a license ends playback too; of both the shorter one ends playback. Where one
    switch says for both clocks whether they end playback, either one sets it.
    """
    ends = [duration for duration in (policy.license_duration_s, policy.rental_duration_s) if duration]
    playback, hard = policy.playback_duration_s or None, bool(policy.license_duration_s)
    if system is DrmSystem.WIDEVINE:
        part = _widevine_license(policy, hard=hard, playback=playback)
    else:
        part = _System(playback_duration=playback, real_time_expiration=hard or playback is not None)
    return LicenseTerms(
        allow_persistence=bool(policy.can_persist),
        duration=min(ends, default=None),
        widevine=part if system is DrmSystem.WIDEVINE else None,
        playready=part if system is DrmSystem.PLAYREADY else None,
        fairplay=part if system is DrmSystem.FAIRPLAY else None,
    )


def _widevine(policy: Policy, labels: Sequence[str]) -> _Widevine:
    terms = widevine_terms(policy, *labels)
    return _Widevine(
        device_security_level=_LEVELS[terms.security_level] if terms.security_level else None,
        cgms=_CGMS.get(terms.cgms) if terms.cgms else None,
        hdcp=_HDCP.get(terms.hdcp) if terms.hdcp else None,
        disable_analog_output=terms.disable_analog_output,
    )


def _playready(policy: Policy, labels: Sequence[str]) -> _PlayReady:
    terms = playready_terms(policy, *labels)
    return _PlayReady(
        min_device_security_level=terms.security_level,
        uncompressed_digital_video_opl=terms.digital_video_level,
        analog_video_opl=terms.analog_video_level,
        compressed_digital_audio_opl=terms.digital_audio_level,
        uncompressed_digital_audio_opl=terms.digital_audio_level,
        digital_video_output_protections=(
            (_Protection(id=_HDCP_TYPE, config_data=_HDCP_TYPE_1),) if terms.hdcp_type1 else ()
        ),
    )


def _fairplay(policy: Policy, labels: Sequence[str]) -> _FairPlay:
    terms = fairplay_terms(policy, *labels)
    return _FairPlay(
        hdcp=None if terms.hdcp_enforcement is None else _FAIRPLAY_HDCP[terms.hdcp_enforcement],
        allow_airplay=terms.allow_airplay,
        allow_av_adapter=terms.allow_av_adapter,
    )


def _widevine_license(policy: Policy, *, hard: bool, playback: int | None) -> _System:
    renewal = policy.renewal if policy.can_renew and policy.renewal else Renewal()
    return _System(
        playback_duration=playback,
        real_time_duration_expiration=hard,
        real_time_playback_expiration=True,
        allow_playback=True,
        allow_renewal=bool(policy.can_renew),
        renewal_url=renewal.server_url,
        renewal_delay=renewal.delay_s,
        renewal_retry_interval=renewal.retry_interval_s,
        renewal_recovery=renewal.recovery_duration_s,
        renew_with_usage=renewal.with_usage,
        include_all_entitled_keys=True,
    )
