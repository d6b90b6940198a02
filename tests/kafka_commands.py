"""The `keymill` command as a process, in an environment without settings."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def keymill(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in an environment without settings but these."""
    command = [sys.executable, "-m", "keymill.ops.cli", *map(str, arguments)]
    bare = {name: value for name, value in os.environ.items() if not name.startswith("KEYMILL_")}
    return subprocess.run(command, env=bare | environment, capture_output=True, text=True, timeout=120, check=False)


def told(*arguments: str | Path, code: int = 0, **environment: str) -> Any:
    """What it prints as JSON."""
    done = keymill(*arguments, "--json", **environment)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)
