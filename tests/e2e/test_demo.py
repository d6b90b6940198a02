"""`make demo` as a stranger runs it: its last line says that the film was decrypted and played."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEPS = ("event", "key", "record", "encrypted", "cache", "license", "decrypted", "playing", "screenshot")


@pytest.mark.timeout(300)
def test_the_demo_plays(tmp_path: Path) -> None:
    """Every step is shown as it happens, and the contract's line ends it."""
    command = [sys.executable, "-m", "keymill.ops.demo", "--data", str(tmp_path / "data")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["played"] is True and line["decrypted"] is True
    assert len(line["kids"]) == 3 and line["license_ms"] > 0
    assert line["event"]["topic"] == "drm.assets.v1" and line["record"]["topic"] == "drm.keys.v1"
    assert Path(line["screenshot"]).stat().st_size > 10_000
    shown = {row.split()[2] for row in done.stderr.splitlines() if len(row.split()) > 2 and row.split()[1] == "s"}
    assert set(STEPS) <= shown


def test_the_two_commands_of_the_readme_exist() -> None:
    """README names `make demo` and `make test`, and the Makefile has them."""
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "dev", "bench"):
        assert f"make {target}" in readme
        assert f"\n{target}: " in makefile
