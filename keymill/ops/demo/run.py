"""The story of one film: from the asset event to the picture, each step told as it happens."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from keymill.errors import Corrupt, KeymillError, Misconfigured
from keymill.ops.demo import browser, loopback, media, package, page, player, prove, stack

ASSET = "big-buck-bunny"
SCHEME = "cbcs"
TOKEN_LIFETIME_S = 3600


class _Told(msgspec.Struct, frozen=True):
    """The gateway's answer about an asset, as far as the story needs it."""

    coordinates: "_Coordinates"


class _Coordinates(msgspec.Struct, frozen=True):
    event: page.Coordinates
    record: page.Coordinates


@dataclass(frozen=True, slots=True)
class Outcome:
    """The demo's last line. `played` is null where no Chromium was found; times in milliseconds."""

    played: bool | None
    decrypted: bool
    asset: str
    kids: list[str]
    event: page.Coordinates
    record: page.Coordinates
    license_ms: float
    screenshot: str | None

    @property
    def good(self) -> bool:
        """Whether everything that could be shown was shown."""
        return self.decrypted and self.played is not False


class Story:
    """Lines on stderr, each with the seconds since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    def tell(self, what: str, text: str) -> None:
        """Print one step."""
        seconds = f"{time.monotonic() - self._started:6.1f} s  "
        self._console.print(Text.assemble((seconds, "dim"), (f"{what:<10} ", "bold"), text))


def demo(
    data: Annotated[Path, typer.Option(help="Data folder of `keymill up`; kept between runs.")] = Path("data/demo"),
    serve: Annotated[bool, typer.Option("--serve", help="Leave the page up until interrupted.")] = False,
    port: Annotated[int, typer.Option(help="Port of the page; 0 takes a free one.")] = 0,
) -> None:
    """Make keys for a real film, encrypt it, get its license, and play it."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        good = tell_story(data.resolve(), serve=serve, port=port)
    except KeymillError as error:
        typer.echo(f"keymill demo: {error}", err=True)
        good = False
    except KeyboardInterrupt:
        typer.echo("keymill demo: interrupted", err=True)
        good = False
    sys.exit(0 if good else 1)


def tell_story(data: Path, *, serve: bool, port: int = 0) -> bool:
    """
    Run the demo on a `keymill up` of its own in *data*, print the outcome as JSON, say whether it was good.

    1. Make the clear film; start `keymill up`.
    2. Package: the packager's key request becomes an event on Kafka, a key record, and the answer.
    3. Ask the gateway where event and record stand.
    4. Fetch the license from the proxy and compare the decrypted frames with the clear ones.
    5. Play it in Chromium, if there is one.
    """
    story = Story()
    film = media.prepare()  # (1)
    story.tell("film", f"{media.DURATION_S} s of Big Buck Bunny in {', '.join(film.tracks)}")
    folder = data / "demo"
    story.tell("starting", f"keymill up --data {data} (the very first start fetches Kafka; log: {folder / 'up.log'})")
    with stack.running(data, log=folder / "up.log") as running:
        up = running.up
        story.tell("up", f"Kafka {up.kafka}, gateway {up.gateway}, proxy {up.proxy}")
        packaged, told = _package(story, up, film, folder / ASSET)  # (2, 3)
        granted, decrypted = _prove(story, up, film, packaged)  # (4)
        chromium = browser.find_chromium()
        with _page(up, packaged, told, port=port, wanted=serve or chromium is not None) as url:
            played, screenshot = _play(story, chromium, url, folder / "playing.png")  # (5)
            kids = [dashed(kid) for kid in packaged.kids.values()]
            outcome = Outcome(played, decrypted, ASSET, kids, told.event, told.record, granted.took_ms, screenshot)
            typer.echo(msgspec.json.encode(outcome))
            if serve:
                _stay(story, url)
        story.tell("stopping", "keymill up")
    return outcome.good


