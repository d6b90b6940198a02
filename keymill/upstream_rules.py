"""
Which license servers may be asked at all: the rules over all tables of a settings file.

Keys leave the process in these requests. So a server must be on the allow-list and speak TLS; plain HTTP goes no
further than this machine.
"""

import ipaddress
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import SplitResult, urlsplit

from keymill.upstream_settings import Upstream
from schemas.values import DrmSystem

MAX_UPSTREAMS: Final = 1000
"""License servers of one proxy; each has a breaker and metrics of its own in every worker."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HOST: Final = re.compile(r"[a-z0-9._-]{1,253}|[0-9a-f:.]{2,45}")


def check_allowed(hosts: Collection[str]) -> tuple[str, ...]:
    """The allow-list, in lower case; raises `ValueError` for an entry that is no host."""
    listed = tuple(host.strip().lower().removeprefix("[").removesuffix("]") for host in hosts)
    for host in listed:
        if not _HOST.fullmatch(host):
            raise ValueError(f"{host[:64]!r} is no host: give names or addresses alone, without scheme, port and path")
    return listed


def check_upstreams(upstreams: Mapping[str, Upstream], allowed: Collection[str]) -> None:
    """
    Raise `ValueError`, naming table and member, unless every server may be asked.

    1. A name is one that a service configuration and a metric can hold.
    2. Its host is on the allow-list; TLS, or a loopback address.
    3. Of several of an organization and DRM system each says whether it is the default, and at most one is.
    """
    if len(upstreams) > MAX_UPSTREAMS:
        raise ValueError(f"at most {MAX_UPSTREAMS} tables")
    groups: dict[tuple[str, DrmSystem], list[str]] = defaultdict(list)
    for name, upstream in upstreams.items():
        # (1)
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name[:64]!r}: a name has 1 to 63 of A-Z a-z 0-9 . _ - and starts with none of . _ -")
        # (2)
        _check_url(name, upstream.url, allowed)
        groups[upstream.organization, upstream.drm_system].append(name)
    # (3)
    for names in groups.values():
        _check_defaults({name: upstreams[name].default for name in names})


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name or address alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_url(name: str, url: str, allowed: Collection[str]) -> None:
    host = _host(name, url)
    if host not in allowed:
        raise ValueError(f"{name}.url: the host {host} is not in upstream_allow")
    if urlsplit(url).scheme == "http" and not is_loopback(host):
        raise ValueError(f"{name}.url: keys go to {host} over https alone; plain http is for loopback addresses")


def _host(name: str, url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(f"{name}.url is no URL") from None
    if parts.scheme not in ("https", "http") or not host or not _plain(parts, url):
        raise ValueError(f"{name}.url must be https://host[:port]/path, without user, password and fragment")
    return host


def _plain(parts: SplitResult, url: str) -> bool:
    return parts.username is None and parts.password is None and not parts.fragment and url.isascii() and " " not in url


def _check_defaults(defaults: Mapping[str, bool | None]) -> None:
    if len(defaults) == 1:
        return
    unsaid = [name for name, default in defaults.items() if default is None]
    if unsaid:
        raise ValueError(f"{unsaid[0]}.default: say true or false, there are several: {', '.join(sorted(defaults))}")
    chosen = [name for name, default in defaults.items() if default]
    if len(chosen) > 1:
        raise ValueError(f"{chosen[1]}.default: {chosen[0]} is the default already")
