"""The whole chain in a real browser: packager, gateway, Kafka, proxy, Shaka Player, picture."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import sync_playwright

from keymill.ops.demo import browser, loopback, media, prove
from keymill.ops.demo.browser import Playback
from keymill.ops.demo.package import Packaged, package
from keymill.ops.demo.page import Show, serving
from keymill.ops.demo.player import player_script
from keymill.ops.demo.prove import TrackProof
from keymill.ops.demo.stack import Stack, issue_token
from tests.loopback_server import Silent, serving_with
from tests.proxy_rig import ProxyRig, listening

SCHEMES = ("cbcs", "cenc")
LIFETIME_S = 600
SD_WIDTH = 640
"""Of the lower rendition: HEIGHTS of keymill/ops/demo/media.py at 16:9."""
REFUSED = (401, 403)  # which of the two is the proxy's own tests' business; the player treats them alike
SHAKA_LICENSE_REQUEST_FAILED, SHAKA_BAD_HTTP_STATUS, SHAKA_VIDEO_ERROR = 6007, 1001, 3016

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module", params=SCHEMES)
def packaged(
    request: pytest.FixtureRequest, up: Stack, film: media.Film, tmp_path_factory: pytest.TempPathFactory
) -> Packaged:
    """The film, encrypted with keys that the packager fetched from the gateway; an asset for each scheme."""
    folder = tmp_path_factory.mktemp("packaged") / "film"
    return package(up.up, film, asset=f"playback-{request.param}", scheme=request.param, into=folder)


def license_url(up: Stack, packaged: Packaged, *options: str, expires_in_s: int = LIFETIME_S) -> str:
    """The proxy's door for the film with a token of its own."""
    organization, data = up.up.credentials.organization, Path(up.up.data)
    token = issue_token(data, *options, organization=organization, asset=packaged.asset, expires_in_s=expires_in_s)
    return prove.license_url(up.up.proxy, organization=organization, asset=packaged.asset, token=token)


def play(
    chromium: Path, packaged: Packaged, url: str, *, settle_s: float = 0.0, deadline_s: float = browser.DEADLINE_S
) -> Playback:
    """Play the film in the browser with the license behind *url*."""
    show = Show(packaged, event=None, record=None, license_url=lambda: url, player=player_script())
    with serving(show) as page:
        return browser.play(chromium, page, settle_s=settle_s, deadline_s=deadline_s)


def test_decrypted_frames_are_the_sources(up: Stack, packaged: Packaged, film: media.Film) -> None:
    """With the proxy's keys every frame of every track is the source's; with a wrong key it is not."""
    granted = prove.fetch_license(license_url(up, packaged), list(packaged.kids.values()))
    proofs = prove.prove(film, packaged, granted)
    assert [
        TrackProof(label, proof.frames, True, True) for label, proof in zip(film.tracks, proofs, strict=True)
    ] == proofs
    assert prove.decrypted(proofs)


def test_every_track_has_a_key_of_its_own(packaged: Packaged, film: media.Film) -> None:
    """SD, HD and sound are encrypted under three KIDs, and both manifests are there."""
    assert set(film.tracks) == set(packaged.kids)
    assert len(film.tracks) == len(set(packaged.kids.values()))
    assert packaged.manifest.is_file() and (packaged.folder / "master.m3u8").is_file()


def test_film_plays(up: Stack, packaged: Packaged, chromium: Path) -> None:
    """A browser plays it with the proxy's license: no error, all keys usable, frames decoded."""
    seen = play(chromium, packaged, license_url(up, packaged))
    assert [] == seen.errors
    assert seen.played
    assert {kid.hex() for kid in packaged.kids.values()} <= set(seen.statuses)


def test_denied_license_shows_nothing(up: Stack, packaged: Packaged, chromium: Path) -> None:
    """An expired token is refused with a machine-readable reason, and not one frame is shown."""
    seen = play(chromium, packaged, license_url(up, packaged, expires_in_s=-60), settle_s=2.0)
    assert SHAKA_LICENSE_REQUEST_FAILED == seen.errors[0].code
    cause = seen.errors[0].data[0]
    assert SHAKA_BAD_HTTP_STATUS == cause["code"]
    _address, status, body = cause["data"][:3]
    assert status in REFUSED
    assert "token_expired" == json.loads(body)["code"]
    assert (0, False) == (seen.frames, seen.played)


def test_wrong_key_is_seen(up: Stack, packaged: Packaged, chromium: Path) -> None:
    """Keys that somebody changed on the way look usable to the browser, but the film does not play."""
    with tampering(license_url(up, packaged), flip_a_bit) as url:
        seen = play(chromium, packaged, url, settle_s=1.0)  # the player announces statuses half a second late
    assert {"usable"} == set(seen.statuses.values())
    assert SHAKA_VIDEO_ERROR in [error.code for error in seen.errors]
    assert not seen.played


def test_missing_sound_key_is_seen(up: Stack, packaged: Packaged, chromium: Path) -> None:
    """Without the sound's key the player reports no error: time stands still, and that does not count as played."""
    sound = prove.base64url(packaged.kids["AUDIO"])
    with tampering(license_url(up, packaged), lambda keys: [key for key in keys if key["kid"] != sound]) as url:
        seen = play(chromium, packaged, url, deadline_s=5.0)
    assert [] == seen.errors
    assert "waitingforkey" in [name for name, _time in seen.events]
    assert not seen.played


