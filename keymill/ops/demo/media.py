"""The clear film: two video renditions and a sound track, made once from the clip and kept in the cache."""

import hashlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from keymill.errors import Corrupt
from keymill.ops.demo import tools

DURATION_S = 10  # the clip twice round and a little less: enough for five segments, quick to encode
SEGMENT_S = 2
FRAMES_PER_S = 25  # the clip's own

# Shaka Packager calls up to 768x576 pixels SD and up to 1920x1080 HD, and asks for keys by that label.
HEIGHTS = {"SD": 360, "HD": 720}

ATTRIBUTION = (
    "Big Buck Bunny, © 2008 Blender Foundation, www.bigbuckbunny.org, licensed under CC BY 3.0 "
    "(creativecommons.org/licenses/by/3.0). Cut, repeated, scaled and encrypted for this demo."
)


@dataclass(frozen=True, slots=True)
class Film:
    """The clear files by track label (SD, HD, AUDIO); one stream each."""

    tracks: dict[str, Path]


def prepare() -> Film:
    """
    Give the clear film, from the cache when this clip was cut with this recipe before.

    Raises:
        Misconfigured: the demo extra is not installed.
        Corrupt: ffmpeg cannot read the clip.
    """
    recipe = {label: _recipe(label) for label in (*HEIGHTS, "AUDIO")}
    digest = hashlib.sha256(tools.clip().read_bytes() + repr(recipe).encode()).hexdigest()[:16]
    folder = tools.cache_folder() / f"media-{digest}"
    with tools.locked(tools.cache_folder() / "media.lock"):
        if not folder.is_dir():
            _cut(recipe, folder)
    return Film({label: folder / _name(label) for label in recipe})


def _name(label: str) -> str:
    return f"{label.lower()}.mp4"


def _recipe(label: str) -> list[str]:
    """Output options for ffmpeg; a key frame at every segment's start, nothing that differs between two runs."""
    same_bytes = ["-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact"]
    if label == "AUDIO":
        return ["-map", "0:a:0", "-ac", "2", "-c:a", "aac", "-b:a", "128k", *same_bytes]
    group = str(SEGMENT_S * FRAMES_PER_S)
    picture = ["-vf", f"scale=-2:{HEIGHTS[label]}:flags=lanczos", "-pix_fmt", "yuv420p"]
    codec = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "23"]
    groups = ["-g", group, "-keyint_min", group, "-sc_threshold", "0"]
    return ["-map", "0:v:0", *picture, *codec, *groups, *same_bytes]


def _cut(recipe: dict[str, list[str]], folder: Path) -> None:
    """Encode into a folder beside *folder* and rename, so that a half-made film is never found."""
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}-"))
    try:
        for label, options in recipe.items():
            source = ["-stream_loop", "1", "-i", str(tools.clip()), "-t", str(DURATION_S)]
            command = [
                str(tools.ffmpeg()),
                "-nostdin",
                "-v",
                "error",
                *source,
                *options,
                str(unfinished / _name(label)),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise Corrupt(f"ffmpeg could not make the {label} track from {tools.clip()}: {done.stderr.strip()}")
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
