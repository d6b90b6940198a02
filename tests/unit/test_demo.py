"""What the demo's parts promise without a browser, a packager or a server."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path

import pytest

from keymill.errors import Misconfigured
from keymill.ops.demo import media, page, player, run
from keymill.ops.demo.browser import Playback, find_chromium
from keymill.ops.demo.loopback import Answer, call
from keymill.ops.demo.package import Packaged, package, read_kids, redacted_reason
from keymill.ops.demo.prove import License, TrackProof, decrypted
from keymill.ops.demo.stack import Credentials, Pids, Up
from tests.loopback_server import Silent, serving_with

KEY = bytes(range(16))
SPELLINGS = (KEY.hex(), base64.b64encode(KEY).decode(), base64.urlsafe_b64encode(KEY).decode().rstrip("="))
KID = bytes(range(16, 32))


def printed_answer(status: str) -> str:
    """What Shaka Packager 3.8.0 writes on stderr about an answer it does not like: all of it."""
    body = json.dumps({"status": status, "tracks": [{"type": "SD", "key": SPELLINGS[1]}]})
    response = base64.b64encode(body.encode()).decode()
    line = f'widevine_key_source.cc:414] Received non-OK license response: {{"response": "{response}"}}'
    return f"{line}\n{body}\n{KEY.hex()}\nFailed to create key source."


@pytest.mark.parametrize(
    ("stderr", "reason", "passing"),
    [
        (printed_answer("SIGNATURE_FAILED"), "the key server answered SIGNATURE_FAILED", False),
        (printed_answer("INTERNAL_ERROR"), "the key server answered INTERNAL_ERROR", True),
        (printed_answer(KEY.hex()), "the packager ended with exit code 1", False),
        ("HTTP response code said error, response code: 503.", "the key server answered HTTP 503", True),
        ("HTTP response code said error, response code: 401.", "the key server answered HTTP 401", False),
        ("Could not connect to server", "the key server could not be asked (Could not connect to server)", True),
        (KEY.hex(), "the packager ended with exit code 1", False),
    ],
)  # fmt: skip
def test_packager_reason_holds_no_key(stderr: str, reason: str, passing: bool) -> None:
    """Whatever the packager prints, only a reason from a closed list comes out, and whether to try again."""
    assert (reason, passing) == redacted_reason(stderr, 1)
    assert not any(spelling in reason for spelling in SPELLINGS)


@contextmanager
def key_server(statuses: list[int]) -> Iterator[str]:
    """A server that answers each request with the next status, and never with keys."""

    class Handler(Silent):
        def do_POST(self) -> None:
            """Answer; the body is chunked and left unread, so the connection ends here."""
            self.send_response(statuses.pop(0))
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()

    with serving_with(Handler) as url:
        yield url.rstrip("/")


def test_packager_runs_again_until_it_is_refused(tmp_path: Path) -> None:
    """The packager's own retry is broken: ours asks again after a 503, then stops at a 401, leaving nothing behind."""
    given = {"organization": "demo", "api_key": "", "ncp_access_key": "", "ncp_secret_key": ""}
    signer = Credentials(**given, widevine_signer="demo", widevine_key_hex="00" * 32, widevine_iv_hex="00" * 16)
    statuses = [503, 503, 401, 200]
    with key_server(statuses) as url:
        up = Up(
            kafka="",
            gateway=url,
            proxy="",
            data="",
            credentials=signer,
            pids=Pids(processor=[], gateway=0, proxy=[]),
            service={},
            admin={},
        )
        with pytest.raises(Misconfigured, match="the key server answered HTTP 401"):
            package(up, media.prepare(), asset="film-1", scheme="cbcs", into=tmp_path / "film")
    assert [200] == statuses
    assert [] == list(tmp_path.iterdir())


def test_repr_shows_no_key() -> None:
    """Neither a license nor an HTTP answer shows what it holds."""
    granted = License({KID: KEY}, took_ms=1.0, staleness_s=None, waited_ms=1.0)
    answer = Answer(200, Message(), SPELLINGS[2].encode(), took_ms=1.0)
    assert not any(spelling in repr((granted, answer)) for spelling in (*SPELLINGS, repr(KEY)))


def test_kids_are_read_by_track(tmp_path: Path) -> None:
    """Each file's KID comes from the adaptation set around it; files under one KID share it."""
    protection = '<ContentProtection cenc:default_KID="10111213-1415-1617-1819-1a1b1c1d1e1f"/>'
    files = "".join(f"<Representation><BaseURL>{name}</BaseURL></Representation>" for name in ("sd.mp4", "hd.mp4"))
    names = 'xmlns="urn:mpeg:dash:schema:mpd:2011" xmlns:cenc="urn:mpeg:cenc:2013"'
    manifest = tmp_path / "stream.mpd"
    manifest.write_text(f"<MPD {names}><Period><AdaptationSet>{protection}{files}</AdaptationSet></Period></MPD>")
    assert {"SD": KID, "HD": KID} == read_kids(manifest)


