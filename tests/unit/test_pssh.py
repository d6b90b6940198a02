"""PSSH boxes and Widevine's message, against published vectors."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.drm import pssh, systems, widevine
from keymill.drm.pssh import Pssh
from keymill.drm.widevine import WidevineData
from keymill.errors import InvalidRecord
from schemas.values import Scheme

# W3C "cenc" Initialization Data Format, section 4.3, example of a common PSSH box.
W3C = bytes.fromhex(
    "00000044 70737368 01000000 1077efecc0b24d02ace33c1e52e2fb4b 00000002"
    "30313233343536373839303132333435 4142434445464748494a4b4c4d4e4f50 00000000"
)
# Axinom's public test vector v7, KID 9eb4050d-e44b-4802-932e-27d75083e266.
AXINOM = base64.b64decode("AAAANHBzc2gAAAAA7e+LqXnWSs6jyCfc1R0h7QAAABQIARIQnrQFDeRLSAKTLifXUIPiZg==")
KID = bytes.fromhex("9eb4050de44b4802932e27d75083e266")
sixteen = st.binary(min_size=16, max_size=16)


def test_common_box_is_the_published_one() -> None:
    """The common box is byte for byte what W3C prints."""
    kids = (b"0123456789012345", b"ABCDEFGHIJKLMNOP")
    assert pssh.common(kids) == W3C
    assert pssh.parse(W3C) == (Pssh(system_id=systems.COMMON, kids=kids),)


def test_published_widevine_box_is_read() -> None:
    """The message of a public test vector gives its KID; the deprecated algorithm field is passed over."""
    (box,) = pssh.parse(AXINOM)
    assert box.system_id == systems.WIDEVINE
    assert widevine.decode_data(box.data) == WidevineData(kids=(KID,))
    assert widevine.kids_of(AXINOM + W3C) == (KID,)


def test_widevine_box_of_cbcs() -> None:
    """The scheme is its four-character code as a varint; cenc is left out."""
    cbcs = WidevineData(kids=(KID,), content_id=b"movie-42", scheme=Scheme.CBCS)
    expected = b"\x12\x10" + KID + b"\x22\x08movie-42" + bytes.fromhex("48f3c6899b06")
    assert widevine.encode_data(cbcs) == expected
    assert widevine.encode_data(WidevineData(kids=(KID,))) == b"\x12\x10" + KID


def test_crypto_period_stands_in_the_message() -> None:
    """Index and length of a crypto period come back as they were written."""
    data = WidevineData(kids=(KID,), period_index=300, period_s=10, provider="acme", policy="7", scheme=Scheme.CENS)
    assert widevine.decode_data(widevine.encode_data(data)) == data


@given(st.lists(st.builds(Pssh, system_id=sixteen, kids=st.lists(sixteen, max_size=3).map(tuple), data=st.binary())))
def test_boxes_come_back(boxes: list[Pssh]) -> None:
    """Any row of boxes is read as it was written."""
    assert pssh.parse(b"".join(map(pssh.build, boxes))) == tuple(boxes)


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: W3C[:30] + tail))
def test_any_bytes_are_boxes_or_refused(data: bytes) -> None:
    """Whatever arrives, only the documented error is raised."""
    try:
        pssh.parse(data)
    except InvalidRecord as error:
        assert error.field == "pssh"


@given(st.binary(max_size=100))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    """The same for the message; what is read is written as something that reads the same."""
    try:
        read = widevine.decode_data(data)
    except InvalidRecord as error:
        assert error.field == "pssh_data"
    else:
        assert widevine.decode_data(widevine.encode_data(read)) == read


@pytest.mark.parametrize("cut", range(1, len(W3C)))
def test_cut_box_is_refused(cut: int) -> None:
    """A box that ends early is refused wherever it is cut."""
    with pytest.raises(InvalidRecord):
        pssh.parse(W3C[:cut])
