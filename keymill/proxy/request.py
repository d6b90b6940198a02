"""What a license request is once its dialect was read, and what becomes of it."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Protocol

from keymill.core.bearer import one_token
from keymill.core.formats.azure_widevine import WidevineMessage
from keymill.proxy.interface import Interface
from schemas.values import DrmSystem, Record

TRANSIENT_RETRY_S: Final = 1
"""Retry-After of a view that is behind: it catches up within a second, or nobody knows when."""


class RawRequest(Record, frozen=True, kw_only=True):
    """
    An HTTP request as the routes see it: the path's parts by name, the query's members, the body.

    Args:
        tokens: what stands where tokens may stand in headers.
    """

    path: Mapping[str, str]
    query: dict[str, str]
    content_type: str = ""
    body: bytes = b""
    client: str = ""
    tokens: tuple[str, ...] = ()

    def token(self, name: str) -> str:
        """Return the player's token, whose member of the query is *name*; `InvalidRecord` where there are two."""
        return one_token(self.query.get(name, ""), self.tokens)


class LicenseRequest(Record, frozen=True, kw_only=True):
    """
    A license request in no dialect.

    Args:
        token_name: the query's member that the token may stand in.
        organization, asset: as the path names them; None where the token or the service says it.
        kid: 16 bytes, instead of `asset`; the license then holds every entitled key of its asset.
        service: (name, version) of a service configuration, instead of `organization` and `drm_system`.
        hls: no license is wanted but the clear key of HLS_AES128; the challenge is its KID (16 bytes).
        client: the caller's IP address.
        message: what the request says about policy and keys: overrides of a server-side caller, a limit of any other.
    """

    token: str
    challenge: bytes
    client: str
    token_name: str = "token"  # noqa: S105 a name
    drm_system: DrmSystem | None = None
    organization: str | None = None
    asset: str | None = None
    kid: bytes | None = None
    service: tuple[str, str] | None = None
    hls: bool = False
    message: WidevineMessage | None = None

    @property
    def parse_only(self) -> bool:
        """Whether no license is wanted, only what the license server reads in the challenge."""
        return self.message is not None and self.message.parse_only


class Reason(StrEnum):
    """Why no license is given: a stable code. docs/licenses.md lists them."""

    MALFORMED = "malformed_request"
    MISSING_CHALLENGE = "missing_challenge"
    TOO_LARGE = "request_too_large"
    NO_LICENSE_SERVER = "no_license_server"
    UNKNOWN_SERVICE = "unknown_service"
    TOKEN_MISSING = "token_missing"  # noqa: S105 a code
    TOKEN_INVALID = "token_invalid"  # noqa: S105 a code
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 a code
    TOKEN_NOT_YET_VALID = "token_not_yet_valid"  # noqa: S105 a code
    TOKEN_USED = "token_used"  # noqa: S105 a code
    TOKEN_ADDRESS = "token_address"  # noqa: S105 a code
    TOKEN_SCOPE = "token_scope"  # noqa: S105 a code
    WRONG_ORGANIZATION = "wrong_organization"
    UNKNOWN_ASSET = "unknown_asset"
    UNKNOWN_KID = "unknown_kid"
    ASSET_REVOKED = "asset_revoked"
    NOT_YET_AVAILABLE = "not_yet_available"
    NO_LONGER_AVAILABLE = "no_longer_available"
    NOT_ENTITLED = "not_entitled"
    POLICY_MISSING = "policy_missing"
    PLAYBACK_DENIED = "playback_denied"
    PERSISTENCE_DENIED = "persistence_denied"
    NO_KEY_ALLOWED = "no_key_allowed"
    TRACKS_NOT_NAMED = "tracks_not_named"
    KEY_MISMATCH = "key_mismatch"
    SERVER_SIDE_ONLY = "server_side_only"
    ORGANIZATION_REVOKED = "organization_revoked"
    POLICY_UNENFORCEABLE = "policy_unenforceable"
    UPSTREAM_REFUSED = "upstream_refused"
    UPSTREAM_FAILED = "upstream_failed"
    UPSTREAM_UNAVAILABLE = "upstream_unavailable"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    NOT_READY = "not_ready"
    TOO_STALE = "too_stale"
    KEK_MISSING = "kek_missing"
    KEY_UNUSABLE = "key_unusable"
    INTERNAL = "internal"


