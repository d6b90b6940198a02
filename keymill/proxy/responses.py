"""A refusal as a problem document, for the dialects whose documents print no error body."""

from typing import Final

from keymill.http.problems import MEDIA_TYPE, problem
from keymill.proxy.request import Answer, Refusal, Response

NO_STORE: Final = (b"cache-control", b"no-store")
_PROBLEM: Final = (b"content-type", MEDIA_TYPE.encode())
_CHALLENGE: Final = (b"www-authenticate", b'Bearer error="invalid_token"')


def licensed(answer: Answer, content_type: bytes = b"") -> Response:
    """The license as it is, for nobody's cache; of the dialect's Content-Type, or of its own."""
    kind = content_type or answer.content_type.encode()
    return Response(status=200, body=answer.body, headers=((b"content-type", kind), NO_STORE))


def retry_after(refusal: Refusal) -> tuple[bytes, bytes]:
    """The header that says when to ask again."""
    return b"retry-after", b"%d" % refusal.retry_after_s


def refused(refusal: Refusal) -> Response:
    """The problem document of a refusal."""
    headers = [_PROBLEM, NO_STORE]
    if refusal.transient:
        headers.append(retry_after(refusal))
    if refusal.status == 401:
        headers.append(_CHALLENGE)
    document = problem(refusal.status, refusal.reason.value, refusal.message)
    return Response(status=refusal.status, body=bytes(document.body), headers=tuple(headers))
