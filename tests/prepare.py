"""
What the tests need beyond the Python environment: a Chromium, and curl for the examples of docs/ingest.md.

As root on Debian they are installed; otherwise the command to run is named. Run by `make test`.
"""

import os
import shutil
import subprocess
import sys

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INSTALL = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends"]


def missing() -> list[str]:
    """Debian packages that are needed and not there."""
    chromium = os.environ.get("KEYMILL_CHROMIUM") or any(shutil.which(name) for name in CHROMIUMS)
    return ([] if chromium else ["chromium"]) + ([] if shutil.which("curl") else ["curl"])


def main() -> int:
    """Install what is missing, or say what to install; the exit code."""
    packages = missing()
    if not packages:
        return 0
    command = [*INSTALL, *packages]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        print(f"the tests need {' and '.join(packages)} (Debian: {' '.join(command)})", file=sys.stderr)
        return 1
    print(f"installing {' and '.join(packages)} for the tests", file=sys.stderr)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["apt-get", "update", "--quiet"], command):
        done = subprocess.run(step, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            print(done.stdout[-2000:], file=sys.stderr)
            return done.returncode
    return 1 if missing() else 0


if __name__ == "__main__":
    sys.exit(main())
