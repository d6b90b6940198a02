"""Who asks, behind load balancers: only what a listed proxy wrote is believed."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.http.client_address import UNKNOWN, ClientAddress, read_address

LISTED = ClientAddress(["10.0.0.1/32", "192.168.0.0/16", "fd00::/8"])
ADDRESSES = st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str)
PROXIES = st.sampled_from(["10.0.0.1", "192.168.7.7", "fd00::1"])
OUTSIDE = ADDRESSES.filter(lambda text: not LISTED._is_trusted(text))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("8.8.8.8", "", "8.8.8.8"),
        ("8.8.8.8", "1.1.1.1", "8.8.8.8"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "1.1.1.1", "1.1.1.1"),
        ("10.0.0.1", "9.9.9.9, 1.1.1.1", "1.1.1.1"),
        ("10.0.0.1", "9.9.9.9, 1.1.1.1, 192.168.0.3", "1.1.1.1"),
        ("10.0.0.1", "192.168.0.4, 192.168.0.3", "192.168.0.4"),
        ("10.0.0.1", "1.1.1.1:5060", "1.1.1.1"),
        ("10.0.0.1", "[2001:db8::5]:443", "2001:db8::5"),
        ("10.0.0.1", "2001:db8::5", "2001:db8::5"),
        ("10.0.0.1", "::ffff:1.1.1.1", "1.1.1.1"),
        ("::ffff:10.0.0.1", "1.1.1.1", "1.1.1.1"),
        ("10.0.0.1", "1.1.1.1, unknown", UNKNOWN),
        ("10.0.0.1", "1.1.1.1,", UNKNOWN),
        ("10.0.0.1", "unknown, 1.1.1.1", "1.1.1.1"),
        ("", "1.1.1.1", ""),
    ],
)
def test_the_rightmost_unlisted_address_asks(peer: str, forwarded: str, client: str) -> None:
    """Read from the end, past listed proxies; a hop without an address leaves nobody to believe in."""
    assert client == LISTED.of(peer, forwarded)


@given(peer=PROXIES, hops=st.lists(PROXIES), client=OUTSIDE, sent=st.text(max_size=40))
def test_what_a_caller_sends_is_never_believed(peer: str, hops: list[str], client: str, sent: str) -> None:
    """Whatever stands before the address that the first listed proxy wrote."""
    plain = str(read_address(client))
    assert plain == LISTED.of(peer, ",".join([sent, client, *hops]))
    assert plain == LISTED.of(peer, ",".join([client, *hops]))


@given(peer=OUTSIDE, sent=st.text(max_size=40))
def test_nobody_else_is_believed(peer: str, sent: str) -> None:
    """Neither of an unlisted peer nor where none is listed the header is looked at."""
    assert peer == LISTED.of(peer, sent) == ClientAddress().of(peer, sent)


@given(address=ADDRESSES, port=st.integers(1, 65535))
def test_an_address_is_read_with_and_without_port(address: str, port: int) -> None:
    """IPv6 stands in brackets before a port."""
    assert read_address(address) == read_address(f"[{address}]:{port}" if ":" in address else f"{address}:{port}")
    whole = ipaddress.ip_address(address)
    assert read_address(address) == (getattr(whole, "ipv4_mapped", None) or whole)
