"""
Widevine's common-encryption key API, as Shaka Packager speaks it: a request's bytes to what it asks for, and keys to
an answer's bytes. Pure.

    {"request": base64(inner), "signature": base64(AES-CBC(key, iv, PKCS#7(SHA-1(inner)))), "signer": name}
    {"response": base64({"status", "drm", "tracks": [{"type", "key_id", "key", "iv", "pssh"}], "already_used"})}

The signature covers the inner bytes as they were sent. The request has neither time nor nonce; the same one gives the
same keys. Its members are Google's, so unknown ones are passed over.

Source: Shaka Packager 3.8.0, whose traps research notes list; Widevine Common Encryption API 1.6.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from keymill.core.bodies import read_json
from keymill.core.credentials import SIGNER_IV_SIZE, SIGNER_KEY_SIZE
from keymill.core.envelope import ClearKey
from keymill.drm import systems, widevine
from keymill.drm.widevine import WidevineData
from keymill.errors import Corrupt, InvalidRecord, Reject
from keymill.secret import Secret
from schemas import ids
from schemas.events import PeriodRange
from schemas.records import TrackKey
from schemas.values import MAX_COUNT, Record, Scheme, check_label

MAX_PERIODS_ASKED: Final = 100
"""Crypto periods in one request. Shaka asks for 10; an answer of 100 has 200 KB."""
SIGNATURE_SIZE: Final = 32
_BLOCK_BITS: Final = 128


class Status(StrEnum):
    """Names that Shaka Packager knows. An unknown name would count as OK next to tracks, so there are no others."""

    OK = "OK"
    SIGNATURE_FAILED = "SIGNATURE_FAILED"
    ACCESS_DENIED = "ACCESS_DENIED"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    CONTENT_ID_MISSING = "CONTENT_ID_MISSING"
    TRACK_TYPE_MISSING = "TRACK_TYPE_MISSING"
    TRACK_TYPE_UNKNOWN = "TRACK_TYPE_UNKNOWN"
    POLICY_UNKNOWN = "POLICY_UNKNOWN"


class Refusal(Reject):
    """The request is answered with a status and without tracks."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message, code=status.lower())
        self.status = status


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """The outer JSON; `request` and `signature` are base64."""

    request: bytes
    signature: bytes = b""
    signer: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The outer JSON of an answer; `response` is base64."""

    response: bytes


class Asked(Record, frozen=True, kw_only=True):
    """What a packager wants: keys of these labels under one scheme, for all time or for crypto periods."""

    asset: str
    content_id: bytes
    labels: tuple[str, ...]
    scheme: Scheme
    policy_id: int | None
    periods: PeriodRange | None


class PackagedTrack(Record, frozen=True, kw_only=True):
    """A track's key as the packager gets it; `label` as it was asked for."""

    label: str
    key: TrackKey
    clear: ClearKey
    period_index: int | None


class _Track(msgspec.Struct, frozen=True):
    type: str = ""


class _Inner(msgspec.Struct, frozen=True, kw_only=True):
    content_id: str = ""
    policy: str = ""
    tracks: tuple[_Track, ...] = ()
    protection_scheme: str | int | None = None
    first_crypto_period_index: int | None = None
    crypto_period_count: int | None = None
    crypto_period_seconds: int | None = None


def read_envelope(body: bytes) -> Envelope:
    """Read the outer JSON, or raise `InvalidRecord`."""
    return read_json(body, Envelope)


def is_signed(envelope: Envelope, secret: Secret) -> bool:
    """Whether the signature over the exact inner bytes is the signer's, in constant time."""
    return hmac.compare_digest(sign(envelope.request, secret), envelope.signature)


def sign(inner: bytes, secret: Secret) -> bytes:
    """The signature of *inner*, 32 bytes; *secret* is the AES key (32) and IV (16)."""
    material = secret.reveal()
    key, iv = material[:SIGNER_KEY_SIZE], material[SIGNER_KEY_SIZE : SIGNER_KEY_SIZE + SIGNER_IV_SIZE]
    padder = PKCS7(_BLOCK_BITS).padder()
    padded = padder.update(hashlib.sha1(inner, usedforsecurity=False).digest()) + padder.finalize()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return encryptor.update(padded) + encryptor.finalize()


