"""
The JSON message of Azure Media Services' Widevine license template: its members, and nothing besides.

Strict: a member that the message does not have is refused by name, and so is null. Source: "Widevine License Template
Overview", Azure Media Services, 06/22/2016; HDCP has all of Widevine's names, of which that page prints three.
"""

import difflib
import re
from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from keymill.core.bodies import field_of
from keymill.errors import InvalidRecord
from schemas.policy import MAX_LONG, MAX_TOKEN, MAX_URL, Hdcp
from schemas.values import KID_SIZE

CEK_SIZE: Final = 16
Seconds = Annotated[int, Meta(ge=0, le=MAX_LONG)]
Token = Annotated[bytes, Meta(max_length=MAX_TOKEN)]


class AllowedTrackTypes(StrEnum):
    """Which keys a license holds; AUDIO is always among them."""

    SD_ONLY = "SD_ONLY"
    SD_HD = "SD_HD"


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An object of the message. A member that is not there is UNSET."""

    def said(self) -> dict[str, Any]:
        """The members that are there."""
        return {
            name: value for name in self.__struct_fields__ if not isinstance(value := getattr(self, name), UnsetType)
        }


class OutputProtection(Part, frozen=True, kw_only=True):
    """`required_output_protection`"""

    hdcp: Hdcp | UnsetType = UNSET


class KeySpec(Part, frozen=True, kw_only=True):
    """An element of `content_key_specs`"""

    track_type: str | UnsetType = UNSET
    security_level: Annotated[int, Meta(ge=1, le=5)] | UnsetType = UNSET
    required_output_protection: OutputProtection | UnsetType = UNSET
    key: Annotated[bytes, Meta(min_length=CEK_SIZE, max_length=CEK_SIZE)] | UnsetType = UNSET
    key_id: Annotated[bytes, Meta(min_length=KID_SIZE, max_length=KID_SIZE)] | UnsetType = UNSET

    def __repr__(self) -> str:
        return f"KeySpec({self.track_type!r})"


class PolicyOverrides(Part, frozen=True, kw_only=True):
    """`policy_overrides`"""

    can_play: bool | UnsetType = UNSET
    can_persist: bool | UnsetType = UNSET
    can_renew: bool | UnsetType = UNSET
    rental_duration_seconds: Seconds | UnsetType = UNSET
    playback_duration_seconds: Seconds | UnsetType = UNSET
    license_duration_seconds: Seconds | UnsetType = UNSET
    renewal_recovery_duration_seconds: Seconds | UnsetType = UNSET
    renewal_server_url: Annotated[str, Meta(max_length=MAX_URL)] | UnsetType = UNSET
    renewal_delay_seconds: Seconds | UnsetType = UNSET
    renewal_retry_interval_seconds: Seconds | UnsetType = UNSET
    renew_with_usage: bool | UnsetType = UNSET


class SessionInitialization(Part, frozen=True, kw_only=True):
    """`session_init`"""

    provider_session_token: Token | UnsetType = UNSET
    provider_client_token: Token | UnsetType = UNSET
    override_provider_client_token: bool | UnsetType = UNSET

    def __repr__(self) -> str:
        return "SessionInitialization(…)"


class Document(Part, frozen=True, kw_only=True):
    """The message."""

    payload: bytes | UnsetType = UNSET
    content_id: bytes | UnsetType = UNSET
    provider: str | UnsetType = UNSET
    policy_name: str | UnsetType = UNSET
    allowed_track_types: AllowedTrackTypes | UnsetType = UNSET
    content_key_specs: tuple[KeySpec, ...] | UnsetType = UNSET
    use_policy_overrides_exclusively: bool | UnsetType = UNSET
    policy_overrides: PolicyOverrides | UnsetType = UNSET
    session_init: SessionInitialization | UnsetType = UNSET
    parse_only: bool | UnsetType = UNSET

    def __repr__(self) -> str:
        return f"Document({', '.join(self.said())})"


_OBJECTS: Final = {
    "content_key_specs.required_output_protection": OutputProtection,
    "content_key_specs": KeySpec,
    "policy_overrides": PolicyOverrides,
    "session_init": SessionInitialization,
    "": Document,
}
_MEMBERS: Final = {name: path for path, kind in _OBJECTS.items() for name in kind.__struct_fields__}
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*?)`(?: - at `\$\.?(.*)`)?", re.DOTALL)
_SHOWN: Final = 80
"""Characters of an unknown member's name that a message repeats."""


def decode(data: bytes) -> Document:
    """Read the message, or raise `InvalidRecord` naming the member; a misspelt one with its right name."""
    try:
        return msgspec.json.decode(data, type=Document)
    except RecursionError:
        raise InvalidRecord("the JSON is nested too deeply", field="document") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if unknown := _UNKNOWN.fullmatch(str(error)):
            raise _misspelt(unknown[1][:_SHOWN], re.sub(r"\[[^]]*\]", "", unknown[2] or "")) from None
        field = field_of(str(error))
        raise InvalidRecord(str(error), field="document" if field == "body" else field) from None


def encode(document: Document) -> bytes:
    """Write the message for a person."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def _misspelt(name: str, path: str) -> InvalidRecord:
    where = f"{path} has no member {name!r}" if path else f"the document has no member {name!r}"
    field = f"{path}.{name}" if path else name
    last = name.rpartition(".")[2]
    right = next(iter(difflib.get_close_matches(last, _MEMBERS, n=1, cutoff=0.75)), None)
    if right is None:
        return InvalidRecord(where, field=field)
    home = _MEMBERS[right]
    meant = right if home == path else f"{home}.{right}" if home else f"{right}, beside {path.partition('.')[0]}"
    return InvalidRecord(f"{where}: it is spelt {meant}", field=field)
