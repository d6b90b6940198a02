"""
Who asks, when load balancers stand in front: X-Forwarded-For, believed of listed proxies alone.

Every proxy appends the address that it was asked from, so the list is read from its end, and ends where it was written
by somebody who is not listed: what stands before that is whatever a caller likes to send.
"""

import ipaddress
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
HEADER: Final = b"x-forwarded-for"
UNKNOWN: Final = ""
"""No address: nothing that hangs on one holds."""
REMEMBERED: Final = 4096


class ClientAddress:
    """
    Tells the client's address.

    Args:
        trusted: addresses and networks of proxies; of nobody else the header is believed.
    """

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        self._networks = [ipaddress.ip_network(network) for network in trusted]
        self._is_trusted: Callable[[str], bool] = lru_cache(maxsize=REMEMBERED)(self._look_up)

    def of(self, peer: str, forwarded: str) -> str:
        """
        The address of whoever asked the first listed proxy, *peer* where that is none.

        Args:
            forwarded: the header, several of them joined by commas; empty where there is none.

        Returns:
            `UNKNOWN` when a listed proxy was asked by somebody that it does not name by address.
        """
        if not self._networks or not self._is_trusted(peer):
            return peer
        client = peer
        for part in reversed(forwarded.split(",")) if forwarded else ():
            found = read_address(part)
            if found is None:
                return UNKNOWN
            client = str(found)
            if not self._is_trusted(client):
                break
        return client

    def _look_up(self, text: str) -> bool:
        address = read_address(text)
        return address is not None and any(address in network for network in self._networks)


def read_address(text: str) -> Address | None:
    """An address with or without port, IPv6 then in brackets; an IPv4 one inside IPv6 as itself. None: it is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
