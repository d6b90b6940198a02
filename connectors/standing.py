"""What a running connector says of itself: /healthz, /readyz, /metrics on a port of its own, and reports."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.applications import Starlette

from connectors.pulse import Pulse
from keymill.config import ConnectSettings
from keymill.disk import DiskSpace
from keymill.http.health import STOPPING, Readiness, health_routes
from keymill.http.server import ServingThread, dress, listen, url_of
from keymill.kafka.reporting import Observation, reporter_of


@contextmanager
def standing(name: str, settings: ConnectSettings, stop: threading.Event, pulse: Pulse) -> Iterator[str]:
    """Serve and report while the block runs, at the URL that it gets: ready while it keeps up, until *stop* is set."""
    disk = DiskSpace(settings.data, settings.min_free_mib)
    readiness = Readiness(lambda: STOPPING if stop.is_set() else None, pulse.reason, degraded=disk.degraded)

    def observe() -> Observation:
        disk.degraded()
        return pulse.observe(readiness.reason())

    bound = listen(settings.host, settings.connect_port)
    web = dress(Starlette(routes=health_routes(readiness)), program=f"connect-{name}")
    served = ServingThread(web, settings=settings, bound=bound).start()
    try:
        with reporter_of(settings, f"connect-{name}", observe, port=settings.connect_port):
            yield url_of(bound, settings)
    finally:
        served.close()
