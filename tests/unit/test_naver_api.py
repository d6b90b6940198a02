"""NAVER's policy API without HTTP: signature vectors, time, pages, answers."""

import base64
import hashlib
import hmac
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.core.formats.naver import read
from keymill.core.policy_records import built_in
from keymill.errors import InvalidRecord
from keymill.gateway.dialects.naver import (
    NaverPolicy,
    Signed,
    Status,
    content_of,
    error_answer,
    is_signed,
    is_timely,
    page_of,
    paging,
    signature,
)
from keymill.gateway.dialects.naver_route import handles
from keymill.secret import Secret
from schemas.records import PolicyRecord, PolicyState
from schemas.values import LogPosition
from tests.unit.test_naver_format import ANSWERED, PRINTED

NOW = 1_700_480_000_000
ACCESS = "6uxz1nKkcYwUjWRG5Q1V7NsW0i5jErlu2NjBXXgy"
RECORD = PolicyRecord(
    organization="acme",
    policy_id=122,
    version=1,
    state=PolicyState.READY,
    name="mySamplePolicy",
    policy=read(json.dumps(PRINTED).encode()).policy,
    applied=LogPosition(generation=0, offset=0),
    created=1700479924517,
    changed=1700479924526,
)


def signed(method="POST", target=b"/api/v1/policy", timestamp="1521787414578", access=ACCESS, given=""):
    return Signed(method=method, target=target, timestamp=timestamp, access_key=access, signature=given)


@pytest.mark.parametrize(
    ("request_", "secret", "expected"),
    [  # printf 'METHOD TARGET\nTIMESTAMP\nACCESS KEY' | openssl dgst -sha256 -hmac SECRET -binary | base64
        (signed(), "HvYxGBEJX5gjv5oHdZLwfgjZ5t1x9pCA3Z0QyYVi", "IVA6t0bXeX3XSzdIjYey2AXcgjBFuJ0xqorrs0/baTs="),
        (
            signed("GET", b"/api/v1/policy?pageNo=1&b=%7E&a=+", access="key"),
            "secret",
            "tlqZyiC41ROLacsSKSNS5RDrD+qqfl8AQVsu2ixgdpo=",
        ),
    ],
)
def test_signature_vectors(request_, secret, expected):
    """Made with openssl: method, one space, target, timestamp, access key, two line ends, none at the end."""
    assert signature(request_.message(), Secret(secret.encode())) == expected
    assert is_signed(msgspec.structs.replace(request_, signature=expected), Secret(secret.encode()))


LATIN = st.text(st.characters(max_codepoint=255), max_size=30)


@given(st.binary(max_size=60), st.binary(min_size=1, max_size=60), LATIN, LATIN)
def test_signature_is_over_what_was_received(target, secret, timestamp, access):
    """Whatever the bytes are; and no other signature fits."""
    message = b"PUT " + target + b"\n" + timestamp.encode("latin-1") + b"\n" + access.encode("latin-1")
    own = base64.b64encode(hmac.new(secret, message, hashlib.sha256).digest()).decode()
    request = signed("PUT", target, timestamp, access, own)
    assert is_signed(request, Secret(secret))
    assert not is_signed(request, Secret(secret + b"."))
    for other in ("", own[:-1], own + "=", own.swapcase(), "é"):
        assert not is_signed(msgspec.structs.replace(request, signature=other), Secret(secret))


@pytest.mark.parametrize(
    ("timestamp", "timely"),
    [
        (str(NOW), True),
        (str(NOW - 299_999), True),
        (str(NOW + 299_999), True),
        (str(NOW - 300_000), False),
        (str(NOW + 300_000), False),
        ("0", False),
        ("", False),
        (f" {NOW}", False),
        (f"-{NOW}", False),
        (f"{NOW}.0", False),
        ("9" * 400, False),
        ("１７００", False),
    ],
)
def test_five_minutes_are_too_old(timestamp, timely):
    """At 300,000 ms, before and after; what is no number of milliseconds is never timely."""
    assert is_timely(timestamp, NOW) is timely


def test_the_printed_response():
    """Member for member, in the printed order, with the printed id and times."""
    content = json.dumps(
        {
            "policyId": 122,
            "policyName": "mySamplePolicy",
            "policyStatus": "CREATED",
            "policyCreatedTime": 1700479924517,
            "policyUpdateTime": 1700479924526,
        }
        | ANSWERED,
        separators=(",", ":"),
    )
    answer = NaverPolicy(success=True, content=content_of(RECORD, Status.CREATED))
    assert msgspec.json.encode(answer).decode() == f'{{"success":true,"content":{content}}}'


def test_statuses():
    """READY and DELETED are the policy's own; the built-in policy has no times."""
    assert content_of(RECORD).policy_status is Status.READY
    gone = content_of(msgspec.structs.replace(RECORD, state=PolicyState.DELETED, version=2, changed=7))
    assert (gone.policy_status, gone.policy_deleted_time, gone.policy_update_time) == (Status.DELETED, 7, 7)
    first = json.loads(msgspec.json.encode(content_of(built_in("acme"))))
    assert first["policyId"] == 0 and not [name for name in first if name.endswith("Time")]


def test_a_page_is_of_the_policies_given():
    """In their order, beside how many there are in all."""
    page = page_of([msgspec.structs.replace(RECORD, policy_id=index) for index in (3, 5)], 40)
    assert ([3, 5], 40) == ([each.policy_id for each in page.content], page.total)


def test_paging_has_bounds():
    """pageNo from 1, pageSize 1 to 100, defaults 1 and 20."""
    assert paging(None, None) == (1, 20) and paging("7", "100") == (7, 100)
    for number, size in (
        ("0", None),
        ("", None),
        ("x", None),
        (None, "0"),
        (None, "101"),
        (None, "-1"),
        ("9" * 11, None),
    ):
        with pytest.raises(InvalidRecord):
            paging(number, size)


def test_an_error_is_three_strings():
    """The status as text among them."""
    told = json.loads(msgspec.json.encode(error_answer(401, "unauthorized", "who?")))
    assert told == {"success": False, "error": {"code": "401", "name": "unauthorized", "message": "who?"}}


@pytest.mark.parametrize(
    ("path", "own"),
    [("/api/v1/policy", True), ("/api/v1/policy/7/x", True), ("/api/v1/policyx", False), ("/v1/organizations", False)],
)
def test_errors_of_this_api_have_its_form(path, own):
    """By the path alone, so unknown ones below it too."""
    from starlette.requests import Request

    assert handles(Request({"type": "http", "path": path, "headers": []})) is own
