"""What a worker holds open while it serves, and the tasks that keep it fresh."""

import asyncio
import contextlib
import time
from typing import Final

from keymill import telemetry
from keymill.config import ProxySettings
from keymill.disk import DiskSpace
from keymill.errors import KeymillError, NotReady, Unavailable
from keymill.http.health import Readiness, allocate_metrics, joined
from keymill.kms.provider import Kms
from keymill.proxy.auth import Tokens
from keymill.proxy.keys import ProxyKeys
from keymill.proxy.procedure import Means, wall_clock_ms
from keymill.proxy.single_use import SWEEP_S, UsedTokens
from keymill.proxy.standing import Standing, StandingFile
from keymill.proxy.terms import Terms
from keymill.proxy.upstream.http import Client
from keymill.proxy.upstream.registry import registry_of
from keymill.proxy.waiting import Waiting
from keymill.snapshot import gauges
from keymill.snapshot.reader import SnapshotReader
from keymill.snapshot.state import ViewState
from keymill.trail import spool_folder
from keymill.trail.recorder import Recorder, instance_name
from keymill.trail.spool import Spool

VIEW: Final = "proxy"
OPEN_RETRY_S: Final = 0.05
STATE_S: Final = 0.005
"""How long a look at the follower's heartbeat, which beats every 200 ms, serves all requests."""
WATCH_S: Final = 1.0
"""How often the view's gauges are set."""
log = telemetry.logger("proxy")


class Life:
    """
    A worker between `start` and `stop`.

    It starts without a snapshot too: until the follower has made one, every license is refused as not ready.
    """

    def __init__(self, settings: ProxySettings, kms: Kms, standing: StandingFile | None = None) -> None:
        self.settings = settings
        self._standing = standing
        views = settings.data / "views"
        self._folder = views / VIEW
        self._used_folder = views / f"{VIEW}-used"
        self._reader = SnapshotReader(self._folder)
        self._disk = DiskSpace(settings.data, settings.min_free_mib)
        self.keys = ProxyKeys(kms, lambda: self._live)
        limit = settings.audit_spool_mib << 20
        self._audit = Recorder(Spool(spool_folder(settings.data, VIEW), instance_name(), limit=limit))
        self._tasks: list[asyncio.Task[None]] = []
        self._open = self._live = self._cramped = False
        self._state: ViewState | None = None
        self._looked = 0.0
        self._used: UsedTokens | None = None
        self._client: Client | None = None
        self._means: Means | None = None
        self.readiness = Readiness(self._view_reason, self.keys.missing, degraded=self._degraded)

    @property
    def means(self) -> Means:
        """What requests are answered with; `NotReady` before `start`."""
        if self._means is None:
            raise NotReady("the proxy is starting")
        return self._means

    def state(self) -> ViewState:
        """How far the view can be trusted, at most a few milliseconds ago; `NotReady` while there is none."""
        now = time.monotonic()
        if self._state is None or now - self._looked > STATE_S:
            self._state, self._looked = self._reader.state(), now
        return self._state

    async def start(self) -> None:
        """Open what requests need; raises `Misconfigured` when the key file cannot be used."""
        self.keys.refresh()
        self.keys.keep_fresh()
        self._audit.start()
        self._used = used = UsedTokens(self._used_folder)
        self._client = client = Client()
        self._means = Means(
            reader=self._reader,
            tokens=Tokens(self.keys.open_secret),
            keys=self.keys,
            upstreams=registry_of(self.settings.upstreams, client, wall_clock_ms),
            used=used,
            audit=self._audit,
            waiting=Waiting(self._reader, self.settings.missing_wait_ms),
            terms=Terms(require_entitlement=self.settings.require_entitlement),
            max_staleness_s=self.settings.max_staleness_s,
        )
        self._try_open()
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(_sweep(used))]

    async def stop(self) -> None:
        """Let go of everything; the audit events at hand are written."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.keys.close()
        self._audit.close()
        self._open = False
        self._reader.close()
        if self._client is not None:
            await self._client.close()
        if self._used is not None:
            self._used.close()

    def _view_reason(self) -> str | None:
        if not self._open:
            return "there is no copy of the key topic yet: the follower has not started"
        state = self._reader.state()
        if not state.ready:
            return f"the copy of the key topic has not caught up, {state.behind} records are missing"
        limit = self.settings.max_staleness_s
        if limit and state.staleness_s > limit:
            return f"no word from the brokers for {state.staleness_s:.0f} s, the limit is {limit} s"
        return None

    def _degraded(self) -> str | None:
        view = self._reader.state().degraded() if self._open else None
        return joined(self.keys.degraded(), view, self._disk.degraded())

    def _allocate_metrics(self) -> None:
        """The files through which several workers share their metrics are mapped, and grow now and then."""
        try:
            allocate_metrics()
            self._cramped = False
        except OSError as error:
            if not self._cramped:
                log.error("the metrics of this worker have no room on the disk", reason=str(error))
            self._cramped = True

    def _try_open(self) -> None:
        with contextlib.suppress(NotReady):
            self._reader.open(wait_s=0.0)
            self._open = True

    async def _watch(self) -> None:
        while True:
            try:
                if not self._open:
                    self._try_open()
                if self._open:
                    state = self._reader.state()
                    self._live = state.live
                    gauges.show(state)
            except KeymillError as error:
                log.error("the view cannot be read", reason=str(error))
                self._reader.close()  # it is opened anew: another environment may lie there now
                self._open = self._live = False
            self.keys.show()
            self._disk.degraded()
            self._allocate_metrics()
            if self._standing is not None:
                self._standing.write(Standing(waits_for=self.readiness.reason(), keks=self.keys.held))
                self._standing.touch()
            await asyncio.sleep(WATCH_S if self._open else OPEN_RETRY_S)


async def _sweep(used: UsedTokens) -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        try:
            await asyncio.to_thread(used.sweep, wall_clock_ms())
        except Unavailable as error:
            log.warning("expired tokens are not forgotten yet", reason=str(error))
