"""
`POST /getlicense?service=&version=&kid=&ptoken=`: Firstlight.

Five statuses (200, 400, 401, 403, 500) and JSON errors of four members in a fixed order. Checked in this order:
challenge (207), service and version (0), token (201), right to play. The document prints the errors 207, 0 and 201;
the others are ours, from 1000 on. The Accept and Content-Type that it calls required are not looked at.
"""

import uuid
from typing import Final

import msgspec

from keymill.errors import InvalidRecord
from keymill.proxy.interface import OCTETS, Interface, Parameter
from keymill.proxy.request import Answer, LicenseRequest, RawRequest, Reason, Refusal, Response
from keymill.proxy.responses import NO_STORE, licensed, retry_after

CONTENT_TYPE: Final = b"application/octet-stream;charset=UTF-8"
ERROR_TYPE: Final = (b"content-type", b"application/json;charset=UTF-8")
MAX_SHOWN: Final = 64
"""Characters of an unknown version that the error repeats."""


class FirstlightError(msgspec.Struct, frozen=True, rename="camel"):
    """An error body; the members' order is the document's."""

    code: str
    error_code: int
    type: str
    message: str


NO_CHALLENGE: Final = ("MissingLicenseChallengeError", 207, 400)
BAD_VERSION: Final = ("ClientError", 0, 400)
BAD_TOKEN: Final = ("InvalidPTokenError", 201, 401)
BAD_REQUEST: Final = ("InvalidRequestError", 1001, 400)
FORBIDDEN: Final = ("PlaybackForbiddenError", 1003, 403)
REFUSED: Final = ("LicenseRefusedError", 1004, 403)
NOT_READY: Final = ("NotReadyError", 1005, 500)
SERVER: Final = ("LicenseServerError", 1006, 500)
UPSTREAM: Final = ("UpstreamError", 1007, 500)

ERRORS: Final[dict[Reason, tuple[str, int, int]]] = {
    Reason.MISSING_CHALLENGE: NO_CHALLENGE,
    Reason.UNKNOWN_SERVICE: BAD_VERSION,
    Reason.TOKEN_MISSING: BAD_TOKEN,
    Reason.TOKEN_INVALID: BAD_TOKEN,
    Reason.TOKEN_EXPIRED: BAD_TOKEN,
    Reason.TOKEN_NOT_YET_VALID: BAD_TOKEN,
    Reason.TOKEN_USED: BAD_TOKEN,
    Reason.TOKEN_ADDRESS: BAD_TOKEN,
    Reason.MALFORMED: BAD_REQUEST,
    Reason.TOO_LARGE: BAD_REQUEST,
    Reason.NO_LICENSE_SERVER: BAD_REQUEST,
    Reason.TRACKS_NOT_NAMED: BAD_REQUEST,
    Reason.KEY_MISMATCH: BAD_REQUEST,
    Reason.UPSTREAM_REFUSED: REFUSED,
    Reason.NOT_READY: NOT_READY,
    Reason.TOO_STALE: NOT_READY,
    Reason.KEK_MISSING: SERVER,
    Reason.KEY_UNUSABLE: SERVER,
    Reason.INTERNAL: SERVER,
    Reason.UPSTREAM_FAILED: UPSTREAM,
    Reason.UPSTREAM_UNAVAILABLE: UPSTREAM,
    Reason.UPSTREAM_TIMEOUT: UPSTREAM,
}
"""(code, errorCode, status) of a reason; every other one is `FORBIDDEN`, an unknown KID too."""

interface: Final = Interface(
    summary="A license as Firstlight asks for it",
    description="A service configuration says organization, DRM system and license server. The license holds every "
    "entitled key of the KID's asset.",
    token="ptoken",  # noqa: S106 a name
    parameters=(
        Parameter(name="service", description="name of a service configuration", required=True),
        Parameter(name="version", description="its version", required=True),
        Parameter(name="kid", description="any KID of the asset, a UUID in any spelling", required=True),
    ),
    bodies={OCTETS: ()},
    licenses={CONTENT_TYPE.decode(): ()},
    error=FirstlightError,
)


def parse(raw: RawRequest) -> LicenseRequest | Refusal:
    """See `Dialect`. A KID in any spelling of a UUID; one that is none looks like an unknown one."""
    if not raw.body:
        return Refusal(reason=Reason.MISSING_CHALLENGE, message="No License Challenge present")
    try:
        token = raw.token(interface.token)
    except InvalidRecord as error:
        return Refusal(reason=Reason.MALFORMED, message=str(error))
    version = raw.query.get("version")
    return LicenseRequest(
        token=token,
        token_name=interface.token,
        challenge=raw.body,
        client=raw.client,
        kid=_kid(raw.query.get("kid", "")),
        service=(raw.query.get("service", ""), "null" if version is None else version),
    )


def respond(outcome: Answer | Refusal) -> Response:
    """See `Dialect`."""
    if isinstance(outcome, Answer):
        return licensed(outcome, CONTENT_TYPE)
    code, number, status = ERRORS.get(outcome.reason, FORBIDDEN)
    kind = "SERVER_ERROR" if status == 500 else "CLIENT_ERROR"
    body = msgspec.json.encode(
        FirstlightError(code=code, error_code=number, type=kind, message=_message(outcome, code))
    )
    headers = (ERROR_TYPE, NO_STORE, retry_after(outcome)) if status == 500 else (ERROR_TYPE, NO_STORE)
    return Response(status=status, body=body, headers=headers)


def _message(refusal: Refusal, code: str) -> str:
    match refusal.reason:
        case Reason.TOKEN_EXPIRED:
            return f"Token has expired: {refusal.at_ms} < {refusal.now_ms}"
        case Reason.UNKNOWN_SERVICE:
            return f"Invalid version number {refusal.message[:MAX_SHOWN]} not found"
        case Reason.UNKNOWN_ASSET | Reason.UNKNOWN_KID | Reason.WRONG_ORGANIZATION | Reason.TOKEN_SCOPE:
            return "the token gives no right to play this content"  # does not tell whether it exists
    return refusal.message


def _kid(text: str) -> bytes:
    try:
        return uuid.UUID(text).bytes
    except ValueError:
        return b""
