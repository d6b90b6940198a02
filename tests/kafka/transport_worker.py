"""
A worker as a process, for tests/kafka/test_transport.py: transport_worker.py JSON-SETTINGS.

It writes one JSON line per handled run and per rebalance to `out`; a line is flushed before the run is marked done.
`fault` chooses what goes wrong: "raise:TOPIC:OFFSET" fails on the run that holds the offset, "block:TOPIC:OFFSET" never
returns from it, "block-once:TOPIC:OFFSET" does only the first time, "assign" fails when partitions are assigned.
`stop_asked` is what the worker hears, one after the other, when it asks whether a signal came before it could tell.
"""

import asyncio
import json
import os
import sys
import time
from typing import Any, TextIO

from keymill import telemetry
from streams.app import agent, build_app
from streams.runs import Run, TopicPartition
from streams.worker import run_worker


class Recorder:
    """Handles runs as the settings say and writes what it did."""

    def __init__(self, settings: dict[str, Any], out: TextIO) -> None:
        self.settings = settings
        self.out = out
        kind, *self.fault = settings.get("fault", "none").split(":")
        self.kind = kind

    def note(self, **line: Any) -> None:
        print(json.dumps({"t": time.time(), "pid": os.getpid(), **line}), file=self.out, flush=True)

    def assigned(self, tps: frozenset[TopicPartition]) -> None:
        self.note(what="assigned", tps=sorted(tps))
        if self.kind == "assign":
            raise RuntimeError("told to fail")

    async def handle(self, run: Run) -> None:
        offsets = [record.offset for record in run.records]
        self.note(what="start", topic=run.topic, partition=run.partition, generation=run.generation, first=offsets[0])
        if self.kind == "raise" and run.topic == self.fault[0] and int(self.fault[1]) in offsets:
            raise RuntimeError("told to fail")
        if self.kind in ("block", "block-once") and run.topic == self.fault[0] and int(self.fault[1]) in offsets:
            self.kind = "none" if self.kind == "block-once" else self.kind
            await asyncio.sleep(3600)
        await asyncio.sleep(self.settings.get("work_s", 0))
        values = [(record.value or b"").decode() for record in run.records] if self.settings.get("values", True) else []
        self.note(
            what="run", topic=run.topic, partition=run.partition, generation=run.generation, start=run.start,
            end=run.end, offsets=offsets if values else [offsets[0], offsets[-1]], values=values, n=len(offsets),
        )  # fmt: skip


def main() -> int:
    settings = json.loads(sys.argv[1])
    telemetry.configure("transport-worker")
    with open(settings["out"], "a", encoding="utf-8") as out:
        recorder = Recorder(settings, out)
        app = build_app(
            bootstrap=settings["bootstrap"],
            app_id=settings["group"],
            group_instance_id=settings.get("instance"),
            session_timeout_s=settings.get("session_timeout_s", 10),
            commit_interval_s=settings.get("commit_interval_s", 0.5),
            run_records_max=settings.get("run_records_max", 1000),
            on_assigned=recorder.assigned,
            on_revoked=lambda tps: recorder.note(what="revoked", tps=sorted(tps)),
        )
        for topic in settings["topics"]:
            agent(app, topic, recorder.handle)
        asked = iter([*settings.get("stop_asked", ()), False, False])
        code = run_worker(app, stop_asked=lambda: next(asked), on_stop=lambda: recorder.note(what="stopping"))
        recorder.note(what="exit", code=code)
    return code


if __name__ == "__main__":
    sys.exit(main())
