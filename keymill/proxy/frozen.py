"""
What the proxy's parent counts and its workers show: it watches over children, and they answer /metrics.

A small file beside what the workers tell of themselves, replaced when a count changes.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from keymill import telemetry
from keymill.durable import replace_own
from keymill.http import health

FILE: Final = "frozen.json"


class FrozenFile:
    """The parent's side: children that gave no sign of life and were killed, by kind."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._last: dict[str, float] | None = None

    def write(self) -> None:
        """Tell; nothing is written while nothing changes, and a full disk is tried again."""
        samples = [sample for family in telemetry.FROZEN.collect() for sample in family.samples]
        counts = {each.labels["child"]: each.value for each in samples if each.name.endswith("_total")}
        if counts != self._last:
            with contextlib.suppress(OSError):
                replace_own(self._path, msgspec.json.encode(counts), sync=False)
                self._last = counts


class _Told(Collector):
    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The counts as the parent told them last."""
        family = CounterMetricFamily(
            "keymill_frozen", "Children that gave no sign of life and were killed", labels=["child"]
        )
        with contextlib.suppress(OSError, msgspec.DecodeError):
            for child, count in msgspec.json.decode(self._path.read_bytes(), type=dict[str, float]).items():
                family.add_metric([child], count)
        yield family


def show(folder: Path) -> None:
    """Show in this worker's metrics what the parent counts, in place of a count of its own, which is always 0."""
    REGISTRY.unregister(telemetry.FROZEN)
    health.show_also(_Told(folder))
