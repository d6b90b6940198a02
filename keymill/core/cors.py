"""
What a browser is told about who may ask from where (CORS): the rules as a value, and the headers that follow from them.

Authority is the player token's alone and no cookie is ever read, so by default every page may ask, with whatever
headers its player sends: PlayReady's SOAPAction, and those that DRM integrations use for tokens and custom data.
"""

import re
from functools import cached_property
from typing import Final

import msgspec

ANY: Final = "*"
NEEDED: Final = ("authorization", "content-type", "soapaction", "x-request-id")
"""Request headers of the license protocols, which a page may send whatever the settings list besides."""
EXPOSED: Final = b"x-request-id, retry-after, age, x-keymill-staleness"
MAX_ASKED: Final = 2048
"""Characters of a preflight's list of headers; browsers send a few dozen names at most."""
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]{0,31}://[A-Za-z0-9.:\[\]_-]{1,255}|null")
_METHODS: Final = (b"access-control-allow-methods", b"GET, POST, OPTIONS")
_MAX_AGE: Final = (b"access-control-max-age", b"600")
_VARY: Final = (b"vary", b"Origin")
_EXPOSE: Final = (b"access-control-expose-headers", EXPOSED)
_CREDENTIALS: Final = (b"access-control-allow-credentials", b"true")
_ALLOW: Final = b"access-control-allow-origin"
Headers = tuple[tuple[bytes, bytes], ...]


class CorsRules(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """
    Whose pages may read answers.

    Args:
        origins: as `https://portal.example`, or `*` for every one.
        headers: that a page may send besides `NEEDED`, or `*` for whatever it asks for.
        credentials: whether browsers may send cookies along (`credentials: include`), which nobody here reads. They
            take no `*` then, so that the origin is repeated.
    """

    origins: tuple[str, ...] = (ANY,)
    headers: tuple[str, ...] = (ANY,)
    credentials: bool = False

    def answered(self, origin: str) -> Headers:
        """Return the headers of an answer to a page of *origin*, empty where the request names none."""
        return self._for_all if self._for_all else self._for_one(origin)

    def preflight(self, origin: str, asked: str) -> Headers:
        """
        Return the headers of a preflight's answer, without those of `answered`.

        Args:
            asked: the preflight's list of the headers that the page wants to send.
        """
        names = [name.strip().lower() for name in asked.split(",")] if len(asked) <= MAX_ASKED else []
        wanted = [name for name in names if _HEADER_NAME.fullmatch(name)]
        more = wanted if ANY in self.headers else [name.lower() for name in self.headers]
        allowed = ", ".join(dict.fromkeys((*NEEDED, *more)))
        return (_METHODS, (b"access-control-allow-headers", allowed.encode("ascii")), _MAX_AGE)

    @cached_property
    def _for_all(self) -> Headers:
        """The same headers for everybody; empty where they differ."""
        return ((_ALLOW, b"*"), _EXPOSE) if ANY in self.origins and not self.credentials else ()

    def _for_one(self, origin: str) -> Headers:
        if not _ORIGIN.fullmatch(origin) or not (ANY in self.origins or origin in self.origins):
            return (_VARY,)
        allowed = (_ALLOW, origin.encode("ascii"))
        return (allowed, _CREDENTIALS, _EXPOSE, _VARY) if self.credentials else (allowed, _EXPOSE, _VARY)


OPEN: Final = CorsRules()
"""Every page, every header."""


def check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """Return *origins* when each is `*` or an origin as browsers write it, else raise `ValueError`."""
    for origin in origins:
        if origin != ANY and not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is no origin: write https://host or https://host:port, without a path, or *")
    return origins


def check_headers(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return *names* when each is `*` or the name of a header, else raise `ValueError`."""
    for name in names:
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of an HTTP header")
    return names
