"""Clear-key HLS in a real browser: ffmpeg encrypts with the asset's key, Shaka Player fetches it from the proxy."""

import json
import os
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from keymill.ops.demo import browser, media, tools
from keymill.ops.demo.browser import Playback
from keymill.ops.demo.package import Packaged
from keymill.ops.demo.page import Show, serving
from keymill.ops.demo.player import player_script
from keymill.ops.demo.stack import KEYMILL, Stack

ASSET = "playback-hls"
REFUSED = 403
SHAKA_BAD_HTTP_STATUS = 1001

pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True, slots=True)
class Hls(Packaged):
    """The film as HLS; its manifest is a playlist."""

    @property
    def manifest(self) -> Path:
        """The media playlist."""
        return self.folder / "index.m3u8"


@pytest.fixture(scope="module")
def kid(up: Stack) -> str:
    """The KID of the asset's clear key, made from an event."""
    given = up.up.credentials
    url = f"{up.up.gateway}/v1/organizations/{given.organization}/assets?wait=1"
    body = json.dumps({"asset_id": ASSET, "tracks": [{"track_type": "SD"}, {"track_type": "HLS_AES128"}]}).encode()
    headers = {"Authorization": f"Bearer {given.api_key}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data=body, headers=headers)) as answer:
        tracks = json.load(answer)["tracks"]
    return next(track["kid"] for track in tracks if track["track_type"] == "HLS_AES128")


def key_url(up: Stack, kid: str, *options: str) -> str:
    """The address of the key, with a token of its own."""
    organization = up.up.credentials.organization
    command = [*KEYMILL, "token", "issue", "--data", up.up.data, "--organization", organization, "--asset", ASSET]
    token = subprocess.run([*command, *options], capture_output=True, text=True, check=True).stdout.strip()
    return f"{up.up.proxy}/hls/{organization}/{ASSET}/{kid}?token={token}"


@pytest.fixture(scope="module")
def folder(up: Stack, kid: str, film: media.Film, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Segments of the film, encrypted with the key that the proxy gives to whoever may have it."""
    made = tmp_path_factory.mktemp("hls")
    with urllib.request.urlopen(key_url(up, kid)) as answer:
        (made.parent / "hls.key").write_bytes(answer.read())
    os.chmod(made.parent / "hls.key", 0o600)
    info = made.parent / "hls.keyinfo"
    info.write_text(f"KEY_URL\n{made.parent / 'hls.key'}\n")
    inputs = ["-i", str(film.tracks["SD"]), "-i", str(film.tracks["AUDIO"]), "-c", "copy"]
    output = ["-f", "hls", "-hls_time", "2", "-hls_playlist_type", "vod", "-hls_key_info_file", str(info)]
    command = [str(tools.ffmpeg()), "-nostdin", "-v", "error", *inputs, *output]
    segments = ["-hls_segment_filename", str(made / "%d.ts"), str(made / "index.m3u8")]
    done = subprocess.run([*command, *segments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made / "template.m3u8").write_text((made / "index.m3u8").read_text())
    return made


def play(chromium: Path, folder: Path, url: str, *, settle_s: float = 0.0) -> Playback:
    """Play the playlist whose key stands at *url*."""
    playlist = (folder / "template.m3u8").read_text()
    assert 'METHOD=AES-128,URI="KEY_URL"' in playlist
    (folder / "index.m3u8").write_text(playlist.replace("KEY_URL", url))
    packaged = Hls(ASSET, "AES-128", folder, {}, {})
    show = Show(packaged, event=None, record=None, license_url=lambda: url, player=player_script())
    with serving(show) as page:
        return browser.play(chromium, page, settle_s=settle_s)


def test_film_plays_with_the_proxys_key(up: Stack, kid: str, folder: Path, chromium: Path) -> None:
    """No error, frames decoded, two seconds gone by; the segments are no film without the key."""
    seen = play(chromium, folder, key_url(up, kid, "--tracks", "HLS_AES128"))
    assert [] == seen.errors
    assert seen.time > browser.PLAYED_S and seen.frames >= browser.PLAYED_FRAMES
    assert (folder / "0.ts").read_bytes()[:1] != b"G"  # MPEG-TS begins with its sync byte, 0x47


def test_a_token_for_other_tracks_shows_nothing(up: Stack, kid: str, folder: Path, chromium: Path) -> None:
    """The player is refused the key with a machine-readable reason, and not one frame is shown."""
    seen = play(chromium, folder, key_url(up, kid, "--max-track", "SD"), settle_s=1.0)
    assert SHAKA_BAD_HTTP_STATUS == seen.errors[0].code
    _address, status, body = seen.errors[0].data[:3]
    assert REFUSED == status
    assert "no_key_allowed" == json.loads(body)["code"]
    assert 0 == seen.frames


def test_the_key_of_a_protected_track_is_not_given(up: Stack, kid: str) -> None:
    """By its own KID neither: HLS_AES128's key alone is ever handed out."""
    given = up.up.credentials
    url = f"{up.up.gateway}/v1/organizations/{given.organization}/assets/{ASSET}"
    with urllib.request.urlopen(
        urllib.request.Request(url, headers={"Authorization": f"Bearer {given.api_key}"})
    ) as answer:
        tracks = [track for version in json.load(answer)["versions"] for track in version["tracks"]]
    (protected,) = [track["kid"] for track in tracks if track["kid"] != kid]
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(key_url(up, protected))
    assert REFUSED == refused.value.code
