"""
Which token a request brings: one, wherever it stands.

A token may stand in the query, in `Authorization: Bearer` and in a header of the settings. Several places must agree,
so that nobody checks one and another is used.
"""

import re
from collections.abc import Iterable
from typing import Final

from keymill.errors import InvalidRecord

AUTHORIZATION: Final = "authorization"
_BEARER: Final = re.compile(r"bearer +", re.IGNORECASE)
_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,128}")
_OTHERS: Final = frozenset(
    {"accept", "accept-encoding", "accept-language", "connection", "content-encoding", "content-length",
     "content-type", "cookie", "expect", "forwarded", "host", "origin", "referer", "soapaction", "te", "trailer",
     "transfer-encoding", "upgrade", "user-agent", "via", "x-forwarded-for", "x-request-id"}
)  # fmt: skip
"""Headers that mean something else here, or that programs in between write."""


def bearer_in(name: str, value: str) -> str:
    """
    Return the token in a header, without the word Bearer; empty where it holds none.

    Args:
        name: in lower case. `authorization` of another scheme is not for us; any other header may go without the word.
    """
    word = _BEARER.match(value)
    if word is None and name == AUTHORIZATION:
        return ""
    return (value[word.end() :] if word else value).strip()


def one_token(in_query: str, in_headers: Iterable[str]) -> str:
    """
    Return the token that a request brings, empty for none.

    Raises:
        InvalidRecord: its places name different ones. The message holds neither.
    """
    given = {token for token in (in_query, *in_headers) if token}
    if len(given) > 1:
        raise InvalidRecord("the request brings two different tokens: leave one of them away", field="token")
    return given.pop() if given else ""


def check_token_header(name: str) -> str:
    """Return *name* when it may hold tokens, or is empty; else raise `ValueError`."""
    if name and (not _NAME.fullmatch(name) or name.lower() in _OTHERS):
        raise ValueError(f"{name!r} cannot hold a token: take a header that means nothing else, such as X-Player-Token")
    return name
