"""Tokens in headers: read at every endpoint, one token a request, and in no log."""

import json
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.core.bearer import bearer_in, one_token
from keymill.errors import InvalidRecord
from keymill.proxy.routes import ROUTES
from tests.proxy_rig import ProxyRig, challenge

HEADER = "X-Player-Token"
TOKENS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyRig]:
    """A proxy that reads one more header."""
    made = ProxyRig(tmp_path_factory.mktemp("bearer"), token_header=HEADER)
    made.ingest("film", "SD", "HD", "HLS_AES128")
    made.put_service()
    yield made
    made.close()


def endpoints(rig: ProxyRig) -> dict[str, tuple[str, str, dict[str, str], str]]:
    """Method, path, query and the token's parameter of every endpoint, by its template; ClearKey where one can say."""
    kid, hls = rig.kid("film").hex(), rig.kid("film", "HLS_AES128").hex()
    told = {
        "/license": {"drm": "clearkey", "asset": "film"},
        "/api/v1/{organization}/assets/{asset}/drm_license": {"drm_type": "clearkey"},
        "/getlicense": {"service": "demo", "version": "1.0", "kid": kid},
    }
    return {
        route.path: (
            route.method,
            route.path.format(organization="demo", asset="film", kid=hls),
            told.get(route.path, {}),
            route.dialect.interface.token,
        )
        for route in ROUTES
    }


def ask(rig: ProxyRig, template: str, headers: list[tuple[str, str]], **query: str) -> httpx.Response:
    """One request to an endpoint."""
    method, path, more, _ = endpoints(rig)[template]
    return rig.request(method, path, params=more | query, headers=headers, content=challenge(rig.kid("film")))


TEMPLATES = [route.path for route in ROUTES]
MINE = {"/clearkey/{organization}/{asset}", "/license", "/getlicense", "/hls/{organization}/{asset}/{kid}",
        "/api/v1/{organization}/assets/{asset}/drm_license"}  # fmt: skip
"""Those where the proxy is the license server; the others get as far as that there is none."""


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("scheme", ["authorization: Bearer ", "authorization: bearer  ", "x-player-token: ",
                                    "x-player-token: Bearer "])  # fmt: skip
def test_a_header_is_as_good_as_the_query(rig: ProxyRig, template: str, scheme: str) -> None:
    """At every endpoint, and both at once where they say the same."""
    name, _, word = scheme.partition(": ")
    token = rig.token("film")
    header = [(name, word + token)]
    for query in ({}, {endpoints(rig)[template][3]: token}):
        answer = ask(rig, template, header, **query)
        assert 200 == answer.status_code or (template not in MINE and "no_license_server" in answer.text), answer.text


@pytest.mark.parametrize("template", TEMPLATES)
def test_two_tokens_are_a_mistake(rig: ProxyRig, template: str) -> None:
    """Different ones in query and header, or in two headers, are 400; the answer repeats neither."""
    one, two = rig.token("film"), rig.token("film", sub="anna")
    parameter = endpoints(rig)[template][3]
    for headers, query in (
        ([("authorization", f"Bearer {one}")], {parameter: two}),
        ([("authorization", f"Bearer {one}"), (HEADER, two)], {}),
        ([("authorization", f"Bearer {one}"), ("authorization", f"Bearer {two}")], {}),
    ):
        answer = ask(rig, template, headers, **query)
        assert 400 == answer.status_code, answer.text
        assert "two different tokens" in answer.text and one not in answer.text and two not in answer.text


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_missing_token_is_told_where_to_stand(rig: ProxyRig, template: str) -> None:
    """The parameter of that endpoint, and the header; credentials of another scheme are no token."""
    for headers in ([], [("authorization", "Basic YW5uYTpzZWNyZXQ=")]):
        answer = ask(rig, template, headers)
        assert 401 == answer.status_code
        told = answer.json().get("detail") or answer.json()["message"]
        assert f" {endpoints(rig)[template][3]} " in told and "Bearer" in told


def test_no_log_shows_a_token(rig: ProxyRig, capfd: pytest.CaptureFixture[str]) -> None:
    """Wherever it stood: audit lines, warnings and errors name the request alone."""
    good, bad = rig.token("film"), rig.token("film")[:-6] + "AAAAAA"
    for token in (good, bad):
        for template in TEMPLATES:
            ask(rig, template, [("authorization", f"Bearer {token}")])
            ask(rig, template, [], **{endpoints(rig)[template][3]: token})
            ask(rig, template, [("authorization", f"Bearer {token}x")], **{endpoints(rig)[template][3]: token})
    rig.life.means.audit.flush()
    shown = "".join(capfd.readouterr())
    spooled = "".join(each.read_text() for each in (rig.folder / "spool").rglob("*") if each.is_file())
    assert [json.loads(line) for line in shown.splitlines() if '"license"' in line]
    for token in (good, bad):
        for text in (shown, spooled):
            assert token not in text and token.split(".")[2] not in text and token.split(".")[1] not in text


@given(TOKENS, st.sampled_from(["Bearer ", "bearer ", "BEARER   "]))
def test_the_word_is_taken_off(token: str, word: str) -> None:
    """In any spelling; of our own header it may be missing, in Authorization not."""
    assert token == bearer_in("authorization", word + token) == bearer_in("x-token", word + token)
    assert token == bearer_in("x-token", token)
    assert "" == bearer_in("authorization", token)


@given(TOKENS | st.just(""), st.lists(TOKENS | st.just(""), max_size=3))
def test_one_token_or_none(in_query: str, in_headers: list[str]) -> None:
    """What is empty is not there; two that differ are refused without being shown."""
    given_ = {token for token in (in_query, *in_headers) if token}
    if len(given_) < 2:
        assert (given_ or {""}) == {one_token(in_query, in_headers)}
    else:
        with pytest.raises(InvalidRecord, match="two different tokens"):
            one_token(in_query, in_headers)
