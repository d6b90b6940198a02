"""A worker or follower of a proxy that was killed as frozen is counted in /metrics, which the workers answer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

CODE = """
import sys
from pathlib import Path
from prometheus_client import generate_latest
from keymill import telemetry
from keymill.http import health
from keymill.proxy import frozen
folder = Path(sys.argv[1])
if sys.argv[2] == "parent":
    counted = frozen.FrozenFile(folder)
    counted.write()
    telemetry.FROZEN.labels("worker").inc()
    telemetry.FROZEN.labels("worker").inc()
    telemetry.FROZEN.labels("follower").inc()
    counted.write()
else:
    telemetry.LICENSES.labels("clearkey", "granted").inc()
    frozen.show(folder)
    print(generate_latest(health._registry()).decode())
"""


@pytest.mark.parametrize("several", [False, True])
def test_workers_show_what_their_parent_counts(tmp_path: Path, several: bool) -> None:
    """Once, with one worker and with several that share their metrics through files; nothing while there is no file."""
    (tmp_path / "shared").mkdir()
    bare = {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    environment = bare | ({"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "shared")} if several else {})

    def run(role: str, environ: dict[str, str]) -> dict[str, float]:
        command = [sys.executable, "-c", CODE, str(tmp_path), role]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
        assert done.stdout.count("# TYPE keymill_frozen_total") == (role == "worker")
        families = text_string_to_metric_families(done.stdout)
        samples = [sample for family in families for sample in family.samples]
        return {each.labels["child"]: each.value for each in samples if each.name == "keymill_frozen_total"}

    assert {} == run("worker", environment)
    run("parent", bare)
    assert {"worker": 2.0, "follower": 1.0} == run("worker", environment)
