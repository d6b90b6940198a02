"""What Azure's Widevine license template says about a policy, and a policy in its words."""

from typing import Any, Final

from msgspec import UNSET

from keymill.core.formats.azure_document import (
    AllowedTrackTypes,
    Document,
    KeySpec,
    OutputProtection,
    PolicyOverrides,
    SessionInitialization,
)
from keymill.errors import InvalidRecord
from schemas.policy import Policy, Renewal, SessionInit, TrackTerms, WidevineRequest, WidevineTerms
from schemas.values import check_label

ALLOWED: Final = {AllowedTrackTypes.SD_ONLY: ("SD", "AUDIO"), AllowedTrackTypes.SD_HD: ("SD", "HD", "AUDIO")}
RENEWAL: Final = {
    "renewal_recovery_duration_seconds": "recovery_duration_s",
    "renewal_server_url": "server_url",
    "renewal_delay_seconds": "delay_s",
    "renewal_retry_interval_seconds": "retry_interval_s",
    "renew_with_usage": "with_usage",
}
"""Only used where `can_renew` is true."""
_POLICY: Final = {
    "can_play": "can_play",
    "can_persist": "can_persist",
    "can_renew": "can_renew",
    "rental_duration_seconds": "rental_duration_s",
    "playback_duration_seconds": "playback_duration_s",
    "license_duration_seconds": "license_duration_s",
}
_REQUEST: Final = ("content_id", "provider", "policy_name", "use_policy_overrides_exclusively")


def policy_of(document: Document) -> Policy:
    """
    What *document* says, without its defaults; specs without a track type are left to the caller.

    Raises:
        InvalidRecord: names the member, in the document's words.
    """
    specs = document.content_key_specs
    if document.allowed_track_types is not UNSET and specs is not UNSET:
        text = "allowed_track_types and content_key_specs exclude each other: drop allowed_track_types"
        raise InvalidRecord(f"{text}, since content_key_specs says the tracks one by one", field="allowed_track_types")
    if specs == ():
        raise InvalidRecord("content_key_specs is empty: name every track, or leave it out", field="content_key_specs")
    overrides = {} if document.policy_overrides is UNSET else document.policy_overrides.said()
    renewal = {ours: overrides[theirs] for theirs, ours in RENEWAL.items() if theirs in overrides}
    request = {member: value for member, value in document.said().items() if member in _REQUEST}
    session = None if document.session_init is UNSET else SessionInit(**document.session_init.said())
    return Policy(
        **{ours: overrides[theirs] for theirs, ours in _POLICY.items() if theirs in overrides},
        renewal=Renewal(**renewal) if renewal else None,
        allowed_tracks=None if document.allowed_track_types is UNSET else ALLOWED[document.allowed_track_types],
        tracks=None if specs is UNSET else _tracks(specs),
        session_init=session,
        widevine_request=WidevineRequest(**request) if request else None,
    )


def can_play(document: Document) -> bool:
    """Of a document that no other policy stands behind: true without policy_overrides, in them false unless said."""
    return True if document.policy_overrides is UNSET else document.policy_overrides.can_play is True


def terms_of(spec: KeySpec) -> WidevineTerms | None:
    """What a spec demands of the device."""
    protection = spec.required_output_protection
    if spec.security_level is UNSET and protection is UNSET:
        return None
    hdcp = UNSET if protection is UNSET else protection.hdcp
    return WidevineTerms(security_level=or_none(spec.security_level), hdcp=or_none(hdcp))


def document_of(policy: Policy) -> Document:
    """The document that says most of *policy*."""
    labels = set(policy.allowed_tracks or ())
    allowed = next((each for each, released in ALLOWED.items() if set(released) == labels), UNSET)
    overrides = {theirs: getattr(policy, ours) for theirs, ours in _POLICY.items()}
    overrides |= {theirs: getattr(policy.renewal, ours, None) for theirs, ours in RENEWAL.items()}
    said = {member: value for member, value in overrides.items() if value is not None}
    request = {member: getattr(policy.widevine_request, member, None) for member in _REQUEST}
    return Document(
        **{member: value for member, value in request.items() if value is not None},
        allowed_track_types=allowed if policy.tracks is None else UNSET,
        content_key_specs=tuple(_spec(track) for track in policy.tracks) if policy.tracks else UNSET,
        policy_overrides=UNSET if said == {"can_play": True} else PolicyOverrides(**said),
        session_init=UNSET if policy.session_init is None else _session(policy.session_init),
    )


def or_none(value: Any) -> Any:
    """A member, or None where it is not there."""
    return None if value is UNSET else value


def _tracks(specs: tuple[KeySpec, ...]) -> tuple[TrackTerms, ...]:
    tracks: dict[str, TrackTerms] = {}
    for spec in specs:
        if isinstance(spec.track_type, str):
            label = check_label(spec.track_type, "content_key_specs.track_type")
            if label in tracks:
                raise InvalidRecord(f"content_key_specs names {label} twice", field="content_key_specs.track_type")
            tracks[label] = TrackTerms(label=label, kid=or_none(spec.key_id), widevine=terms_of(spec))
    return tuple(tracks.values())


def _spec(track: TrackTerms) -> KeySpec:
    terms = track.widevine or WidevineTerms()
    protection = OutputProtection() if terms.hdcp is None else OutputProtection(hdcp=terms.hdcp)
    return KeySpec(
        track_type=track.label,
        security_level=UNSET if terms.security_level is None else terms.security_level,
        required_output_protection=UNSET if terms.hdcp is None else protection,
        key_id=UNSET if track.kid is None else track.kid,
    )


def _session(session: SessionInit) -> SessionInitialization:
    said = {name: value for name in session.__struct_fields__ if (value := getattr(session, name)) is not None}
    return SessionInitialization(**said)
