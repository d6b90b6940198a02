"""
Hypothesis profiles: how many examples a property is given is decided here and nowhere else.

`dev` draws a seed and prints it, `ci` has the same examples each time, `soak` (`make soak`) searches for minutes.
"""

import os
import secrets
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from keymill.kafka import authentication

EXAMPLES, STEPS = 100, 60
SOAK = 4
"""How many times the examples a search takes, the machines' histories being twice as long."""

_QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large)

settings.register_profile(
    "dev",
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    print_blob=True,
    deadline=None,
    suppress_health_check=_QUIET,
)
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True, database=None)
settings.register_profile(
    "soak", parent=settings.get_profile("dev"), max_examples=SOAK * EXAMPLES, stateful_step_count=2 * STEPS
)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev")
settings.load_profile(PROFILE)


@pytest.fixture(autouse=True, scope="module")
def _keys_of_one_module() -> Iterator[None]:
    """Forget the installation that a module's tests worked for."""
    yield
    authentication.install(None)
    authentication.forget_older()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Draw the seed here, so that the header can say how to run the same examples again."""
    if PROFILE != "ci" and getattr(config.option, "hypothesis_seed", None) is None:
        config.option.hypothesis_seed = str(secrets.randbelow(2**32))


def pytest_report_header(config: pytest.Config) -> str:
    """Name the profile and the seed."""
    seed = "derandomized" if PROFILE == "ci" else f"--hypothesis-seed={config.option.hypothesis_seed}"
    return f"hypothesis: HYPOTHESIS_PROFILE={PROFILE} {seed}"
