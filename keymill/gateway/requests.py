"""Reading a request: its body within the limit, the CloudEvent around it, its idempotency key, its query."""

import hashlib
from typing import Final

import msgspec
from starlette.requests import Request

from keymill.core.bodies import Time, read_json
from keymill.core.identity import canonical
from keymill.errors import InvalidRecord
from keymill.http.problems import HttpReject

_TRUE: Final = frozenset({"1", "true", "yes"})
_FALSE: Final = frozenset({"", "0", "false", "no"})


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request's own content: the JSON body, and the idempotency key if the caller gave one."""

    body: bytes
    idempotency_key: str | None


class _CloudEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Structured mode; other attributes are allowed and not used. Source: CloudEvents 1.0, JSON format."""

    specversion: str
    id: str
    source: str
    type: str
    time: Time | None = None
    data: msgspec.Raw = msgspec.Raw(b"")
    data_base64: bytes | None = None


class _Peek(msgspec.Struct, frozen=True):
    specversion: msgspec.Raw = msgspec.Raw(b"")


async def read_limited(request: Request, limit: int) -> bytes:
    """
    The body, chunked or not.

    Raises:
        HttpReject: 413 as soon as more than *limit* bytes are announced or have come.
    """
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length) > limit:
        raise _too_large(limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


def asked_by(request: Request, body: bytes) -> Asked:
    """
    The request without its envelope. A CloudEvent's source and id name it when no Idempotency-Key does.

    Raises:
        InvalidRecord: a CloudEvent that lacks what every one has.
    """
    headers = request.headers
    key = headers.get("idempotency-key")
    if headers.get("ce-specversion"):
        return Asked(
            body=body, idempotency_key=key or _event_key(headers.get("ce-source", ""), headers.get("ce-id", ""))
        )
    if not _is_cloud_event(headers.get("content-type", ""), body):
        return Asked(body=body, idempotency_key=key)
    event = read_json(body, _CloudEvent)
    if not event.specversion.startswith("1."):
        raise InvalidRecord("specversion must be 1.0", field="specversion")
    content = bytes(event.data) or event.data_base64
    return Asked(body=content or b"", idempotency_key=key or _event_key(event.source, event.id))


def flag(request: Request, name: str) -> bool:
    """A query parameter that is 1 or 0; absent is 0."""
    value = request.query_params.get(name, "").lower()
    if value not in _TRUE | _FALSE:
        raise InvalidRecord(f"{name} must be 1 or 0", field=name)
    return value in _TRUE


def _is_cloud_event(content_type: str, body: bytes) -> bool:
    if content_type.lower().startswith("application/cloudevents"):
        return True
    try:
        return bytes(msgspec.json.decode(body, type=_Peek).specversion) != b""
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _event_key(source: str, event_id: str) -> str:
    if not source or not event_id:
        raise InvalidRecord("a CloudEvent has an id and a source", field="id")
    return hashlib.sha256(canonical("cloudevent", source, event_id)).hexdigest()


def _too_large(limit: int) -> HttpReject:
    return HttpReject(
        413, "too_large", f"the body has more than {limit} bytes", field="body", headers={"connection": "close"}
    )
