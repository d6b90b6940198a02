"""Which path is which dialect: one table."""

from dataclasses import dataclass
from typing import Final

from keymill.proxy.dialects import clearkey_route, firstlight, tpstreams
from keymill.proxy.request import Dialect


@dataclass(frozen=True, slots=True)
class LicenseRoute:
    """One license endpoint. `path` is its template, which metrics count by; a trailing slash is optional where told."""

    path: str
    dialect: Dialect
    optional_slash: bool = False

    def match(self, parts: list[str]) -> dict[str, str] | None:
        """The named parts of a path that is this route's, given as `path.split("/")`."""
        if self.optional_slash and parts[-1] == "":
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
    LicenseRoute("/clearkey/{organization}/{asset}", clearkey_route),
    LicenseRoute("/api/v1/{organization}/assets/{asset}/drm_license", tpstreams, optional_slash=True),
    LicenseRoute("/getlicense", firstlight),
)
_TEMPLATES: Final = {route.path: route.path.split("/") for route in ROUTES}


def route_of(path: str) -> tuple[LicenseRoute, dict[str, str]] | None:
    """The license endpoint of *path*, and the path's named parts."""
    parts = path.split("/")
    for route in ROUTES:
        named = route.match(parts)
        if named is not None:
            return route, named
    return None
