"""Every example of docs/policies.md runs as it stands."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from keymill.ops.demo.stack import Stack

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "policies.md").read_text()
EXAMPLES = re.findall(r"^```(bash|python)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_there_are_examples_of_every_way() -> None:
    """The page did not lose its examples to a change of form."""
    assert ["bash", "python", "python", "bash", "bash", "bash"] == [language for language, _ in EXAMPLES]


@pytest.mark.timeout(180)
def test_examples_run(up: Stack) -> None:
    """Each example exits with 0; the asset ends with the policy that the last one assigned."""
    line = json.loads((Path(up.up.data) / "up.json").read_text())
    kinds = json.loads((Path(up.up.data) / "credentials.json").read_text())
    secrets = {name: value for kind in ("api-key", "ncp") for name, value in kinds[kind].items()}
    environment = {
        **os.environ,
        "GATEWAY": line["gateway"],
        "KAFKA": line["kafka"],
        "DATA": line["data"],
        **{name.upper(): secrets[name] for name in ("api_key", "ncp_access_key", "ncp_secret_key")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for language, source in EXAMPLES:
        command = ["bash", "-euo", "pipefail", "-c", source] if language == "bash" else [sys.executable, "-c", source]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{source}\n{done.stdout}{done.stderr}"
    url = f"{line['gateway']}/v1/organizations/demo/assets/film-20"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {environment['API_KEY']}"})
    with urllib.request.urlopen(request) as answer:
        policy_id = json.load(answer)["policy"]["id"]
    request = urllib.request.Request(
        f"{line['gateway']}/v1/organizations/demo/policies/{policy_id}", headers=dict(request.header_items())
    )
    with urllib.request.urlopen(request) as answer:
        assert json.load(answer)["name"] == "gold"
