"""Hypothesis profiles: `dev` draws a seed and prints it, `ci` is deterministic, `long` searches for minutes."""

import os
import secrets

import pytest
from hypothesis import HealthCheck, settings

_QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large)

settings.register_profile("dev", print_blob=True, deadline=None, suppress_health_check=_QUIET)
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True, database=None)
settings.register_profile("long", parent=settings.get_profile("dev"), max_examples=5000)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev")
settings.load_profile(PROFILE)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Draw the seed here, so that the header can say how to run the same examples again."""
    if PROFILE != "ci" and getattr(config.option, "hypothesis_seed", None) is None:
        config.option.hypothesis_seed = str(secrets.randbelow(2**32))


def pytest_report_header(config: pytest.Config) -> str:
    """Name the profile and the seed."""
    seed = "derandomized" if PROFILE == "ci" else f"--hypothesis-seed={config.option.hypothesis_seed}"
    return f"hypothesis: HYPOTHESIS_PROFILE={PROFILE} {seed}"