STATUS: Final[dict[Reason, int]] = {
    Reason.MALFORMED: 400,
    Reason.MISSING_CHALLENGE: 400,
    Reason.TOO_LARGE: 413,
    Reason.NO_LICENSE_SERVER: 400,
    Reason.UNKNOWN_SERVICE: 400,
    Reason.TOKEN_MISSING: 401,
    Reason.TOKEN_INVALID: 401,
    Reason.TOKEN_EXPIRED: 401,
    Reason.TOKEN_NOT_YET_VALID: 401,
    Reason.TOKEN_USED: 401,
    Reason.TOKEN_ADDRESS: 403,
    Reason.TOKEN_SCOPE: 403,
    Reason.WRONG_ORGANIZATION: 403,
    Reason.UNKNOWN_ASSET: 404,
    Reason.UNKNOWN_KID: 404,
    Reason.ASSET_REVOKED: 403,
    Reason.NOT_YET_AVAILABLE: 403,
    Reason.NO_LONGER_AVAILABLE: 403,
    Reason.NOT_ENTITLED: 403,
    Reason.POLICY_MISSING: 403,
    Reason.PLAYBACK_DENIED: 403,
    Reason.PERSISTENCE_DENIED: 403,
    Reason.NO_KEY_ALLOWED: 403,
    Reason.TRACKS_NOT_NAMED: 400,
    Reason.KEY_MISMATCH: 409,
    Reason.SERVER_SIDE_ONLY: 403,
    Reason.ORGANIZATION_REVOKED: 403,
    Reason.POLICY_UNENFORCEABLE: 403,
    Reason.UPSTREAM_REFUSED: 403,
    Reason.UPSTREAM_FAILED: 502,
    Reason.UPSTREAM_UNAVAILABLE: 503,
    Reason.UPSTREAM_TIMEOUT: 504,
    Reason.NOT_READY: 503,
    Reason.TOO_STALE: 503,
    Reason.KEK_MISSING: 503,
    Reason.KEY_UNUSABLE: 500,
    Reason.INTERNAL: 500,
}
"""The status of a reason, in the dialects that have no table of their own."""


class Refusal(Record, frozen=True, kw_only=True):
    """
    No license, and why.

    Args:
        message: for a person.
        at_ms, now_ms: the two times of an expired token.
        absent: the view lacks what was asked for, which is final only while the view is known to be live.
    """

    reason: Reason
    message: str
    absent: bool = False
    at_ms: int = 0
    now_ms: int = 0
    retry_after_s: int = TRANSIENT_RETRY_S

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS[self.reason]

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed soon."""
        return STATUS[self.reason] >= 500


class Answer(Record, frozen=True, kw_only=True):
    """A license as its DRM system's player takes it. The bytes go to the player and nowhere else."""

    body: bytes
    content_type: str

    def __repr__(self) -> str:
        return f"Answer({len(self.body)} bytes)"


class Response(Record, frozen=True, kw_only=True):
    """What goes back over HTTP, its Content-Type among the headers."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...]

    def __repr__(self) -> str:
        return f"Response({self.status}, {len(self.body)} bytes)"


class Dialect(Protocol):
    """
    One way to ask for a license. Both functions are pure.

    `parse` gives a `Refusal` for what it cannot read; `respond` words the answer and every refusal.
    """

    @property
    def interface(self) -> Interface:
        """How it is spoken."""
        ...

    def parse(self, raw: RawRequest) -> LicenseRequest | Refusal:
        """Read the request."""
        ...

    def respond(self, outcome: Answer | Refusal) -> Response:
        """Word the outcome."""
        ...
