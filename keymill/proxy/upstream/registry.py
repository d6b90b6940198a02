"""Which license server serves whom: the settings' tables as upstreams, found by organization, DRM system and name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, assert_never

from keymill.errors import Misconfigured
from keymill.proxy.request import Answer
from keymill.proxy.upstream.challenges import OCTETS
from keymill.proxy.upstream.clearkey import ClearKey
from keymill.proxy.upstream.contract import Upstream
from keymill.proxy.upstream.entitlement import Entitlement
from keymill.proxy.upstream.forward import Forward
from keymill.proxy.upstream.http import Client
from keymill.proxy.upstream.widevine import Widevine
from keymill.upstream_settings import EntitlementUpstream, ForwardUpstream, WidevineUpstream
from keymill.upstream_settings import Upstream as Table
from schemas.values import DrmSystem

_CLEARKEY: Final = ClearKey()
Place = tuple[str, DrmSystem]
"""An organization and a DRM system."""


class Registry:
    """
    The license servers of a worker. ClearKey is the proxy itself, for every organization.

    A server that is its organization's only one for a DRM system serves it, unless its table says `default = false`.
    """

    def __init__(self, named: Mapping[str, tuple[Place, Upstream]], defaults: Mapping[Place, Upstream]) -> None:
        self._named = dict(named)
        self._defaults = dict(defaults)

    def find(self, organization: str, drm_system: DrmSystem, name: str | None = None) -> Upstream | None:
        """See `Upstreams`."""
        if name is None:
            if drm_system is DrmSystem.CLEARKEY:
                return _CLEARKEY
            return self._defaults.get((organization, drm_system))
        place, upstream = self._named.get(name, (None, None))
        return upstream if place == (organization, drm_system) else None


def registry_of(tables: Mapping[str, Table], client: Client, now_ms: Callable[[], int]) -> Registry:
    """The upstreams of the settings, which must have been checked; call inside the event loop."""
    named: dict[str, tuple[Place, Upstream]] = {}
    defaults: dict[Place, Upstream] = {}
    for name, table in tables.items():
        place = (table.organization, table.drm_system)
        upstream = _upstream(name, table, client, now_ms)
        named[name] = (place, upstream)
        if table.default is not False:
            defaults[place] = upstream
    return Registry(named, defaults)


def _upstream(name: str, table: Table, client: Client, now_ms: Callable[[], int]) -> Upstream:
    server, certificate = client.server(name, table), _certificate(name, table.service_certificate_file)
    match table:
        case WidevineUpstream():
            return Widevine(server, table, certificate)
        case EntitlementUpstream():
            return Entitlement(server, table, certificate, now_ms)
        case ForwardUpstream():
            return Forward(server, table, certificate)
    assert_never(table)


def _certificate(name: str, file: Path | None) -> Answer | None:
    if file is None:
        return None
    try:
        return Answer(body=file.read_bytes(), content_type=OCTETS)
    except OSError as error:
        raise Misconfigured(f"setting upstreams.{name}.service_certificate_file: {file}: {error.strerror}") from None
