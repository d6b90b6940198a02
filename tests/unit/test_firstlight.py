"""Firstlight's endpoint: the documented error bodies, exactly, in the documented order."""

import itertools
import json
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from keymill.proxy.dialects import firstlight
from keymill.proxy.request import STATUS, Reason, Refusal
from schemas.values import DrmSystem
from tests.proxy_rig import ProxyRig, challenge

OCTETS = "application/octet-stream;charset=UTF-8"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyRig]:
    """One proxy for all."""
    made = ProxyRig(tmp_path_factory.mktemp("firstlight"))
    made.ingest("film", "SD", "HD", "AUDIO")
    made.put_service("demo", "1.0")
    made.put_service("old", "1.0", retired=True)
    made.put_service("wide", "1.0", drm_system=DrmSystem.WIDEVINE)
    made.put_service("shared", "1.0")
    made.put_service("shared", "1.0", organization="other")
    yield made
    made.close()


@pytest.fixture
def rig(house: ProxyRig) -> ProxyRig:
    """The proxy, in contact with its brokers."""
    house.beat()
    return house


def ask(rig: ProxyRig, body: bytes | None = None, **changed: str | None) -> httpx.Response:
    """A right request but for what is changed; None leaves a member out."""
    members: dict[str, str | None] = {
        "service": "demo",
        "version": "1.0",
        "kid": str(uuid.UUID(bytes=rig.kid("film"))).upper(),
        "ptoken": rig.token("film"),
        **changed,
    }
    query = {name: value for name, value in members.items() if value is not None}
    content = challenge(rig.kid("film")) if body is None else body
    return rig.request("POST", "/getlicense", params=query, content=content)


def error(code: str, number: int, message: str, kind: str = "CLIENT_ERROR") -> bytes:
    """The body as the document prints it, without white space."""
    return f'{{"code":"{code}","errorCode":{number},"type":"{kind}","message":"{message}"}}'.encode()


def test_one_kid_gives_all_entitled_keys(rig: ProxyRig) -> None:
    """Whatever the challenge names: the license is the asset's."""
    answer = ask(rig)
    kids = {rig.kid("film", label) for label in ("SD", "HD", "AUDIO")}
    assert {kid: rig.clear[kid] for kid in kids} == rig.keys_of(answer)
    assert OCTETS == answer.headers["content-type"]
    assert "*" == answer.headers["access-control-allow-origin"]
    some = ask(rig, ptoken=rig.token("film", tracks=["SD"]))
    assert {rig.kid("film", "SD")} == set(rig.keys_of(some))


@pytest.mark.parametrize("spelling", [str, lambda u: str(u).upper(), lambda u: u.hex, lambda u: f"{{{u}}}"])
def test_kid_is_compared_as_a_uuid(rig: ProxyRig, spelling) -> None:
    """In any spelling."""
    assert 200 == ask(rig, kid=spelling(uuid.UUID(bytes=rig.kid("film")))).status_code


def test_missing_challenge(rig: ProxyRig) -> None:
    """207, before anything else is looked at."""
    answer = ask(rig, b"", version=None, ptoken=None, kid=None, service=None)
    assert 400 == answer.status_code
    assert error("MissingLicenseChallengeError", 207, "No License Challenge present") == answer.content


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({"version": None}, "null"),
        ({"version": None, "service": None}, "null"),
        ({"version": "9.9"}, "9.9"),
        ({"version": ""}, ""),
        ({"service": "nobody"}, "1.0"),
        ({"service": None}, "1.0"),
        ({"service": "old"}, "1.0"),
        ({"service": "../demo"}, "1.0"),
        ({"service": "x" * 600}, "1.0"),
    ],
)
def test_unknown_service_or_version(rig: ProxyRig, changed: dict[str, str | None], shown: str) -> None:
    """0, before the token is looked at; an absent version prints null, an unknown one itself."""
    answer = ask(rig, **(changed | {"ptoken": "x"}))
    assert 400 == answer.status_code
    assert error("ClientError", 0, f"Invalid version number {shown} not found") == answer.content


def test_expired_token_tells_both_times_in_ms(rig: ProxyRig) -> None:
    """201 with expiry < now, epoch milliseconds."""
    before = time.time_ns() // 1_000_000
    answer = ask(rig, ptoken=rig.token("film", exp=1582970851.843))
    assert 401 == answer.status_code
    found = re.fullmatch(
        rb'\{"code":"InvalidPTokenError","errorCode":201,"type":"CLIENT_ERROR",'
        rb'"message":"Token has expired: 1582970851843 < (\d{13})"\}',
        answer.content,
    )
    assert found is not None, answer.content
    assert before <= int(found[1]) <= time.time_ns() // 1_000_000


@pytest.mark.parametrize("token", [None, "", "x", "e30.e30.AAAA"])
def test_any_invalid_token_is_201(rig: ProxyRig, token: str | None) -> None:
    """401, and its expiry comes before the right to play."""
    answer = ask(rig, ptoken=token, kid="none")
    assert (401, 201, "InvalidPTokenError") == (
        answer.status_code,
        answer.json()["errorCode"],
        answer.json()["code"],
    )


