r"""
NAVER Cloud Platform's policy API in bytes and values: its signature, its pages, its answers. Pure.

    signature = base64(HMAC-SHA256(secret key, METHOD + " " + target + "\n" + timestamp + "\n" + access key))

The target is the request's own: the raw path, and `?` with the raw query if there is one, never decoded, sorted or
encoded again. Neither host nor body is signed.

Source: "Create policy", api.ncloud-docs.com, One Click Multi DRM.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from keymill.core.formats.naver import request_of
from keymill.core.formats.naver_document import DrmPolicyConfig, Part
from keymill.core.policy_records import BUILT_IN_VERSION
from keymill.errors import InvalidRecord
from keymill.http.problems import HttpReject
from keymill.secret import Secret
from schemas.records import PolicyRecord, PolicyState

MAX_AGE_MS: Final = 300_000
"""A request is refused when its timestamp is this far away, before or after."""
PAGE_SIZE: Final = 20
MAX_PAGE_SIZE: Final = 100
NO_SECRET: Final = Secret(bytes(40))
"""An unknown access key's signature is computed too, so that the answer takes as long."""
_TIMESTAMP: Final = re.compile(r"[0-9]{1,15}")


class Status(StrEnum):
    """Where a policy is. A change answers CREATED, UPDATING or DELETED, a GET READY or DELETED."""

    CREATED = "CREATED"
    READY = "READY"
    UPDATING = "UPDATING"
    DELETED = "DELETED"


class Content(Part, frozen=True, kw_only=True):
    """A policy; times in epoch milliseconds. The built-in policy 0 has none."""

    policy_id: int
    policy_name: str
    policy_status: Status
    policy_created_time: int | None = None
    policy_update_time: int | None = None
    policy_deleted_time: int | None = None
    persistent: bool | None = None
    rental_duration: int | None = None
    playback_duration: int | None = None
    drm_policy_config: DrmPolicyConfig


class NaverPolicy(Part, frozen=True, kw_only=True):
    """One policy."""

    success: bool
    content: Content


class NaverPage(Part, frozen=True, kw_only=True):
    """A page of policies; `total` counts all."""

    success: bool
    content: tuple[Content, ...]
    total: int


class ErrorContent(Part, frozen=True, kw_only=True):
    """`code` is the HTTP status, `name` a code of docs/errors.md."""

    code: str
    name: str
    message: str


class NaverError(Part, frozen=True, kw_only=True):
    """A refusal."""

    success: bool
    error: ErrorContent


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """What a request's signature is about, as it was received."""

    method: str
    target: bytes
    timestamp: str
    access_key: str
    signature: str

    def message(self) -> bytes:
        """The bytes that are signed."""
        head = self.method.encode("ascii") + b" " + self.target
        return b"\n".join([head, self.timestamp.encode("latin-1"), self.access_key.encode("latin-1")])


def signature(message: bytes, secret: Secret) -> str:
    """The signature of *message*."""
    mac = secret.keyed(_mac).copy()
    mac.update(message)
    return base64.b64encode(mac.digest()).decode("ascii")


def is_signed(signed: Signed, secret: Secret) -> bool:
    """Whether the signature is the secret key's, in constant time."""
    expected = signature(signed.message(), secret).encode("ascii")
    return hmac.compare_digest(expected, signed.signature.encode("latin-1"))


def is_timely(timestamp: str, now_ms: int) -> bool:
    """Whether a timestamp is less than five minutes away."""
    return _TIMESTAMP.fullmatch(timestamp) is not None and abs(now_ms - int(timestamp)) < MAX_AGE_MS


def content_of(record: PolicyRecord, status: Status | None = None) -> Content:
    """A policy as far as this API can show it; its own status unless another is given."""
    deleted = record.state is PolicyState.DELETED
    said = request_of(record.policy, record.name)
    stored = record.version != BUILT_IN_VERSION
    return Content(
        policy_id=record.policy_id,
        policy_name=record.name,
        policy_status=status or (Status.DELETED if deleted else Status.READY),
        policy_created_time=record.created if stored else None,
        policy_update_time=record.changed if stored else None,
        policy_deleted_time=record.changed if deleted else None,
        persistent=said.persistent,
        rental_duration=int(said.rental_duration or 0),
        playback_duration=int(said.playback_duration or 0),
        drm_policy_config=said.drm_policy_config,
    )


def page_of(records: Iterable[PolicyRecord], total: int) -> NaverPage:
    """A page of the policies that are not deleted, of which there are *total*."""
    return NaverPage(success=True, content=tuple(content_of(each) for each in records), total=total)


def paging(number: str | None, size: str | None) -> tuple[int, int]:
    """Page number and size of a query, or `InvalidRecord`."""
    return _in_range(number, 1, 10**9, 1, "pageNo"), _in_range(size, 1, MAX_PAGE_SIZE, PAGE_SIZE, "pageSize")


def error_answer(status: int, name: str, message: str) -> NaverError:
    """A refusal."""
    return NaverError(success=False, error=ErrorContent(code=str(status), name=name, message=message))


def unauthorized(message: str) -> HttpReject:
    """401."""
    return HttpReject(401, "unauthorized", message)


def _mac(key: bytes) -> "hmac.HMAC":
    return hmac.new(key, digestmod=hashlib.sha256)


def _in_range(text: str | None, least: int, most: int, default: int, field: str) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and least <= int(text) <= most):
        raise InvalidRecord(f"{field} must be {least} to {most}", field=field)
    return int(text)
