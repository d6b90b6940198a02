"""CORS: which pages may ask the proxy, with which headers, and with cookies."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymill.config import ProxySettings, load
from keymill.core.cors import ANY, NEEDED, OPEN, CorsRules
from keymill.errors import Misconfigured
from tests.proxy_rig import ProxyRig

PAGE = "https://portal.example"
OTHER = "https://other.example:8443"
NAMES = st.from_regex(r"[A-Za-z0-9-]{1,20}", fullmatch=True)
ORIGINS = st.sampled_from(["", PAGE, OTHER, "null", "https://evil.example\r\nset-cookie: a=b", "*", "é"])
RULES = st.builds(
    CorsRules,
    origins=st.sampled_from([(ANY,), (PAGE,), (PAGE, OTHER), ()]),
    headers=st.sampled_from([(ANY,), ("x-token",), ()]),
    credentials=st.booleans(),
)
VENDORS = ("soapaction", "authorization", "pallycon-customdata-v2", "x-axdrm-message", "x-dt-auth-token", "customdata")


@pytest.fixture(scope="module")
def open_to_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyRig]:
    """A proxy as it is unless set otherwise."""
    made = ProxyRig(tmp_path_factory.mktemp("cors"))
    made.ingest("film", "SD", "HD")
    yield made
    made.close()


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyRig]:
    """A proxy for one portal, whose players send cookies along."""
    settings = {"cors_origins": (PAGE,), "cors_headers": ("X-Token",), "cors_credentials": True}
    made = ProxyRig(tmp_path_factory.mktemp("cors-closed"), **settings)
    made.ingest("film", "SD", "HD")
    yield made
    made.close()


def preflight(rig: ProxyRig, path: str, *headers: str, origin: str = PAGE) -> httpx.Response:
    """What a browser asks before it sends these headers."""
    asks = {"origin": origin, "access-control-request-method": "POST"}
    return rig.request("OPTIONS", path, headers={**asks, "access-control-request-headers": ",".join(sorted(headers))})


def allowed(answer: httpx.Response) -> set[str]:
    """The headers that a page may send."""
    return {name.strip() for name in answer.headers["access-control-allow-headers"].split(",")}


@pytest.mark.parametrize("path", ["/playready/demo/film", "/license", "/getlicense", "/healthz", "/nowhere"])
def test_whatever_a_player_sends_passes(open_to_all: ProxyRig, path: str) -> None:
    """PlayReady's SOAPAction, and the headers in which integrations put tokens and custom data."""
    answer = preflight(open_to_all, path, "content-type", *VENDORS)
    assert {"content-type", *VENDORS} <= allowed(answer)
    assert ("*", None) == (
        answer.headers["access-control-allow-origin"],
        answer.headers.get("access-control-allow-credentials"),
    )


def test_one_portal_alone(closed: ProxyRig) -> None:
    """Its origin is repeated, cookies may come along, and no other page reads an answer or a refusal."""
    answer = preflight(closed, "/clearkey/demo/film", "soapaction", "x-token", "x-other")
    assert "x-token" in allowed(answer) and "soapaction" in allowed(answer) and "x-other" not in allowed(answer)
    for path, headers in (("/clearkey/demo/film", {}), ("/nowhere", {})):
        mine = closed.request("POST", path, headers={"origin": PAGE, **headers})
        assert (PAGE, "true") == (
            mine.headers["access-control-allow-origin"],
            mine.headers["access-control-allow-credentials"],
        )
        assert "Origin" == mine.headers["vary"]
        others = closed.request("POST", path, headers={"origin": OTHER, **headers})
        assert "access-control-allow-origin" not in others.headers and "Origin" == others.headers["vary"]


@given(RULES, ORIGINS, st.lists(NAMES | st.text(max_size=10), max_size=5).map(",".join))
def test_no_answer_gives_more_than_the_rules(rules: CorsRules, origin: str, asked: str) -> None:
    """No header is broken, `*` never stands beside credentials, and an origin that is not listed is never repeated."""
    answered = dict(rules.answered(origin))
    headers = [*answered.items(), *rules.preflight(origin, asked)]
    assert all(b"\r" not in value and b"\n" not in value and value.isascii() for _, value in headers)
    shown = answered.get(b"access-control-allow-origin", b"").decode()
    assert shown in ("", ANY, origin)
    assert shown != ANY or (ANY in rules.origins and not rules.credentials)
    assert shown in ("", ANY) or ANY in rules.origins or origin in rules.origins
    assert rules.credentials or b"access-control-allow-credentials" not in answered
    names = set(dict(headers)[b"access-control-allow-headers"].decode().split(", "))
    assert set(NEEDED) <= names
    assert ANY in rules.headers or names <= {*NEEDED, *rules.headers}


@given(st.lists(NAMES, max_size=20, unique_by=str.lower))
def test_every_header_that_is_asked_for_passes(names: list[str]) -> None:
    """In any spelling."""
    answer = dict(OPEN.preflight(PAGE, ", ".join(names)))[b"access-control-allow-headers"].decode()
    assert {name.lower() for name in names} <= set(answer.split(", "))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cors_origins", "https://portal.example/player"),
        ("cors_origins", "portal.example"),
        ("cors_headers", "X Token"),
        ("token_header", "X Token"),
        ("token_header", "Content-Type"),
    ],
)
def test_what_no_browser_sends_is_no_setting(name: str, value: str) -> None:
    """An origin with a path would never match; the message names the setting."""
    with pytest.raises(Misconfigured, match=name):
        load(ProxySettings, environ={f"KEYMILL_{name.upper()}": value})


def test_settings_are_lists_in_the_environment() -> None:
    """Separated by commas."""
    settings = load(ProxySettings, environ={"KEYMILL_CORS_ORIGINS": f"{PAGE}, {OTHER}"})
    assert CorsRules(origins=(PAGE, OTHER)) == settings.cors
    assert OPEN == ProxySettings(data=Path("x")).cors