def _package(story: Story, up: stack.Up, film: media.Film, into: Path) -> tuple[package.Packaged, _Coordinates]:
    started = time.monotonic()
    packaged = package.package(up, film, asset=ASSET, scheme=SCHEME, into=into)
    took_s = time.monotonic() - started
    told = _ask_coordinates(up, list(packaged.kids.values()))
    story.tell("event", _where(told.event))
    for label, kid in packaged.kids.items():
        story.tell("key", f"{label:<6} KID {dashed(kid)}")
    story.tell("record", _where(told.record))
    story.tell("encrypted", f"{SCHEME}, no clear lead, with the gateway's keys, all of it in {took_s:.2f} s")
    return packaged, told


def _ask_coordinates(up: stack.Up, kids: list[bytes]) -> _Coordinates:
    url = f"{up.gateway}/v1/organizations/{up.credentials.organization}/assets/{ASSET}"
    answer = loopback.call(url, headers={"Authorization": f"Bearer {up.credentials.api_key}"})
    if answer.status != 200:
        raise Misconfigured(f"the gateway answered HTTP {answer.status} when asked for the asset {ASSET}")
    for kid in kids:
        if dashed(kid).encode() not in answer.body:
            raise Corrupt(f"the film is encrypted with KID {dashed(kid)}, which the gateway does not list for {ASSET}")
    try:
        return msgspec.json.decode(answer.body, type=_Told).coordinates
    except msgspec.DecodeError as error:
        raise Misconfigured(f"the gateway's answer about {ASSET} lacks coordinates: {error}") from None


def _prove(story: Story, up: stack.Up, film: media.Film, packaged: package.Packaged) -> tuple[prove.License, bool]:
    granted = prove.fetch_license(_license_url(up), list(packaged.kids.values()))
    lag_s = granted.staleness_s if granted.staleness_s is not None else prove.staleness_from_metrics(up.admin["proxy"])
    lag = "not told" if lag_s is None else f"{lag_s * 1000:.0f} ms"
    story.tell("cache", f"lag {lag}; the license was there {granted.waited_ms:.0f} ms after it was first asked for")
    story.tell("license", f"{len(granted.keys)} keys from the proxy's local copy in {granted.took_ms:.1f} ms")
    proofs = prove.prove(film, packaged, granted)
    for proof in proofs:
        verdict = "all equal the source's" if proof.equal else "NOT the source's"
        control = "a wrong key gives others" if proof.wrong_key_differs else "A WRONG KEY GIVES THEM TOO"
        story.tell("decrypted", f"{proof.label:<6} {proof.frames} frames, {verdict}; {control}")
    return granted, prove.decrypted(proofs)


@contextlib.contextmanager
def _page(up: stack.Up, packaged: package.Packaged, told: _Coordinates, *, port: int, wanted: bool) -> Iterator[str]:
    """The page's address while it is up; nothing is fetched or served if nobody is there to look at it."""
    if not wanted:
        yield ""
        return
    show = page.Show(packaged, told.event, told.record, lambda: _license_url(up), player.player_script())
    with page.serving(show, port=port) as url:
        yield url


def _play(story: Story, chromium: Path | None, url: str, screenshot: Path) -> tuple[bool | None, str | None]:
    if chromium is None:
        story.tell("playing", "no Chromium on this machine, so not in a browser")
        return None, None
    seen = browser.play(chromium, url, screenshot=screenshot)
    if seen.played:
        picture = f"{seen.frames} frames at {seen.width}x{seen.height} in {seen.time:.1f} s"
        story.tell("playing", f"{picture}, {len(seen.statuses)} keys usable, license in {seen.license_ms:.0f} ms")
    else:
        story.tell("playing", f"FAILED: {msgspec.json.encode(seen).decode()}")
    story.tell("screenshot", str(screenshot))
    return seen.played, str(screenshot)


def _stay(story: Story, url: str) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        story.tell("watch", f"{url} (Ctrl-C ends it)")
        threading.Event().wait()


def _license_url(up: stack.Up) -> str:
    organization = up.credentials.organization
    token = stack.issue_token(Path(up.data), organization=organization, asset=ASSET, expires_in_s=TOKEN_LIFETIME_S)
    return prove.license_url(up.proxy, organization=organization, asset=ASSET, token=token)


def _where(at: page.Coordinates) -> str:
    return f"{at.topic} partition {at.partition} offset {at.offset}"


def dashed(kid: bytes) -> str:
    """A KID as people write it."""
    text = kid.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
