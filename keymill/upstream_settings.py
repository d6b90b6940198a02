"""
A license server's settings: one table `[upstreams.NAME]` of the settings file, one class per kind.

Secrets stand in the table, or in a file that it names (`*_file`), which is read once, when the settings are loaded.
"""

import base64
import binascii
import re
import ssl
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    SerializationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from keymill.errors import InvalidRecord
from schemas.ids import check_organization
from schemas.values import DrmSystem

SIGNER_KEY_SIZE: Final = 32
SIGNER_IV_SIZE: Final = 16
COMMUNICATION_KEY_SIZE: Final = 32
"""Axinom signs with HMAC-SHA256 and wraps keys with AES-256 under the same key."""
MAX_FILE: Final = 65_536
"""Bytes of a file that a table names; a Widevine service certificate has about 700."""
REVEAL: Final = "reveal"
"""The serialization context in which secrets are written out: for the pipe to a worker, and nothing else."""
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_HEADER_VALUE: Final = re.compile(r"[\x20-\x7e\t]{0,4096}")
_RESERVED: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "expect", "upgrade", "te"}
)
"""Headers that say how the message is carried; they are the HTTP client's."""


class _Server(BaseModel):
    """What every kind has."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    organization: str = Field(description="the organization whose licenses it makes")
    drm_system: Literal[DrmSystem.WIDEVINE, DrmSystem.PLAYREADY, DrmSystem.FAIRPLAY] = Field(
        description="`widevine`, `playready` or `fairplay`; ClearKey is the proxy's own"
    )
    url: str = Field(description="where requests are posted; https, or http to a listed loopback address")
    default: bool | None = Field(
        None, description="of several of an organization and DRM system: whether it serves when none is named"
    )
    deadline_s: float = Field(5.0, gt=0, le=60, description="seconds a license may take, every attempt included")
    connect_timeout_s: float = Field(2.0, gt=0, le=60, description="seconds until a connection stands, TLS included")
    max_response_bytes: int = Field(262_144, ge=1024, le=4_194_304, description="bytes, largest answer that is read")
    max_connections: int = Field(64, ge=1, le=1024, description="connections of one worker to it")
    ca_file: Path | None = Field(None, description="PEM certificates that vouch for it; the system's if absent")
    service_certificate_file: Path | None = Field(
        None, description="Widevine service certificate, binary; certificate requests are passed on if absent"
    )

    @field_validator("organization")
    @classmethod
    def _organization(cls, value: str) -> str:
        try:
            return check_organization(value)
        except InvalidRecord as error:
            raise ValueError(str(error)) from None

    @field_validator("ca_file")
    @classmethod
    def _certificates(cls, value: Path | None) -> Path | None:
        try:
            if value is not None:
                ssl.create_default_context(cafile=value)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"{value} holds no certificates in PEM: {error}") from None
        return value

    @field_validator("service_certificate_file")
    @classmethod
    def _service_certificate(cls, value: Path | None) -> Path | None:
        if value is not None and not _read(value):
            raise ValueError(f"{value} is empty")
        return value


class WidevineUpstream(_Server):
    """Widevine's license server: the signed GetLicense call."""

    kind: Literal["widevine"]
    drm_system: Literal[DrmSystem.WIDEVINE] = DrmSystem.WIDEVINE
    signer: str = Field(min_length=1, max_length=128, description="name that the key and IV were given to")
    key_hex: SecretStr = Field(description="AES-256 signing key, 64 hexadecimal digits")
    key_file: Path | None = Field(None, description="file with the same, instead")
    iv_hex: SecretStr = Field(description="IV of the signature, 32 hexadecimal digits")
    iv_file: Path | None = Field(None, description="file with the same, instead")

    @model_validator(mode="before")
    @classmethod
    def _files(cls, values: Any) -> Any:
        return _from_file(_from_file(values, "key_hex", "key_file"), "iv_hex", "iv_file")

    @field_validator("key_hex")
    @classmethod
    def _key(cls, value: SecretStr) -> SecretStr:
        return _hex(value, SIGNER_KEY_SIZE)

    @field_validator("iv_hex")
    @classmethod
    def _iv(cls, value: SecretStr) -> SecretStr:
        return _hex(value, SIGNER_IV_SIZE)

    @field_serializer("key_hex", "iv_hex")
    def _told(self, value: SecretStr, info: SerializationInfo) -> str:
        return _shown(value, info)