@pytest.mark.parametrize("spoiled", ["none", "source", "wrong key"])
def test_decrypted_needs_equal_frames_and_a_control(spoiled: str) -> None:
    """One track that is not the source's, or that a wrong key opens too, spoils the proof; so does none at all."""
    good = TrackProof("SD", 250, equal=True, wrong_key_differs=True)
    other = {
        "none": [],
        "source": [good, TrackProof("HD", 250, equal=False, wrong_key_differs=True)],
        "wrong key": [good, TrackProof("HD", 250, equal=True, wrong_key_differs=False)],
    }
    assert decrypted([good])
    assert not decrypted(other[spoiled])


@pytest.mark.parametrize(
    "spoiled", [{"time": 0.0}, {"frames": 1}, {"statuses": {}}, {"statuses": {"a": "usable", "b": "expired"}}]
)
def test_played_needs_time_frames_and_keys(spoiled: dict[str, object]) -> None:
    """Time that stood still, a single frame, no keys or an expired one: not played."""
    good = {"time": 2.1, "frames": 52, "width": 1280, "height": 720, "statuses": {"a": "usable"}}
    rest = {"errors": [], "events": [], "license_ms": 3.0, "staleness_s": None}
    assert Playback(**good, **rest).played  # type: ignore[arg-type]
    assert not Playback(**{**good, **rest, **spoiled}).played  # type: ignore[arg-type]


def test_demo_fails_only_for_what_could_be_shown() -> None:
    """No Chromium is no failure; a Chromium that did not play, and frames that are not the source's, are."""
    at = page.Coordinates("drm.assets.v1", 0, 0)

    def good(played: bool | None, whole: bool) -> bool:
        return run.Outcome(played, whole, "a", [], at, at, 1.0, None).good

    assert [True, True, False, False] == [good(True, True), good(None, True), good(False, True), good(True, False)]


def test_named_chromium_must_be_a_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """KEYMILL_CHROMIUM is taken at its word, and a wrong one is an error, not a demo without a browser."""
    monkeypatch.setenv("KEYMILL_CHROMIUM", str(tmp_path / "nothing"))
    with pytest.raises(Misconfigured, match="KEYMILL_CHROMIUM"):
        find_chromium()


def test_player_lock_names_no_registry() -> None:
    """The committed lock pins version and checksum; where to fetch is the environment's business."""
    text = (player.LOCKED / "package-lock.json").read_text()
    assert "://" not in text
    locked = json.loads(text)["packages"]["node_modules/shaka-player"]
    assert json.loads((player.LOCKED / "package.json").read_text())["dependencies"]["shaka-player"] == locked["version"]
    assert locked["integrity"].startswith("sha512-")


@pytest.fixture
def show(tmp_path: Path) -> page.Show:
    """A film of ten bytes."""
    (tmp_path / "hd.mp4").write_bytes(bytes(range(10)))
    packaged = Packaged("film-1", "cbcs", tmp_path, {"HD": tmp_path / "hd.mp4"}, {"HD": KID})
    numbers = iter(range(9))
    return page.Show(
        packaged, None, None, lambda: f"http://127.0.0.1:1/clearkey?token={next(numbers)}", tmp_path / "hd.mp4"
    )


def test_page_serves_ranges_and_a_fresh_token(show: page.Show) -> None:
    """On-demand DASH reads by Range; every page load gets a license address of its own, which is not cached."""
    with page.serving(show) as url:
        part = call(f"{url}media/hd.mp4", headers={"Range": "bytes=2-4"})
        first, second = (call(f"{url}session.json") for _ in range(2))
        assert b"<video" in call(url).body
    assert (206, b"\x02\x03\x04") == (part.status, part.body)
    assert "no-store" == first.headers["cache-control"]
    session = json.loads(first.body)
    assert session["license"] != json.loads(second.body)["license"]
    assert [{"label": "HD", "kid": KID.hex()}] == session["tracks"]
    assert "Blender Foundation" in session["attribution"] and "CC BY 3.0" in media.ATTRIBUTION


def test_page_answers_to_no_other_name(show: page.Show) -> None:
    """A name that somebody else points at this machine gets no token."""
    with page.serving(show) as url:
        assert 400 == call(f"{url}session.json", headers={"Host": "films.example"}).status