def read_inner(inner: bytes) -> Asked:
    """
    What the signed request asks for.

    A label that is not known is left out, so that it does not fail the rest.

    Raises:
        Refusal: with the status that the packager understands.
    """
    try:
        asked = read_json(inner, _Inner)
        content_id = base64.b64decode(asked.content_id, validate=True)
    except InvalidRecord as error:
        raise Refusal(Status.INVALID_ARGUMENT, f"the request's {error.field}: {error}") from None
    except ValueError:
        raise Refusal(Status.INVALID_ARGUMENT, "content_id is no base64") from None
    if not content_id:
        raise Refusal(Status.CONTENT_ID_MISSING, "content_id is missing or empty")
    try:
        return Asked(
            asset=ids.asset_of_content_id(content_id),
            content_id=content_id,
            labels=_labels(asked.tracks),
            scheme=_scheme(asked.protection_scheme),
            policy_id=_policy_id(asked.policy),
            periods=_periods(asked),
        )
    except InvalidRecord as error:
        raise Refusal(Status.INVALID_ARGUMENT, str(error)) from None


def answer(asked: Asked, tracks: Sequence[PackagedTrack], *, already_used: bool) -> bytes:
    """The answer that carries clear keys, tracks in the order given: for the packager and nobody else."""
    content: dict[str, Any] = {
        "status": Status.OK,
        "drm": [{"type": "WIDEVINE", "system_id": systems.WIDEVINE.hex()}],
        "tracks": [_track(asked, track) for track in tracks],
        "already_used": already_used,
    }
    return _wrapped(content)


def refusal(status: Status) -> bytes:
    """The answer without keys."""
    return _wrapped({"status": status})


def _wrapped(content: dict[str, Any]) -> bytes:
    return msgspec.json.encode(Answer(response=msgspec.json.encode(content)))


def _track(asked: Asked, track: PackagedTrack) -> dict[str, Any]:
    data = WidevineData(
        kids=(track.key.kid,), content_id=asked.content_id, scheme=track.key.scheme, period_index=track.period_index
    )
    message = widevine.encode_data(data)
    if track.key.scheme is not asked.scheme or widevine.decode_data(message) != data:
        raise Corrupt(f"asset {asked.asset}: KID {track.key.kid.hex()} and its PSSH disagree")
    members: dict[str, Any] = {
        "type": track.label,
        "key_id": track.key.kid,
        "key": track.clear.cek.reveal(),
        "iv": track.clear.iv.reveal(),
        "pssh": [{"drm_type": "WIDEVINE", "data": message}],
    }
    return members if track.period_index is None else {**members, "crypto_period_index": track.period_index}


def _labels(tracks: Sequence[_Track]) -> tuple[str, ...]:
    if not tracks:
        raise Refusal(Status.TRACK_TYPE_MISSING, "tracks are missing")
    known = tuple(dict.fromkeys(label for track in tracks if (label := _label(track.type)) is not None))
    if not known:
        raise Refusal(Status.TRACK_TYPE_UNKNOWN, "none of the track types is known")
    return known


def _label(name: str) -> str | None:
    try:
        return check_label(name.upper())
    except InvalidRecord:
        return None


def _scheme(named: str | int | None) -> Scheme:
    """By name or four-character code; a request that names none is from before there were others than cenc."""
    try:
        if isinstance(named, int):
            named = named.to_bytes(4, "big").decode("ascii")
        return Scheme(named.lower()) if named else Scheme.CENC
    except (ValueError, OverflowError):
        raise Refusal(Status.INVALID_ARGUMENT, "protection_scheme is none of CENC, CBCS, CBC1, CENS") from None


def _policy_id(policy: str) -> int | None:
    if not policy:
        return None
    if not re.fullmatch(r"[0-9]{1,16}", policy) or int(policy) > MAX_COUNT:
        raise Refusal(Status.POLICY_UNKNOWN, "policy is no policy id")
    return int(policy)


def _periods(asked: _Inner) -> PeriodRange | None:
    if asked.first_crypto_period_index is None:
        return None
    count = asked.crypto_period_count if asked.crypto_period_count is not None else 1
    if count > MAX_PERIODS_ASKED:
        raise Refusal(Status.INVALID_ARGUMENT, f"crypto_period_count is above {MAX_PERIODS_ASKED}")
    if asked.crypto_period_seconds is None:
        raise Refusal(Status.INVALID_ARGUMENT, "crypto_period_seconds is missing")
    return PeriodRange(first_index=asked.first_crypto_period_index, count=count, period_s=asked.crypto_period_seconds)
