"""HTTP to the programs on this machine: never through a proxy of the environment, never following a redirect."""

import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from email.message import Message

TIMEOUT_S = 15.0  # longer than the gateway's own 10 s wait for a record


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer of any status. The body may hold keys and is not shown."""

    status: int
    headers: Message
    body: bytes = field(repr=False)
    took_ms: float


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_arguments: object, **_options: object) -> None:
        return None


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())


def call(url: str, *, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
    """
    GET *url*, or POST the JSON *body* to it.

    Raises:
        OSError: nobody answers. An error status is an answer, not an exception.
    """
    kind = {} if body is None else {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data=body, headers={**kind, **(headers or {})})
    started = time.perf_counter()
    try:
        with _opener.open(request, timeout=TIMEOUT_S) as response:
            content = response.read()
            return Answer(response.status, response.headers, content, _since_ms(started))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers, error.read(), _since_ms(started))


def _since_ms(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 1)
