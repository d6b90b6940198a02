"""A real browser on the demo's page: Chromium by its path, driven by Playwright, asked what it saw."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
from playwright.sync_api import Page, sync_playwright
from playwright.sync_api import TimeoutError as DeadlinePassed

from keymill.errors import Misconfigured

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PLAYED_S = 2.0
PLAYED_FRAMES = 25  # a second of film; a player that stands still on its first picture has one
DEADLINE_S = 25.0  # a missing key makes no error at all: time just stands still
_SWITCHES = (
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--no-proxy-server", "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip


class PlayerError(msgspec.Struct, frozen=True):
    """Shaka's error code, or 0 and a message; `data` as Shaka gives it, nested errors included, without tokens."""

    code: int
    message: str
    data: list[Any]


class Playback(msgspec.Struct, frozen=True, rename="camel"):
    """What the page reported when it had played for 2 s, failed, or used up its time. KIDs in lower-case hex."""

    time: float
    frames: int
    width: int
    height: int
    statuses: dict[str, str]
    errors: list[PlayerError]
    events: list[tuple[str, float]]
    license_ms: float | None
    staleness_s: float | None

    @property
    def played(self) -> bool:
        """Whether film went by, decoded, with every key usable and no error."""
        keys_usable = bool(self.statuses) and set(self.statuses.values()) == {"usable"}
        return self.time > PLAYED_S and self.frames >= PLAYED_FRAMES and keys_usable and not self.errors


def find_chromium() -> Path | None:
    """KEYMILL_CHROMIUM, or the first Chromium or Chrome on PATH; None if the machine has none."""
    if named := os.environ.get("KEYMILL_CHROMIUM"):
        if not os.access(named, os.X_OK):
            raise Misconfigured(f"KEYMILL_CHROMIUM names {named}, which is not a program")
        return Path(named)
    return next((Path(found) for name in NAMES if (found := shutil.which(name))), None)


def play(
    chromium: Path,
    page_url: str,
    *,
    screenshot: Path | None = None,
    settle_s: float = 0.0,
    deadline_s: float = DEADLINE_S,
) -> Playback:
    """
    Open the page and let it play until 2 s are over, an error comes, or *deadline_s* is over.

    Args:
        settle_s: watch so much longer before looking; what must not play gets its chance to.
        screenshot: where to save a picture of the page. It shows the film: only a canvas reads protected video black.
    """
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, headless=True, args=list(_SWITCHES))
        try:
            page = browser.new_page(viewport={"width": 1040, "height": 1000})
            page.goto(page_url)
            _wait(page, f"report().time > {PLAYED_S} || report().errors.length > 0", deadline_s)
            page.wait_for_timeout(settle_s * 1000)
            playback = msgspec.convert(page.evaluate("report()"), Playback)
            if screenshot is not None:
                page.screenshot(path=screenshot, full_page=True)
            return playback
        finally:
            browser.close()


def _wait(page: Page, condition: str, deadline_s: float) -> None:
    with contextlib.suppress(DeadlinePassed):  # the report says how far it came
        page.wait_for_function(condition, timeout=deadline_s * 1000)
