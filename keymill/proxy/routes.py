"""Which path is which dialect: one table."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from keymill.proxy.dialects import firstlight, hls, single, tpstreams, widevine
from keymill.proxy.dialects.dedicated import Dedicated
from keymill.proxy.request import Dialect
from schemas.values import DrmSystem

MAX_PATH: Final = 512
"""Characters; the longest ids fill 300."""
REMEMBERED: Final = 4096
"""Paths that are not taken apart again, 2 MiB at most."""


@dataclass(frozen=True, slots=True)
class LicenseRoute:
    """One license endpoint. `path` is its template, which metrics count by; a slash at its end means nothing."""

    path: str
    dialect: Dialect
    method: str = "POST"

    def match(self, parts: list[str]) -> Mapping[str, str] | None:
        """The named parts of a path that is this route's, given as `path.split("/")`."""
        if parts[-1] == "":
            parts = parts[:-1]
        template = _TEMPLATES[self.path]
        if len(parts) != len(template):
            return None
        named: dict[str, str] = {}
        for want, part in zip(template, parts, strict=True):
            if want.startswith("{"):
                named[want[1:-1]] = part
            elif want != part:
                return None
        return named


ROUTES: Final = (
    LicenseRoute("/clearkey/{organization}/{asset}", Dedicated(DrmSystem.CLEARKEY)),
    LicenseRoute("/widevine/{organization}/{asset}", widevine),
    LicenseRoute("/playready/{organization}/{asset}", Dedicated(DrmSystem.PLAYREADY)),
    LicenseRoute("/fairplay/{organization}/{asset}", Dedicated(DrmSystem.FAIRPLAY)),
    LicenseRoute("/license", single),
    LicenseRoute("/hls/{organization}/{asset}/{kid}", hls, method="GET"),
    LicenseRoute("/api/v1/{organization}/assets/{asset}/drm_license", tpstreams),
    LicenseRoute("/getlicense", firstlight),
)
METHODS: Final = frozenset(route.method for route in ROUTES)
_TEMPLATES: Final = {route.path: route.path.split("/") for route in ROUTES}


def route_of(path: str) -> tuple[LicenseRoute, Mapping[str, str]] | None:
    """The license endpoint of *path*, and the path's named parts."""
    return _found(path) if len(path) <= MAX_PATH else None


@lru_cache(maxsize=REMEMBERED)
def _found(path: str) -> tuple[LicenseRoute, Mapping[str, str]] | None:
    parts = path.split("/")
    for route in ROUTES:
        named = route.match(parts)
        if named is not None:
            return route, named
    return None
