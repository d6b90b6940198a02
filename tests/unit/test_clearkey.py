"""ClearKey as W3C EME defines it."""

import base64
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keymill.drm.clearkey import MAX_KIDS, ClearKeyRequest, SessionType, license_of, parse_request
from keymill.errors import InvalidRecord
from keymill.secret import Secret

KID = bytes(range(16))


def b64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def test_specification_example_is_read() -> None:
    """The request printed in EME, 9.1.3."""
    body = b'{ "kids": [ "LwVHf8JLtPrv2GUXFW2v_A" ], "type": "temporary" }'
    kid = bytes.fromhex("2f05477fc24bb4faefd86517156daffc")
    assert ClearKeyRequest(kids=(kid,), session_type=SessionType.TEMPORARY) == parse_request(body)


def test_absent_type_is_temporary() -> None:
    """Players may leave the type out."""
    assert parse_request(json.dumps({"kids": [b64(KID)]}).encode()).session_type is SessionType.TEMPORARY


def test_kids_are_asked_once_in_order() -> None:
    """A repeated KID counts once."""
    other = bytes(16)
    asked = parse_request(json.dumps({"kids": [b64(other), b64(KID), b64(other)]}).encode())
    assert (other, KID) == asked.kids


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"kids": []}',
        b'{"kids": null}',
        b'{"kids": [1]}',
        b'{"kids": ["AAAA"]}',
        b'{"kids": ["AAAAAAAAAAAAAAAAAAAAA*"]}',
        b'{"kids": ["+/AAAAAAAAAAAAAAAAAAAA"]}',
        b'{"kids": ["AAAAAAAAAAAAAAAAAAAAAA"], "type": "persistent-usage-record"}',
        json.dumps({"kids": [b64(i.to_bytes(16, "big")) for i in range(MAX_KIDS + 1)]}).encode(),
        b"[" * 100_000,
    ],
)
def test_anything_else_is_refused(body: bytes) -> None:
    """With an error that names the field, never another exception."""
    with pytest.raises(InvalidRecord):
        parse_request(body)


def test_license_is_a_jwk_set() -> None:
    """Unpadded base64url, key type oct, the request's type."""
    made = json.loads(license_of([(KID, Secret(b"\xff" * 16))], SessionType.PERSISTENT))
    key = {"kty": "oct", "k": b64(b"\xff" * 16), "kid": b64(KID)}
    assert {"keys": [key], "type": "persistent-license"} == made


def test_empty_license_is_never_made() -> None:
    """A set without keys would look like a license to the player."""
    with pytest.raises(ValueError):
        license_of([], SessionType.TEMPORARY)


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=20), st.sampled_from(SessionType))
@example([b"\xfb\xff" * 8], SessionType.TEMPORARY)
def test_any_kids_come_back(kids: list[bytes], kind: SessionType) -> None:
    """What a browser asks is what is read, and what is answered is what a browser reads."""
    asked = parse_request(json.dumps({"kids": [b64(kid) for kid in kids], "type": kind.value}).encode())
    assert tuple(dict.fromkeys(kids)) == asked.kids
    made = json.loads(license_of([(kid, Secret(kid)) for kid in asked.kids], asked.session_type))
    assert [b64(kid) for kid in asked.kids] == [key["kid"] for key in made["keys"]]
    assert kind.value == made["type"]


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_any_body_is_read_or_refused(body: bytes) -> None:
    """No body raises anything but the one error."""
    try:
        parse_request(body)
    except InvalidRecord:
        pass