class EntitlementUpstream(_Server):
    """A license service that takes the challenge and a signed message beside it, as Axinom's."""

    kind: Literal["entitlement"]
    communication_key_id: str = Field(description="id (UUID) of the communication key")
    communication_key: SecretStr = Field(description="communication key, base64 of 32 bytes")
    communication_key_file: Path | None = Field(None, description="file with the same, instead")
    message_lifetime_s: int = Field(300, ge=10, le=86_400, description="seconds until the message expires")

    @model_validator(mode="before")
    @classmethod
    def _files(cls, values: Any) -> Any:
        return _from_file(values, "communication_key", "communication_key_file")

    @field_validator("communication_key_id")
    @classmethod
    def _key_id(cls, value: str) -> str:
        try:
            return str(UUID(value))
        except ValueError:
            raise ValueError("must be a UUID") from None

    @field_validator("communication_key")
    @classmethod
    def _key(cls, value: SecretStr) -> SecretStr:
        try:
            size = len(base64.b64decode(value.get_secret_value(), validate=True))
        except (binascii.Error, ValueError):
            raise ValueError("must be base64") from None
        if size != COMMUNICATION_KEY_SIZE:
            raise ValueError(f"must be base64 of {COMMUNICATION_KEY_SIZE} bytes, not of {size}")
        return value

    @field_serializer("communication_key")
    def _told(self, value: SecretStr, info: SerializationInfo) -> str:
        return _shown(value, info)


class ForwardUpstream(_Server):
    """A license server that knows the keys and policies itself: it gets the challenge and these headers."""

    kind: Literal["forward"]
    headers: dict[str, SecretStr] = Field({}, description="headers sent along, a table; each value is a secret")
    headers_file: Path | None = Field(None, description="file with the same, a line `Name: value` each, instead")

    @model_validator(mode="before")
    @classmethod
    def _files(cls, values: Any) -> Any:
        given = _from_file(values, "headers", "headers_file")
        if isinstance(given, dict) and isinstance(text := given.get("headers"), str):
            pairs = [line.partition(":") for line in text.splitlines() if line.strip()]
            return given | {"headers": {name.strip(): value.strip() for name, _, value in pairs}}
        return given

    @field_validator("headers")
    @classmethod
    def _headers(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, text in value.items():
            if not _HEADER_NAME.fullmatch(name) or name.lower() in _RESERVED:
                raise ValueError(f"{name[:64]!r} is no header that can be sent along")
            if not _HEADER_VALUE.fullmatch(text.get_secret_value()):
                raise ValueError(f"the value of {name} must be printable ASCII, at most 4096 characters")
        return value

    @field_serializer("headers")
    def _told(self, value: dict[str, SecretStr], info: SerializationInfo) -> dict[str, str]:
        return {name: _shown(text, info) for name, text in value.items()}


Upstream = Annotated[WidevineUpstream | EntitlementUpstream | ForwardUpstream, Field(discriminator="kind")]
KINDS: Final[dict[str, type[BaseModel]]] = {
    "widevine": WidevineUpstream,
    "entitlement": EntitlementUpstream,
    "forward": ForwardUpstream,
}


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE + 1)
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from None
    if len(content) > MAX_FILE:
        raise ValueError(f"{file} has more than {MAX_FILE} bytes")
    return content


def _from_file(values: Any, name: str, file_name: str) -> Any:
    """*values* with the content of the file that *file_name* names as *name*."""
    if not isinstance(values, dict) or values.get(file_name) is None:
        return values
    if values.get(name) is not None:
        raise ValueError(f"{name} and {file_name} exclude each other")
    try:
        text = _read(Path(values[file_name])).decode("ascii").strip()
    except (UnicodeDecodeError, TypeError):
        raise ValueError(f"{file_name} must name a file of ASCII text") from None
    except ValueError as error:
        raise ValueError(f"{file_name}: {error}") from None
    return {key: value for key, value in values.items() if key != file_name} | {name: text}


def _hex(value: SecretStr, size: int) -> SecretStr:
    try:
        given = len(bytes.fromhex(value.get_secret_value()))
    except ValueError:
        raise ValueError("must be hexadecimal digits") from None
    if given != size:
        raise ValueError(f"must have {size} bytes, not {given}: the key has 32 and the IV 16, they are often swapped")
    return value


def _shown(value: SecretStr, info: SerializationInfo) -> str:
    context = info.context
    return value.get_secret_value() if isinstance(context, dict) and context.get(REVEAL) else str(value)
