"""A view's state as metrics, for every program that keeps one."""

from keymill import telemetry
from keymill.snapshot.state import ViewState


def show(state: ViewState) -> None:
    """Set the gauges; call about once a second."""
    telemetry.VIEW_READY.set(state.ready)
    telemetry.VIEW_STALENESS.set(state.staleness_s)
    telemetry.VIEW_STOPPED.set(state.stopped is not None)
    telemetry.VIEW_BEHIND.set(state.behind)
    telemetry.VIEW_STALE.set(state.stale)
    telemetry.QUARANTINED.set(state.quarantined)
