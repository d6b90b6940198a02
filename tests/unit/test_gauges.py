"""A view's state can be seen from outside, also when its follower has ended for good."""

import pytest
from prometheus_client import REGISTRY

from keymill.snapshot import gauges
from keymill.snapshot.state import Heartbeat, boot_id, view_state


def test_a_retry_does_not_hide_that_a_view_stopped() -> None:
    """The successor of a follower that stopped says so until it reads: the page does not come and go with each try."""
    beat = Heartbeat(environment=0, boot=boot_id(), ready=True, stopped="the topic was created anew")
    state = view_state(beat, {})
    gauges.show(state)
    assert 1.0 == REGISTRY.get_sample_value("keymill_view_stopped")
    assert state.error is None and "created anew" in (state.degraded() or "")


@pytest.mark.parametrize(("error", "stopped"), [(None, 0.0), ("the topic was created anew", 1.0)])
def test_a_view_that_stopped_for_good_pages(error: str | None, stopped: float) -> None:
    """It is served from on, so /readyz stays as it is and the gauge says that nothing new will come."""
    beat = Heartbeat(environment=0, boot=boot_id(), ready=True, quarantined=3, stale=2, error=error)
    gauges.show(view_state(beat, {}))
    shown = [
        REGISTRY.get_sample_value(f"keymill_view_{name}")
        for name in ("ready", "stopped", "quarantined", "stale", "staleness_seconds")
    ]
    assert [1.0, stopped, 3.0, 2.0, float("inf")] == shown
