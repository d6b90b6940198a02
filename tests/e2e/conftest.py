"""One `keymill up` for all e2e tests that only look at it; a test that kills or stops things starts its own."""

from collections.abc import Iterator

import pytest

from keymill.ops.demo.stack import Stack
from tests.e2e.up import keymill_up


@pytest.fixture(scope="session")
def up() -> Iterator[Stack]:
    """A running `keymill up`."""
    with keymill_up() as stack:
        yield stack
