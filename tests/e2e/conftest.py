"""One `keymill up` for all e2e tests that only look at it; a test that kills or stops things starts its own.

It ends with the last of them: idle programs and brokers cost the tests behind a fifth of a machine.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from keymill.kafka.authentication import install
from keymill.kms.record_keys import record_keys_of
from keymill.ops.demo import browser, media
from keymill.ops.demo.stack import Stack
from tests.e2e.rig import Rig, rig_of
from tests.e2e.up import keymill_up


@pytest.fixture(scope="package")
def up() -> Iterator[Stack]:
    """A running `keymill up`."""
    with keymill_up() as stack:
        yield stack


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One broker and one history for all tests of programs of their own."""
    with rig_of(tmp_path_factory.mktemp("cluster")) as rig:
        yield rig


@pytest.fixture
def rig(cluster: Rig) -> Iterator[Rig]:
    """The cluster, whose keys this process has; whatever a test started is gone after it."""
    install(record_keys_of(cluster.data / "keys.json"))
    try:
        yield cluster
    finally:
        cluster.end()


@pytest.fixture(scope="session")
def film() -> media.Film:
    """The clear film."""
    return media.prepare()


@pytest.fixture(scope="session")
def chromium() -> Path:
    """The machine's Chromium; a machine without one fails the test."""
    found = browser.find_chromium()
    assert found is not None, "no Chromium: apt-get install chromium, or set KEYMILL_CHROMIUM"
    return found
