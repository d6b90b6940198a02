"""`make drill`: everything derived is lost under load, and got back by the commands of the runbook."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEMBERS = ("audit_clean", "fingerprints_equal", "failed_licenses", "assets", "seconds")


@pytest.mark.timeout(900)
def test_what_is_lost_comes_back_and_no_player_notices(tmp_path: Path) -> None:
    """20,000 assets; at the end the audit is clean, every fingerprint is the one from before, no license failed."""
    command = [sys.executable, "-m", "keymill.ops.drill", "--data", str(tmp_path / "data")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=880, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert set(MEMBERS) <= told.keys()
    assert (told["audit_clean"], told["fingerprints_equal"], told["failed_licenses"]) == (True, True, 0), done.stderr
    assert told["assets"] == 20_000 and told["licenses"] > 1000
    for lost in ("drm.keys.v1 is deleted", "proxy's disk", "the SQL archive", "rotate-kek"):
        assert lost in done.stderr
