"""
What an ingest system asks for, in JSON, and the asset event that says it: HTTP bodies and manifest lines alike
(ARCHITECTURE.md, step 1).

A field that is not known is refused by name. Two spellings of one request (a time as RFC 3339 or epoch ms, a track as
a word or an object) are one request, with one hash.
"""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import msgspec

from keymill.core.folding import MAX_AHEAD_MS
from keymill.core.identity import canonical
from keymill.errors import InvalidRecord
from schemas import ids
from schemas.events import (
    AssetEventBody,
    AssetIngested,
    AssetRestored,
    AssetRevoked,
    KeysRotated,
    PolicyAssigned,
    TrackWish,
)
from schemas.values import MAX_TIME_MS, Scheme

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
Time = int | datetime
"""Epoch milliseconds, or RFC 3339 with an offset."""


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What every request may say: when it happened, if that was not now."""

    event_time: Time | None = None


class TrackBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """
    A track with a protection scheme or KID of its own; `label` is another word for `track_type`.

    `kid`: 32 hex digits, or a UUID with dashes.
    """

    track_type: str | None = None
    label: str | None = None
    scheme: Scheme | None = None
    kid: str | None = None


class IngestBody(Body, frozen=True, kw_only=True):
    """An asset exists and needs keys. `salt` is base64 of 16 to 64 bytes; what is absent is inherited or defaulted."""

    asset_id: str
    tracks: tuple[str | TrackBody, ...] | None = None
    schemes: tuple[Scheme, ...] | None = None
    single_key: bool | None = None
    key_version: int | None = None
    policy_id: int | None = None
    product_id: str | None = None
    available_from: Time | None = None
    available_until: Time | None = None
    salt: bytes | None = None


class ManifestLine(IngestBody, frozen=True, kw_only=True):
    """A line of a manifest: the body and whose asset it is."""

    organization: str


class RotateBody(Body, frozen=True, kw_only=True):
    """New keys. `to_version` names the key version that begins; absent, it is the current one plus one."""

    to_version: int | None = None
    salt: bytes | None = None


class PolicyBody(Body, frozen=True, kw_only=True):
    """Another policy for the asset."""

    policy_id: int


class RevokeBody(Body, frozen=True, kw_only=True):
    """No license is given any more."""

    reason: str | None = None


class RestoreBody(Body, frozen=True, kw_only=True):
    """Licenses are given again."""

    reason: str | None = None


B = TypeVar("B", bound=Body)
T = TypeVar("T")


def read_body(data: bytes, kind: type[B]) -> B:
    """
    Read a body of that kind in its one spelling: times as epoch ms, tracks as objects with upper-case labels and KIDs
    in hex.

    Raises:
        InvalidRecord: not JSON, an unknown field, a wrong type, a time without offset; names the field.
    """
    return _normal(read_json(data or b"{}", kind))


def read_json(data: bytes, kind: type[T]) -> T:
    """Read any JSON value of that type, or raise `InvalidRecord` naming the field."""
    try:
        return msgspec.json.decode(data, type=kind)
    except RecursionError:
        raise InvalidRecord("the JSON is nested too deeply", field="body") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRecord(str(error), field=field_of(str(error))) from None


def field_of(message: str) -> str:
    """The field that a message of msgspec's is about, as in `tracks.scheme`; `body` for the whole."""
    _, _, path = message.partition(" - at `$")
    _, _, name = message.partition(" field `")
    parts = [part.partition("[")[0] for part in path.rstrip("`").split(".")]
    parts.append(name.partition("`")[0])
    return ".".join(part for part in parts if part) or "body"


def request_hash(operation: str, organization: str, asset: str, body: Body) -> bytes:
    """What tells two requests with one idempotency key apart, 32 bytes: all that was asked for, however spelt."""
    plain = msgspec.json.encode(body, order="deterministic")
    return hashlib.sha256(canonical("keymill/request/v1", operation, organization, asset, plain)).digest()


def event_id_of(organization: str, asset: str, idempotency_key: str) -> str:
    """The event id of an idempotency key (1 to 255 printable ASCII characters); keys are per asset."""
    return _id_of("keymill/idempotency/v1", idempotency_key, organization, asset)