def test_no_right_to_play_looks_like_an_unknown_kid(rig: ProxyRig) -> None:
    """403 with one body for an unknown KID, one that is none, another organization's, and one that exists."""
    bodies = set()
    for changed in (
        {"kid": uuid.uuid4().hex},
        {"kid": "x"},
        {"kid": None},
        {"ptoken": rig.token("film", organization="other")},
        {"ptoken": rig.token("series")},
        {"ptoken": rig.token(None, product="season-1")},
    ):
        answer = ask(rig, **changed)
        assert 403 == answer.status_code
        bodies.add(answer.content)
    assert [error("PlaybackForbiddenError", 1003, "the token gives no right to play this content")] == [*bodies]


def test_service_is_the_tokens_organizations(rig: ProxyRig) -> None:
    """Two organizations may have a service of one name; the token says whose is meant."""
    assert 200 == ask(rig, service="shared").status_code
    assert 403 == ask(rig, service="shared", ptoken=rig.token("film", organization="other")).status_code


def test_other_failures_have_codes_of_their_own(rig: ProxyRig) -> None:
    """A challenge that is none, a DRM system without a license server, a body that is too large: 400."""
    for answer in (ask(rig, b"x"), ask(rig, service="wide"), ask(rig, b"x" * 70_000)):
        assert (400, 1001, "CLIENT_ERROR") == (answer.status_code, answer.json()["errorCode"], answer.json()["type"])
    assert ["code", "errorCode", "type", "message"] == list(answer.json())


def test_not_caught_up_is_500_with_retry_after(rig: ProxyRig) -> None:
    """The document knows no 503; unknown while cut off is 500 too, and known content is served."""
    rig.beat(ready=False, live=False)
    answer = ask(rig)
    assert (500, 1005, "SERVER_ERROR", "1") == (
        answer.status_code,
        answer.json()["errorCode"],
        answer.json()["type"],
        answer.headers["retry-after"],
    )
    rig.beat(live=False, ago_s=60)
    assert 200 == ask(rig).status_code
    assert 500 == ask(rig, kid=uuid.uuid4().hex).status_code
    assert 207 == ask(rig, b"").json()["errorCode"]


FAULTS = {
    "challenge": ({}, (400, 207)),
    "version": ({"version": "9.9"}, (400, 0)),
    "token": ({"ptoken": "x"}, (401, 201)),
    "kid": ({"kid": uuid.UUID(int=1).hex}, (403, 1003)),
}


@pytest.mark.parametrize("size", range(1, len(FAULTS) + 1))
def test_the_first_fault_in_the_documented_order_is_told(rig: ProxyRig, size: int) -> None:
    """Challenge, service and version, token, right to play: whatever else is wrong."""
    for names in itertools.combinations(FAULTS, size):
        changed = {member: value for name in names for member, value in FAULTS[name][0].items()}
        answer = ask(rig, b"" if "challenge" in names else None, **changed)
        assert FAULTS[names[0]][1] == (answer.status_code, answer.json()["errorCode"]), names


def test_a_token_of_another_address_is_an_invalid_one(rig: ProxyRig) -> None:
    """201 and 401 like every other invalid token."""
    answer = ask(rig, ptoken=rig.token("film", ip="203.0.113.9"))
    assert (401, 201) == (answer.status_code, answer.json()["errorCode"])


def test_among_a_tokens_faults_its_expiry_comes_first(rig: ProxyRig) -> None:
    """An expired token that would not be valid yet, and is another address's, says that it has expired."""
    token = rig.token("film", expires_in=-5, nbf=time.time() + 60, ip="203.0.113.9", jti="late")
    message = ask(rig, ptoken=token).json()["message"]
    assert message.startswith("Token has expired: ")
    expired, now = message.removeprefix("Token has expired: ").split(" < ")
    assert abs(int(now) - int(expired) - 5000) < 3000


@pytest.mark.parametrize("headers", [{}, {"accept": "text/html"}, {"accept": "*/*", "content-type": "text/plain"}])
def test_required_headers_are_not_enforced(rig: ProxyRig, headers: dict[str, str]) -> None:
    """Players send what they like; the answer is of the documented type."""
    query = {"service": "demo", "version": "1.0", "kid": rig.kid("film").hex(), "ptoken": rig.token("film")}
    answer = rig.request("POST", "/getlicense", params=query, content=challenge(rig.kid("film")), headers=headers)
    assert (200, OCTETS) == (answer.status_code, answer.headers["content-type"])


@pytest.mark.parametrize("reason", Reason)
def test_every_refusal_is_in_the_documents_words(reason: Reason) -> None:
    """One of five statuses, four members in order; 500 with Retry-After and nothing else with it."""
    answer = firstlight.respond(Refusal(reason=reason, message="why"))
    headers = dict(answer.headers)
    assert answer.status in (400, 401, 403, 500)
    assert b"application/json;charset=UTF-8" == headers[b"content-type"]
    told = json.loads(answer.body)
    assert ["code", "errorCode", "type", "message"] == list(told)
    assert ("SERVER_ERROR" if answer.status == 500 else "CLIENT_ERROR") == told["type"]
    assert (answer.status == 500) == (b"retry-after" in headers)
    assert (STATUS[reason] >= 500) == (answer.status == 500)
    page = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
    assert f"| `{told['code']}` | {told['errorCode']} | {answer.status} |" in page


def test_the_license_is_of_the_whole_asset_whichever_kid_asks(rig: ProxyRig) -> None:
    """Every KID of the asset, a rotated one too, gives the same license."""
    licenses = {ask(rig, kid=rig.kid("film", label).hex()).content for label in ("SD", "HD", "AUDIO")}
    assert 1 == len(licenses)
