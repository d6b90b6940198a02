"""
What the tests need beyond the Python environment: a Chromium.

As root on Debian it is installed; otherwise the command to run is named. Run by `make test`.
"""

import os
import shutil
import subprocess
import sys

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
COMMAND = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", "chromium"]


def has_chromium() -> bool:
    return bool(os.environ.get("KEYMILL_CHROMIUM")) or any(shutil.which(name) for name in CHROMIUMS)


def main() -> int:
    if has_chromium():
        return 0
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        print(
            f"the playback tests need Chromium: install it (Debian: {' '.join(COMMAND)}), or name one in KEYMILL_CHROMIUM",
            file=sys.stderr,
        )
        return 1
    print("installing Chromium for the playback tests", file=sys.stderr)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "--quiet"], COMMAND):
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            print(done.stdout[-2000:], file=sys.stderr)
            return done.returncode
    return 0 if has_chromium() else 1


if __name__ == "__main__":
    sys.exit(main())
