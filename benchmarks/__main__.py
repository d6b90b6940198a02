"""
`make bench`: every benchmark one after the other, a table on stderr, one line of JSON on stdout.

    make bench [ARGS="--quick"]

Each runs as a process of its own with a broker of its own, so none warms another up.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

FULL = {
    "processor": ["--events", "60000"],
    "latency": ["--rate", "100", "--seconds", "20"],
    "bootstrap": ["--records", "1000000"],
    "licenses": [],
    "replay": ["--assets", "40000"],
    "recovery": ["--assets", "200000"],
}
QUICK = {
    "processor": ["--events", "5000"],
    "latency": ["--rate", "50", "--seconds", "3"],
    "bootstrap": ["--records", "50000"],
    "licenses": ["--seconds", "2"],
    "replay": ["--assets", "5000"],
    "recovery": ["--assets", "5000"],
}


def machine() -> dict[str, Any]:
    """What the figures come from."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {"cores": os.cpu_count(), "cpu": model, "python": platform.python_version()}


def rows(name: str, figures: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flat (what, value) pairs."""
    flat: list[tuple[str, str]] = []
    for key, value in figures.items():
        if isinstance(value, dict):
            flat += rows(name, value, f"{prefix}{key} ")
        else:
            flat.append((f"{name} {prefix}{key}", str(value)))
    return flat


def main() -> int:
    """Run them all; exit 1 when one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run at all")
    parser.add_argument("--only", choices=sorted(FULL), action="append")
    given = parser.parse_args()
    plan = QUICK if given.quick else FULL
    results: dict[str, Any] = {"machine": machine()}
    for name, arguments in plan.items():
        if given.only and name not in given.only:
            continue
        print(f"running {name} …", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            print(f"{name} failed with exit code {done.returncode}", file=sys.stderr)
            return 1
        results[name] = json.loads(done.stdout.splitlines()[-1])
    for name, figures in results.items():
        for what, value in rows(name, figures):
            print(f"  {what:48} {value}", file=sys.stderr)
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
