"""The drill's site: a broker of our own, the programs as children, and the commands as an operator types them."""

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from keymill.config import ProcessorSettings, load
from keymill.drm.clearkey import base64url
from keymill.errors import KeymillError, Unavailable
from keymill.kafka.admin import create_topics
from keymill.kafka.embedded import EmbeddedKafka
from keymill.ops.access import prepare_keys
from keymill.ops.demo import loopback
from keymill.ops.demo_organization import ORGANIZATION, ensure_demo
from keymill.ops.supervise import KEYMILL, Child

STOP_S: Final = 60.0
PATIENCE_S: Final = 300.0
POLL_S: Final = 0.2
SESSION_S: Final = "10"
DELIVERY_S: Final = "5"
"""A stopped processor stays in its group for a session, and a rebuild waits for it."""


class CommandFailed(KeymillError):
    """A command of the drill ended with an exit code that it must not have."""


class Site:
    """Everything of one drill, by name; `second` is a proxy with a disk of its own."""

    def __init__(self, data: Path, bootstrap: str) -> None:
        self.data, self.bootstrap = data, bootstrap
        self.outbox = f"sqlite:///{data / 'outbox.sqlite'}"
        self.archive = f"sqlite:///{data / 'archive.sqlite'}"
        self.credentials = ensure_demo(load(ProcessorSettings, data=data), bootstrap)
        self.second = data / "second"
        common = {
            "KEYMILL_DATA": str(data),
            "KEYMILL_BOOTSTRAP": bootstrap,
            "KEYMILL_KEY_FILE": str(data / "keys.json"),
            "KEYMILL_LOG_LEVEL": "warning",
            "KEYMILL_SESSION_TIMEOUT_S": SESSION_S,
            "KEYMILL_DELIVERY_TIMEOUT_S": DELIVERY_S,
            "KEYMILL_OUTBOX_URL": self.outbox,
            "KEYMILL_ARCHIVE_URL": self.archive,
        }
        self._environment = common
        second = {"KEYMILL_DATA": str(self.second), "KEYMILL_PROXY_PORT": "0"}
        self.programs = {
            "processor": self._child("processor", ["processor"], {"KEYMILL_INSTANCE_ID": "drill"}),
            "gateway": self._child("gateway", ["gateway"], {"KEYMILL_GATEWAY_PORT": "0"}),
            "survivor": self._child("surviving proxy", ["proxy"], {"KEYMILL_PROXY_PORT": "0"}),
            "second": self._child("second proxy", ["proxy"], second),
            "outbox": self._child("outbox relay", ["connect", "sql-outbox"], {}),
            "archive": self._child("archive", ["connect", "sql-archive"], {}),
        }

    def _child(self, name: str, command: list[str], own: dict[str, str]) -> Child:
        return Child(name, command, self._environment | own, log=self.data / f"{name.replace(' ', '-')}.log")

    def start(self, *names: str) -> None:
        """Start programs and wait until each is ready."""
        for name in names:
            self.programs[name].start()
        for name in names:
            self.programs[name].wait_listening()
            self.programs[name].wait_ready()

    def stop(self, *names: str) -> None:
        """End programs in order."""
        for name in names:
            self.programs[name].signal_stop()
            self.programs[name].wait_stopped(time.monotonic() + STOP_S)

    def run(self, *command: str, good: tuple[int, ...] = (0,)) -> Any:
        """
        Run `keymill COMMAND`, with `--json` give what it prints.

        Raises:
            CommandFailed: its exit code is none of *good*.
        """
        done = subprocess.run(
            [*KEYMILL, *command], env={**os.environ, **self._environment}, capture_output=True, text=True,
            check=False, timeout=PATIENCE_S * 2,
        )  # fmt: skip
        if done.returncode not in good:
            said = (done.stderr + done.stdout).strip()[-1500:]
            raise CommandFailed(f"keymill {' '.join(command)} ended with exit code {done.returncode}: {said}")
        return json.loads(done.stdout) if "--json" in command else None

    def everywhere(self) -> tuple[str, ...]:
        """The options with which an audit looks at the archive and at the second proxy's snapshot too."""
        return "--archive", self.archive, "--snapshot", str(self.second / "views" / "proxy")

    def kids_of(self, asset: str) -> list[str]:
        """The KIDs of an asset's newest key version as the gateway tells them, in ClearKey's spelling."""
        url = f"{self.programs['gateway'].url}/v1/organizations/{ORGANIZATION}/assets/{asset}"
        answer = loopback.call(url, headers={"Authorization": f"Bearer {self.credentials['api_key']}"})
        if answer.status != 200:
            raise Unavailable(f"the gateway answers {answer.status} for {asset}")
        newest = json.loads(answer.body)["versions"][-1]
        return [base64url(uuid.UUID(track["kid"]).bytes).decode() for track in newest["tracks"]]

    def await_caught_up(self, name: str) -> None:
        """Wait until a proxy's view is live again."""
        wait_for(f"the {name} follows", lambda: loopback.call(f"{self.programs[name].url}/readyz").status == 200)

    def wipe(self, folder: Path) -> None:
        """A disk is lost."""
        shutil.rmtree(folder)


def wait_for(what: str, done: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Return when *done*; raises `Unavailable` naming *what* did not come."""
    deadline = time.monotonic() + patience_s
    while not done():
        if time.monotonic() > deadline:
            raise Unavailable(f"{what}: not within {patience_s:.0f} s")
        time.sleep(POLL_S)


@contextmanager
def site(data: Path) -> Iterator[Site]:
    """A fresh site in *data*; every process has ended afterwards."""
    with ExitStack() as ending:
        kafka = EmbeddedKafka(data / "kafka")
        kafka.start()
        ending.callback(kafka.stop)
        prepare_keys(kafka.bootstrap, data / "keys.json")
        create_topics(kafka.bootstrap)
        made = Site(data, kafka.bootstrap)
        ending.callback(made.stop, *reversed(made.programs))
        yield made
