"""
ClearKey as browsers speak it: the request's KIDs and type, and the JWK set that answers it.

Source: W3C Encrypted Media Extensions, section 9.1 (ClearKey), license request and license format. Base64url stands
without padding in both directions; a request with padding is read all the same.
"""

import binascii
from collections.abc import Iterable
from enum import StrEnum
from typing import Final, Literal

import msgspec

from keymill.errors import InvalidRecord
from keymill.secret import Secret
from schemas.values import KID_SIZE, Record

CONTENT_TYPE: Final = "application/json"
MAX_KIDS: Final = 1024
"""KIDs in one request: 64 tracks in each of two crypto periods, eight times over."""
_KID_CHARACTERS: Final = 22
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = str.maketrans("-_", "+/")


class SessionType(StrEnum):
    """EME's session types that ClearKey knows."""

    TEMPORARY = "temporary"
    PERSISTENT = "persistent-license"


class ClearKeyRequest(Record, frozen=True, kw_only=True):
    """What a CDM asks: KIDs in its order, each once."""

    kids: tuple[bytes, ...]
    session_type: SessionType


class ClearKeyMessage(msgspec.Struct, frozen=True):
    """The request as a CDM writes it: KIDs in base64url without padding."""

    kids: list[str]
    type: SessionType = SessionType.TEMPORARY


class JsonWebKey(msgspec.Struct, frozen=True):
    """A key of a license: content key `k` and `kid`, in base64url without padding."""

    kty: Literal["oct"]
    k: str
    kid: str


class ClearKeyLicense(msgspec.Struct, frozen=True):
    """The license as a CDM reads it: a JWK set; `license_of` writes it."""

    keys: list[JsonWebKey]
    type: SessionType


_wire: Final = msgspec.json.Decoder(ClearKeyMessage)


def parse_request(body: bytes) -> ClearKeyRequest:
    """
    Return the request in *body*.

    Raises:
        InvalidRecord: no JSON object, no KIDs or too many, a KID that is not base64url of 16 bytes, another type.
    """
    try:
        wire = _wire.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRecord(f"the body is no ClearKey request: {error}", field="body") from None
    if not 0 < len(wire.kids) <= MAX_KIDS:
        raise InvalidRecord(f"kids must name 1 to {MAX_KIDS} KIDs, not {len(wire.kids)}", field="kids")
    return ClearKeyRequest(kids=tuple(dict.fromkeys(map(_kid, wire.kids))), session_type=wire.type)


def license_of(keys: Iterable[tuple[bytes, Secret]], session_type: SessionType) -> bytes:
    """The license: a JWK set of (KID, CEK) with the request's type. Never empty: refuse instead."""
    members = [b'{"kty":"oct","k":"%b","kid":"%b"}' % (base64url(cek.reveal()), base64url(kid)) for kid, cek in keys]
    if not members:
        raise ValueError("a license without keys is a refusal")
    return b'{"keys":[%b],"type":"%b"}' % (b",".join(members), session_type.encode())


def base64url(value: bytes) -> bytes:
    """Base64url without padding."""
    return binascii.b2a_base64(value, newline=False).translate(_TO_URL, b"=")


def _kid(text: str) -> bytes:
    digits = text.rstrip("=")
    if len(digits) == _KID_CHARACTERS and digits.isascii() and "+" not in digits and "/" not in digits:
        try:
            kid = binascii.a2b_base64(digits.translate(_FROM_URL) + "==", strict_mode=True)
        except binascii.Error:
            kid = b""
        if len(kid) == KID_SIZE:
            return kid
    raise InvalidRecord("kids must be base64url of 16 bytes, without padding", field="kids")