def shows_sd_alone(seen: Playback, packaged: Packaged) -> None:
    """The film played, in SD; the HD key never reached the player."""
    assert [] == seen.errors
    assert seen.played
    assert SD_WIDTH == seen.width
    assert {packaged.kids[label].hex() for label in ("SD", "AUDIO")} == set(seen.statuses)


@contextmanager
def policy_of(up: Stack, packaged: Packaged, document: dict[str, object], **query: str) -> Iterator[None]:
    """The asset under a new policy inside the block, and under policy 0 again after it."""
    organization = f"{up.up.gateway}/v1/organizations/demo"
    headers = {"Authorization": f"Bearer {up.up.credentials.api_key}"}
    with httpx.Client(headers=headers, trust_env=False, timeout=30) as api:
        asset = f"{organization}/assets/{packaged.asset}/policy?wait=1"
        made = api.post(f"{organization}/policies", params={"name": "browser", **query}, json=document).json()
        assert api.post(asset, json={"policy_id": made["policy_id"]}).status_code == 201
        try:
            yield
        finally:
            assert api.post(asset, json={"policy_id": 0}).status_code == 201


def test_tracks_that_a_token_withholds_do_not_play(up: Stack, packaged: Packaged, chromium: Path) -> None:
    """With a token for SD and sound the film plays in SD."""
    shows_sd_alone(play(chromium, packaged, license_url(up, packaged, "--tracks", "SD,AUDIO")), packaged)


def test_tracks_that_a_policy_withholds_do_not_play(up: Stack, packaged: Packaged, chromium: Path) -> None:
    """Under Azure's SD_ONLY template the film plays in SD."""
    with policy_of(up, packaged, {"allowed_track_types": "SD_ONLY"}, format="azure-widevine"):
        shows_sd_alone(play(chromium, packaged, license_url(up, packaged)), packaged)


def test_a_policy_denies_and_allows_again(up: Stack, packaged: Packaged, chromium: Path) -> None:
    """can_play false in the asset's policy refuses the license, with its own reason; policy 0 gives it again."""
    with policy_of(up, packaged, {"can_play": False}):
        seen = play(chromium, packaged, license_url(up, packaged), settle_s=1.0)
    assert "playback_denied" == json.loads(seen.errors[0].data[0]["data"][2])["code"]
    assert (0, False) == (seen.frames, seen.played)
    assert play(chromium, packaged, license_url(up, packaged)).played


def flip_a_bit(keys: list[dict[str, str]]) -> list[dict[str, str]]:
    """Every key with its first bits changed."""
    return [{**key, "k": ("A" if key["k"][0] != "A" else "B") + key["k"][1:]} for key in keys]


@contextmanager
def tampering(upstream: str, change: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> Iterator[str]:
    """A server between player and proxy that hands out a changed license."""

    class Handler(Silent):
        def do_POST(self) -> None:
            """Fetch the license and change it."""
            asked = self.rfile.read(int(self.headers["Content-Length"]))
            granted = json.loads(loopback.call(upstream, body=asked).body)
            body = json.dumps({**granted, "keys": change(granted["keys"])}).encode()
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with serving_with(Handler) as url:
        yield url


FETCH = """async ([url, headers, credentials]) => {
  try {
    const answer = await fetch(url, {method: "POST", body: "challenge", headers, credentials});
    return [answer.status, (await answer.json()).code];
  } catch (error) { return [0, String(error)]; }
}"""
VENDOR_HEADERS = {
    "content-type": "text/xml; charset=utf-8",
    "SOAPAction": '"http://schemas.microsoft.com/DRM/2007/03/protocols/AcquireLicense"',
    "pallycon-customdata-v2": "e30=",
    "X-AxDRM-Message": "a.b.c",
}


def fetched(chromium: Path, url: str, headers: dict[str, str], credentials: str = "omit") -> tuple[int, str]:
    """Status and code that a script of a page of another origin reads; 0 where the browser keeps the answer from it."""
    with serving_page(b"<!doctype html><title>a portal</title>") as page, sync_playwright() as driver:
        browser_process = driver.chromium.launch(
            executable_path=chromium, headless=True, args=["--disable-gpu", "--no-proxy-server"]
        )
        try:
            tab = browser_process.new_page()
            tab.goto(page)
            status, code = tab.evaluate(FETCH, [url, headers, credentials])
            return status, code
        finally:
            browser_process.close()


@contextmanager
def serving_page(content: bytes) -> Iterator[str]:
    """A page of an origin of its own."""

    class Handler(Silent):
        def do_GET(self) -> None:
            """Give the page."""
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with serving_with(Handler) as url:
        yield url


def test_a_browser_lets_players_headers_through(chromium: Path, tmp_path: Path) -> None:
    """PlayReady's and integrations' by default; with cookies once the setting says so; for the listed page alone."""
    for number, (settings, credentials, expected) in enumerate(
        [
            ({}, "omit", 400),
            ({}, "include", 0),
            ({"cors_credentials": True}, "include", 400),
            ({"cors_origins": ("https://portal.example",)}, "omit", 0),
            ({"cors_headers": ("x-axdrm-message",)}, "omit", 0),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        rig = ProxyRig(folder, **settings)
        try:
            rig.ingest("film", "SD")
            headers = VENDOR_HEADERS | {"authorization": f"Bearer {rig.token('film')}"}
            with listening(rig) as proxy:
                status, code = fetched(chromium, f"{proxy}/playready/demo/film", headers, credentials)
        finally:
            rig.close()
        assert expected == status, (settings, credentials, code)
        assert status == 0 or code == "no_license_server"  # the token was read, and nobody here makes that license
