"""
Azure Media Services' Widevine license template, as a stored policy and as a license request.

    read_template   a stored policy: `{}`, or no policy_overrides, plays; policy_overrides without can_play does not,
                    as documented; payload and key belong to requests and are refused
    read_message    a request: what it says about policy is an override, and what it does not say the stored policy does
    write           a policy as a template

0 is unlimited for every duration. SD_ONLY releases SD and AUDIO, SD_HD releases SD, HD and AUDIO, neither all;
content_key_specs must name every track that the asset declared (`keymill.core.policy.uncovered`).
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import UNSET

from keymill.core.formats import azure_document
from keymill.core.formats.azure_document import Document, KeySpec, PolicyOverrides
from keymill.core.formats.azure_policy import RENEWAL, can_play, document_of, or_none, policy_of, terms_of
from keymill.core.formats.contract import Format, Imported
from keymill.errors import InvalidRecord
from keymill.secret import Secret
from schemas.policy import Policy, PolicySource, TrackTerms, WidevineTerms
from schemas.values import Record

NAME: Final = "azure-widevine"
_REQUEST_ALONE: Final = "belongs to a license request: leave it out of a stored template"


class MessageKey(Record, frozen=True, kw_only=True):
    """A content key that a request brings; `label`, `kid` or both say whose it is."""

    cek: Secret
    label: str | None = None
    kid: bytes | None = None


class KidTerms(Record, frozen=True, kw_only=True):
    """A spec that names its track by `key_id` alone."""

    kid: bytes
    widevine: WidevineTerms | None = None


class WidevineMessage(Record, frozen=True, kw_only=True):
    """
    A license request in the document's form.

    Args:
        payload: the challenge.
        policy: what the request says, no more: `can_play` is None unless it is said.
        by_kid: specs without a track type, not in `policy.tracks` yet; `resolved` puts them there.
        injected: content keys, which must be the stored ones.
        exclusively: the overrides are to hold alone, and nothing of a stored policy.
        can_play: what the document comes to where they do.
        parse_only: no license is wanted, only what the challenge tells.
    """

    payload: bytes | None
    policy: Policy
    by_kid: tuple[KidTerms, ...] = ()
    injected: tuple[MessageKey, ...] = ()
    exclusively: bool = False
    can_play: bool = True
    parse_only: bool = False

    def __repr__(self) -> str:
        return f"WidevineMessage(parse_only={self.parse_only}, exclusively={self.exclusively})"

    @property
    def kids(self) -> tuple[bytes, ...]:
        """Every KID that the message names, each once, in its order."""
        named = [track.kid for track in self.policy.tracks or ()]
        named += [spec.kid for spec in self.by_kid]
        named += [sent.kid for sent in self.injected]
        return tuple(dict.fromkeys(kid for kid in named if kid is not None))

    def resolved(self, labels: Mapping[bytes, Sequence[str]]) -> Policy:
        """
        The policy with every spec under its track type.

        Args:
            labels: the track types that the key of each of the asset's KIDs opens, all of which a spec for that KID is
                about; one for a KID that is not among them says nothing.

        Raises:
            InvalidRecord: two specs are for one track.
        """
        tracks = list(self.policy.tracks or ())
        for spec in self.by_kid:
            for label in labels.get(spec.kid, ()):
                if any(track.label == label for track in tracks):
                    raise InvalidRecord(f"content_key_specs names {label} twice", field="content_key_specs.key_id")
                tracks.append(TrackTerms(label=label, kid=spec.kid, widevine=spec.widevine))
        return msgspec.structs.replace(self.policy, tracks=tuple(tracks)) if self.by_kid else self.policy


def read_template(data: bytes) -> Imported:
    """
    A stored policy. The document itself stays in `source`.

    Raises:
        InvalidRecord: names the member, in the document's words.
    """
    document = azure_document.decode(data)
    if document.payload is not UNSET:
        raise InvalidRecord(f"payload {_REQUEST_ALONE}", field="payload")
    for spec in document.content_key_specs or ():
        if spec.key is not UNSET:
            raise InvalidRecord(f"key {_REQUEST_ALONE}", field="content_key_specs.key")
        if spec.track_type is UNSET:
            text = "content_key_specs must name each track by its track_type"
            raise InvalidRecord(text, field="content_key_specs.track_type")
    source = PolicySource(format=NAME, document=data.decode())
    policy = msgspec.structs.replace(policy_of(document), can_play=can_play(document), source=source)
    name = or_none(document.policy_name) or None
    return Imported(policy=policy, name=name, warnings=tuple(_warnings(document)))


def read_message(data: bytes) -> WidevineMessage:
    """
    A license request.

    Raises:
        InvalidRecord: names the member, in the document's words.
    """
    document = azure_document.decode(data)
    specs = document.content_key_specs or ()
    return WidevineMessage(
        payload=or_none(document.payload),
        policy=policy_of(document),
        by_kid=tuple(_by_kid(spec) for spec in specs if spec.track_type is UNSET),
        injected=tuple(
            MessageKey(cek=Secret(spec.key), label=or_none(spec.track_type), kid=or_none(spec.key_id))
            for spec in specs
            if isinstance(spec.key, bytes)
        ),
        exclusively=document.use_policy_overrides_exclusively is True,
        can_play=can_play(document),
        parse_only=document.parse_only is True,
    )


def write(policy: Policy, name: str) -> bytes:
    """The template that says most of *policy*. Its own name is not in it: `policy_name` is for Widevine's server."""
    return azure_document.encode(document_of(policy))


FORMAT: Final = Format(name=NAME, read=read_template, write=write)


def _by_kid(spec: KeySpec) -> KidTerms:
    if not isinstance(spec.key_id, bytes):
        text = "each of content_key_specs must have a track_type or a key_id"
        raise InvalidRecord(text, field="content_key_specs.track_type")
    return KidTerms(kid=spec.key_id, widevine=terms_of(spec))


def _warnings(document: Document) -> list[str]:
    found = []
    if isinstance(overrides := document.policy_overrides, PolicyOverrides):
        said = overrides.said()
        if "can_play" not in said:
            found.append("policy_overrides has no can_play, so it is false: no license is given under this policy")
        idle = [member for member in RENEWAL if member in said]
        if idle and overrides.can_renew is not True:
            found.append(f"only used if can_renew is true: {', '.join(idle)}")
    if document.parse_only is not UNSET:
        found.append("parse_only is about one request: in a stored template it says nothing")
    return found