def policy_request_id_of(organization: str, idempotency_key: str) -> str:
    """The request id of an idempotency key of a policy change; keys are per organization."""
    return _id_of("keymill/policy-idempotency/v1", idempotency_key, organization)


def event_time_of(body: Body, now_ms: int) -> int:
    """When it happened, epoch ms: now if the body does not say; refused when more than 24 h ahead."""
    given = body.event_time if isinstance(body.event_time, int) else now_ms
    if given > now_ms + MAX_AHEAD_MS:
        raise InvalidRecord("event_time is more than 24 h ahead: epoch milliseconds or RFC 3339", field="event_time")
    return given


def event_body_of(body: Body, to_version: Callable[[], int]) -> AssetEventBody:
    """
    The event's body that says what a request asks for.

    Args:
        to_version: asked when a rotation does not name the version that begins.

    Raises:
        InvalidRecord: a value is out of range; names the field.
    """
    match body:
        case IngestBody():
            return _ingested(body)
        case RotateBody():
            return KeysRotated(to_version=to_version() if body.to_version is None else body.to_version, salt=body.salt)
        case PolicyBody():
            return PolicyAssigned(policy_id=body.policy_id)
        case RevokeBody():
            return AssetRevoked(reason=body.reason)
        case RestoreBody():
            return AssetRestored(reason=body.reason)
    raise TypeError(f"{type(body).__name__} is no request")


def _id_of(purpose: str, idempotency_key: str, *scope: str) -> str:
    if not (0 < len(idempotency_key) <= 255 and idempotency_key.isascii() and idempotency_key.isprintable()):
        raise InvalidRecord("Idempotency-Key must be 1 to 255 printable ASCII characters", field="Idempotency-Key")
    digest = hashlib.sha256(canonical(purpose, *scope, idempotency_key))
    return f"i-{digest.hexdigest()[:40]}"


def _ingested(body: IngestBody) -> AssetIngested:
    ids.check_asset(body.asset_id, "asset_id")
    wishes = None if body.tracks is None else tuple(_wish(track) for track in body.tracks)
    return AssetIngested(
        tracks=wishes,
        schemes=body.schemes,
        single_key=body.single_key,
        key_version=body.key_version,
        policy_id=body.policy_id,
        product_id=body.product_id,
        available_from=epoch_ms(body.available_from, "available_from"),
        available_until=epoch_ms(body.available_until, "available_until"),
        salt=body.salt,
    )


def _wish(track: str | TrackBody) -> TrackWish:
    one = _track(track)
    kid = None if one.kid is None else ids.kid_of(one.kid, "tracks.kid")
    return TrackWish(label=one.track_type or "", scheme=one.scheme, kid=kid)


def _normal(body: B) -> B:
    changes: dict[str, Any] = {
        name: epoch_ms(value, name)
        for name in ("event_time", "available_from", "available_until")
        if (value := getattr(body, name, None)) is not None
    }
    if isinstance(body, IngestBody) and body.tracks is not None:
        changes["tracks"] = tuple(_track(track) for track in body.tracks)
    return msgspec.structs.replace(body, **changes) if changes else body


def _track(track: str | TrackBody) -> TrackBody:
    if isinstance(track, str):
        return TrackBody(track_type=track.upper())
    if (track.track_type is None) == (track.label is None):
        raise InvalidRecord("a track has either track_type or label", field="tracks.track_type")
    kid = None if track.kid is None else ids.kid_of(track.kid, "tracks.kid").hex()
    return TrackBody(track_type=(track.track_type or track.label or "").upper(), scheme=track.scheme, kid=kid)


def epoch_ms(value: Time | None, field: str) -> int | None:
    """A time as epoch ms; refused without an offset, or outside of the years 1970 to 9999."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidRecord(f"{field} must have an offset, such as Z", field=field)
        value = (value - EPOCH) // timedelta(milliseconds=1)
    if value is not None and not 0 <= value <= MAX_TIME_MS:
        raise InvalidRecord(f"{field} must lie between the years 1970 and 9999", field=field)
    return value
