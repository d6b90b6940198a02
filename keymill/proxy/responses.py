"""A refusal as a problem document, for the dialects whose documents print no error body."""

from typing import Final

from keymill.http.problems import MEDIA_TYPE, problem
from keymill.proxy.request import TRANSIENT_RETRY_S, Answer, Refusal, Response

NO_STORE: Final = ("cache-control", "no-store")
RETRY_AFTER: Final = ("retry-after", str(TRANSIENT_RETRY_S))
_CHALLENGE: Final = ("www-authenticate", 'Bearer error="invalid_token"')


def licensed(answer: Answer) -> Response:
    """The license as it is, for nobody's cache."""
    return Response(status=200, body=answer.body, content_type=answer.content_type, headers=(NO_STORE,))


def refused(refusal: Refusal) -> Response:
    """The problem document of a refusal."""
    headers = [NO_STORE]
    if refusal.transient:
        headers.append(RETRY_AFTER)
    if refusal.status == 401:
        headers.append(_CHALLENGE)
    document = problem(refusal.status, refusal.reason.value, refusal.message)
    return Response(status=refusal.status, body=bytes(document.body), content_type=MEDIA_TYPE, headers=tuple(headers))
