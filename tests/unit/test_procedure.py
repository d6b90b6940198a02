"""The license procedure over a real snapshot: who gets which keys, and how everybody else is refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proxy_rig import ProxyRig, challenge


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[ProxyRig]:
    """A proxy that has caught up and knows an asset `film`."""
    made = ProxyRig(tmp_path)
    made.ingest("film", "SD", "HD", "AUDIO")
    yield made
    made.close()


def test_asked_keys_are_served(rig: ProxyRig) -> None:
    """A valid token gets exactly the keys it asked for, as they were derived."""
    asked = [rig.kid("film", "HD"), rig.kid("film", "AUDIO")]
    response = rig.clearkey("film", *asked)
    assert {kid: rig.clear[kid] for kid in asked} == rig.keys_of(response)
    assert response.json()["type"] == "temporary"
    assert response.headers["access-control-allow-origin"] == "*"
    assert float(response.headers["x-keymill-staleness"]) < 1
